//! The `freeswitch-zammad` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    freeswitch_zammad::cli::main()
}
