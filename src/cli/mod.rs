//! The command line: what each subcommand says and prints, one file each.
//!
//! Results go to standard output, everything else to standard error, one clear sentence per fault. Exit codes:
//! 0 done; 1 it did not work; 2 the command line is wrong; 3 the daemon is not running (`status`);
//! 4, 65, 75 see `send`; 78 only a change of the configuration can help, and starting again would fail the same way.

mod ask;
mod calls;
mod cause;
mod check;
mod demo;
mod log;
mod page;
mod pages;
mod queue;
mod record;
mod run;
mod send;
mod status;
mod store;
mod top;
mod trace;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, ConfigError, DEFAULT_FILE, Environment, Loaded, Needs, Overrides, Secret};
use crate::edge::process;

/// Exit code for faults that only a person can mend: `EX_CONFIG` of sysexits.h.
pub const EX_CONFIG: u8 = 78;

/// The program's name.
const NAME: &str = "freeswitch-zammad";

/// The package's version, and the commit that it was built from where the build was told one.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| match option_env!("GIT_COMMIT") {
        Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Tells Zammad about the calls on a FreeSWITCH: who calls, who answered, which were missed.
#[derive(Parser)]
#[command(name = NAME, version = version(), about, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    /// Listen to the switch and tell Zammad, until stopped
    Run,
    /// Check the configuration; with --online also the switch's login and Zammad's token
    Check(check::Check),
    /// Show the whole road with a switch and a Zammad of our own; needs nothing, takes half a minute
    Demo(demo::Demo),
    /// How the daemon, its links and its queue are
    Status,
    /// The calls that are going on
    Calls,
    /// Calls, links, Zammad and queue, live in the terminal
    Top(top::Top),
    /// A link to the status page, good once, that shows numbers and puts dead letters back
    Page,
    /// Look into the queue; replay, hold, delete, export, import
    Queue(queue::Queue),
    /// Why a call was told as it was: what each leg was taken for, what each event meant, what was sent
    Explain(queue::Explain),
    /// Stop posting to Zammad; events wait until `resume`, also over a restart
    Pause(queue::Pause),
    /// Go on posting
    Resume(queue::Pause),
    /// How much the running daemon logs; with LEVEL, from now on so much
    Log(log::Log),
    /// Tell Zammad of a call that is on none of the switches: for scripts beside any telephone system
    #[command(after_help = send::CODES)]
    Send(send::Send),
    /// Whether the store is sound, and what can be read of a damaged one
    Store(store::Store),
    /// What would be posted for a recorded event stream: one JSON object per line
    Trace(trace::Trace),
    /// Write what the switch sends to a file, for a bug report or for trace
    Record(record::Record),
    /// The hangup causes and what they become
    Cause(cause::Cause),
    /// Write the manual pages and the shells' completions, for a package
    #[command(hide = true)]
    Pages(pages::Pages),
}

#[derive(Args, Clone)]
struct Common {
    /// Configuration file [default: /etc/freeswitch-zammad/config.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Zammad's CTI endpoint, as its settings show it: https://HOST/api/v1/cti/TOKEN; other users can see it in
    /// the process list
    #[arg(long, global = true, value_name = "URL", help_heading = "Configuration")]
    zammad_url: Option<Secret>,
    /// File that holds Zammad's CTI endpoint
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    zammad_url_file: Option<PathBuf>,
    /// Whether Zammad's certificate is checked
    #[arg(long, global = true, value_name = "BOOL", help_heading = "Configuration")]
    zammad_verify_ssl: Option<bool>,
    /// FreeSWITCH's event socket [default: 127.0.0.1:8021]
    #[arg(long, global = true, value_name = "HOST:PORT", help_heading = "Configuration")]
    freeswitch: Option<String>,
    /// Log in as this directory user instead of with the socket's own password
    #[arg(long, global = true, value_name = "USER@DOMAIN", help_heading = "Configuration")]
    freeswitch_user: Option<String>,
    /// The event socket's password; other users can see it in the process list
    #[arg(long, global = true, value_name = "PW", help_heading = "Configuration")]
    freeswitch_password: Option<Secret>,
    /// File that holds the event socket's password
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    freeswitch_password_file: Option<PathBuf>,
    /// Where the queue is kept [default: /var/lib/freeswitch-zammad]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Configuration")]
    state_dir: Option<PathBuf>,
    /// Two ISO letters: whose way of writing numbers the switch uses [default: DE]
    #[arg(long, global = true, value_name = "CC", help_heading = "Configuration")]
    country: Option<String>,
    /// Answer in JSON, one object a line; what failed is told as one with an `error`
    #[arg(long, global = true)]
    json: bool,
}

