//! Where log lines go: standard error, for journald or a terminal.
//!
//! Telephone numbers stand below INFO only; the token and the password nowhere. Our own lines are written that way.
//! What others put into them is masked here, so that no line depends on what a peer says.

use std::fmt::{self, Debug};
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt as formatted, reload};

use super::mask;
use crate::config::Config;

/// Starts logging at `level` (EnvFilter directives, e.g. `info` or `freeswitch_zammad=debug`); `secrets` are masked.
///
/// # Errors
/// One sentence, if the level cannot be read.
pub fn start(level: &str, secrets: Vec<String>) -> Result<(), String> {
    let filter = parse(level)?;
    let (filter, handle) = reload::Layer::new(filter);
    let secrets = Secrets(Arc::new(RwLock::new(secrets)));
    let terminal = io::stderr().is_terminal();
    // journald stamps its lines itself.
    let time = std::env::var_os("JOURNAL_STREAM").is_none();
    let registry = tracing_subscriber::registry().with(filter);
    // Where somebody else, a test, has set one up, theirs stays.
    if registry.with(lines(io::stderr, secrets.clone(), terminal, time)).try_init().is_ok() {
        let set = move |filter: EnvFilter| handle.reload(filter).map_err(|why| why.to_string());
        let running = Running { level: Mutex::new(level.to_owned()), set: Box::new(set), secrets };
        // There was none, or `try_init` would have failed.
        let _ = RUNNING.set(running);
    }
    Ok(())
}

/// Changes what is logged by this process. Returns what was before.
///
/// # Errors
/// One sentence: the level cannot be read, or this process does not log.
pub fn set_level(level: &str) -> Result<String, String> {
    let running = RUNNING.get().ok_or("this process does not log")?;
    let mut now = running.level.lock().unwrap_or_else(PoisonError::into_inner);
    (running.set)(parse(level)?)?;
    Ok(std::mem::replace(&mut now, level.to_owned()))
}

/// What is logged now, if this process logs.
#[must_use]
pub fn level() -> Option<String> {
    RUNNING.get().map(|running| running.level.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// From now on these are masked as well.
pub fn add_secrets(more: Vec<String>) {
    if let Some(running) = RUNNING.get() {
        running.secrets.0.write().unwrap_or_else(PoisonError::into_inner).extend(more);
    }
}

/// The log of this process.
struct Running {
    level: Mutex<String>,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
    secrets: Secrets,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

/// What is masked; more may come.
#[derive(Clone)]
struct Secrets(Arc<RwLock<Vec<String>>>);

fn parse(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level)
        .map_err(|why| format!("{level:?} is no log level ({why}); write error, warn, info, debug or trace"))
}

/// Everything secret in a configuration, each alone.
#[must_use]
pub fn secrets_of(config: &Config) -> Vec<String> {
    let passwords = config.switches.iter().map(|switch| switch.password.expose());
    let tokens = config.zammads.iter().map(|zammad| zammad.url.expose_token());
    let rest = config.zammads.iter().filter_map(|zammad| zammad.rest_token.as_ref().map(|t| t.expose()));
    passwords.chain(tokens).chain(rest).map(str::to_owned).collect()
}

/// The lines as they are written to `to`: without `secrets`, and without numbers from INFO up.
pub fn layer<S, W>(to: W, secrets: Vec<String>, colours: bool, time: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    lines(to, Secrets(Arc::new(RwLock::new(secrets))), colours, time)
}

fn lines<S, W>(to: W, secrets: Secrets, colours: bool, time: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    let to = Quiet { to, secrets };
    let lines = || formatted::layer().with_writer(to.clone()).with_ansi(colours).with_target(false);
    let is_for_all = |level: &Level| *level <= Level::INFO;
    let for_all = filter_fn(move |about| about.is_span() || is_for_all(about.level()));
    let for_debugging = filter_fn(move |about| about.is_span() || !is_for_all(about.level()));
    let (masked, whole) = (lines().fmt_fields(Masked), lines());
    if time {
        masked.with_filter(for_all).and_then(whole.with_filter(for_debugging)).boxed()
    } else {
        let (masked, whole) = (masked.without_time(), whole.without_time());
        masked.with_filter(for_all).and_then(whole.with_filter(for_debugging)).boxed()
    }
}

/// Fields with the numbers in their texts masked. What is logged as a number is one of ours: a position, a count.
#[derive(Clone, Copy)]
struct Masked;

impl<'writer> FormatFields<'writer> for Masked {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, begun: false, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    begun: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn field(&mut self, field: &Field, value: &str) {
        let space = if std::mem::replace(&mut self.begun, true) { " " } else { "" };
        let written = match field.name() {
            "message" => write!(self.writer, "{space}{value}"),
            name => write!(self.writer, "{space}{name}={value}"),
        };
        self.result = self.result.and(written);
    }
}

impl Visit for Line<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, &mask::numbers(&format!("{value:?}")));
    }
}

/// Takes the secrets out of each line on its way.
#[derive(Clone)]
struct Quiet<W> {
    to: W,
    secrets: Secrets,
}

/// One line, which arrives whole.
struct QuietLine<W> {
    to: W,
    secrets: Secrets,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Quiet<W> {
    type Writer = QuietLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        QuietLine { to: self.to.make_writer(), secrets: self.secrets.clone() }
    }
}

impl<W: Write> Write for QuietLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let quiet = mask::secrets(
            &String::from_utf8_lossy(line),
            &self.secrets.0.read().unwrap_or_else(PoisonError::into_inner),
        );
        self.to.write_all(quiet.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::{debug, info, info_span, trace, warn};

    use super::*;

    #[test]
    fn a_line_shows_what_its_level_may() {
        let lines = Lines::default();
        let all = layer(lines.clone(), vec!["tOken".into()], false, false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(all), || {
            let _span = info_span!("post", zammad = "main 030555100").entered();
            info!(
                seq = 1_234_567_u64,
                at = -7_i64,
                held = true,
                said = "+4915112345678\nINFO forged",
                "it said {}",
                "tOken"
            );
            warn!(reason = %"from 030555100 with tOken", "refused");
            debug!(number = "4915112345678", "tOken");
            trace!("4915112345678 and tOken");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let expected = [
            " INFO post{zammad=\"main ****\"}: it said **** seq=1234567 at=-7 held=true said=\"+****\\nINFO forged\"",
            " WARN post{zammad=\"main ****\"}: refused reason=from **** with ****",
            "DEBUG post{zammad=\"main 030555100\"}: **** number=\"4915112345678\"",
            "TRACE post{zammad=\"main 030555100\"}: 4915112345678 and ****",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }
}
