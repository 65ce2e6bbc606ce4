//! What a package installs beside the program, made from the command line itself: manual pages and completions.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::{Cli, Failure, NAME};

#[derive(Args)]
pub(super) struct Pages {
    /// Where the manual pages go, and the completions of bash, zsh and fish; made if it is not there
    dir: PathBuf,
}

pub(super) fn run(pages: &Pages) -> Result<ExitCode, Failure> {
    let dir = &pages.dir;
    write(dir).map_err(|why| Failure::new(format!("{}: {why}", dir.display())))?;
    Ok(ExitCode::SUCCESS)
}

/// `freeswitch-zammad.1`, one page for each subcommand, and a file for each shell, named as it wants them.
fn write(dir: &PathBuf) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)?;
    for shell in
        Shell::value_variants().iter().filter(|s| matches!(s, Shell::Bash | Shell::Zsh | Shell::Fish))
    {
        clap_complete::generate_to(*shell, &mut Cli::command(), NAME, dir)?;
    }
    Ok(())
}