/// Why a command did not work: one sentence, and the exit code.
struct Failure {
    why: String,
    code: u8,
    /// The same may work after a while, without anybody doing anything.
    later: bool,
}

impl Failure {
    fn new(why: impl Display) -> Self {
        Self { why: why.to_string(), code: 1, later: false }
    }

    fn usage(why: impl Display) -> Self {
        Self { why: why.to_string(), code: 2, later: false }
    }

    fn later(why: impl Display) -> Self {
        Self { later: true, ..Self::new(why) }
    }

    fn permanent(why: impl Display) -> Self {
        Self { why: why.to_string(), code: EX_CONFIG, later: false }
    }
}

impl From<ConfigError> for Failure {
    fn from(why: ConfigError) -> Self {
        Self::permanent(why)
    }
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(why) = process::keep_private() {
        say(&format!("freeswitch-zammad: warning: a crash may leave a core file: {why}"));
    }
    let common = &cli.common;
    let done = match cli.command {
        Command::Run => run::run(common),
        Command::Check(check) => check::run(&check, common),
        Command::Demo(demo) => demo::run(&demo),
        Command::Status => status::run(common),
        Command::Calls => calls::run(common),
        Command::Top(top) => top::run(&top, common),
        Command::Page => page::run(common),
        Command::Queue(queue) => queue::run(&queue, common),
        Command::Explain(call) => queue::explain(&call, common),
        Command::Pause(which) => queue::pause(&which, true, common),
        Command::Resume(which) => queue::pause(&which, false, common),
        Command::Log(log) => log::run(&log, common),
        Command::Send(send) => send::run(&send, common),
        Command::Store(store) => store::run(&store, common),
        Command::Trace(trace) => trace::run(&trace, common),
        Command::Record(record) => record::run(&record, common),
        Command::Cause(cause) => cause::run(&cause, common),
        Command::Pages(pages) => pages::run(&pages),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            if common.json {
                print(&serde_json::json!({ "error": failure.why }).to_string());
            }
            say(&format!("freeswitch-zammad: {}", failure.why));
            ExitCode::from(failure.code)
        }
    }
}

impl Common {
    fn overrides(&self) -> Overrides {
        Overrides {
            config: self.config.clone(),
            zammad_url: self.zammad_url.clone(),
            zammad_url_file: self.zammad_url_file.clone(),
            zammad_verify_ssl: self.zammad_verify_ssl,
            freeswitch: self.freeswitch.clone(),
            freeswitch_user: self.freeswitch_user.clone(),
            freeswitch_password: self.freeswitch_password.clone(),
            freeswitch_password_file: self.freeswitch_password_file.clone(),
            state_dir: self.state_dir.clone(),
            country: self.country.clone(),
        }
    }

    /// The configuration, complete as far as the command needs it.
    fn load(&self, needs: Needs) -> Result<Loaded, ConfigError> {
        let environment = Environment::from_os(std::env::vars_os());
        Config::load_for(needs, &self.overrides(), &environment, Path::new(DEFAULT_FILE))
    }
}

/// One line to standard error.
#[expect(clippy::print_stderr, reason = "the command line's own voice")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// One line to standard output; a reader that has gone away (`| head`) ends the program quietly.
fn print(line: &str) {
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Returns on SIGTERM or SIGINT.
async fn asked_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can always be watched");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can always be watched");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A runtime for commands that talk to somebody.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|why| Failure::new(format!("the runtime cannot start: {why}")))
}
