//! What the daemon says of itself, for a terminal, a file of JSON lines, or systemd's journal.
//!
//! Every event has one meaning and a name that stays (`link_lost`), besides its sentence, which may be worded anew. What
//! it is about stands in fields, and in those of the spans around it: `call` is the call's id, so that one call's lines
//! can be picked out.
//!
//! Telephone numbers stand below INFO only; the token and the password nowhere. Our own lines are written that way.
//! What others put into them is masked here, once for every look, so that no line depends on what a peer says.

mod entry;
mod journal;
mod look;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tracing::{Event, Subscriber, span};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, reload};

use self::entry::{Entry, SpanFields};
use self::journal::Journal;
use super::mask;
use crate::config::{Config, LogFormat, LogLevel, Unfit};

pub use self::look::Look;

/// Starts logging to standard error at `level` (EnvFilter directives, e.g. `info` or `freeswitch_zammad=debug`);
/// `secrets` are masked.
///
/// # Errors
/// One sentence, if the level cannot be read, or the journal is wanted and not there.
pub fn start(level: &str, format: LogFormat, secrets: Vec<String>) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let secrets = Secrets::new(secrets);
    let (look, to) = sink(format)?;
    let lines = Lines { to, look, secrets: secrets.clone() };
    // Where somebody else, a test, has set one up, theirs stays.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
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
        running.secrets.add(more);
    }
}

/// Everything secret in a configuration, each alone.
#[must_use]
pub fn secrets_of(config: &Config) -> Vec<String> {
    let passwords = config.switches.iter().map(|switch| switch.password.expose());
    let tokens = config.zammads.iter().map(|zammad| zammad.url.expose_token());
    let rest = config.zammads.iter().filter_map(|zammad| zammad.rest_token.as_ref().map(|t| t.expose()));
    passwords.chain(tokens).chain(rest).map(str::to_owned).collect()
}

/// Each event as it looks, whole, given to `to`: without `secrets`, and without numbers from INFO up.
pub fn layer<S, W>(to: W, look: Look, secrets: Vec<String>) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(&[u8]) + Send + Sync + 'static,
{
    Lines { to, look, secrets: Secrets::new(secrets) }
}

/// The log of this process.
struct Running {
    level: Mutex<String>,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
    secrets: Secrets,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

type Sink = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Where the lines go, and how they look there.
fn sink(format: LogFormat) -> Result<(Look, Sink), String> {
    // journald stamps its lines itself.
    let journald_reads = std::env::var_os("JOURNAL_STREAM").is_some();
    let plain = Look::Plain { colours: io::stderr().is_terminal(), time: !journald_reads };
    let stderr: Sink = Box::new(|line| drop(io::stderr().lock().write_all(line)));
    let journal = match format {
        LogFormat::Plain => return Ok((plain, stderr)),
        LogFormat::Json => return Ok((Look::Json, stderr)),
        LogFormat::Auto if !journal::is_stderr() => return Ok((plain, stderr)),
        LogFormat::Auto | LogFormat::Journald => Journal::connect(),
    };
    match (journal, format) {
        (Ok(journal), _) => Ok((Look::Journal, Box::new(move |entry| journal.send(entry)))),
        // Its lines are read from standard error as well, though without their fields.
        (Err(_), LogFormat::Auto) => Ok((plain, stderr)),
        (Err(why), _) => Err(format!(
            "[log] format = \"journald\": the journal cannot be reached: {why}; write \"auto\", or \"plain\""
        )),
    }
}

fn parse(level: &str) -> Result<EnvFilter, String> {
    // To EnvFilter alone a slip of the pen is the name of a module.
    let level: LogLevel = level.parse().map_err(|why: Unfit| why.to_string())?;
    EnvFilter::try_new(level.as_str()).map_err(|why| format!("{level} is no log level: {why}"))
}

/// What is masked; more may come.
#[derive(Clone)]
struct Secrets(Arc<RwLock<Vec<String>>>);

impl Secrets {
    fn new(secrets: Vec<String>) -> Self {
        let all = Self(Arc::default());
        all.add(secrets);
        all
    }

    fn add(&self, more: Vec<String>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for secret in more {
            // As it stands in what somebody printed for debugging.
            let escaped = secret.escape_debug().to_string();
            for form in [escaped, secret] {
                if !all.contains(&form) {
                    all.push(form);
                }
            }
        }
        // One may be part of another.
        all.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }

    fn masked(&self, text: &str) -> String {
        mask::secrets(text, &self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Lines<W> {
    to: W,
    look: Look,
    secrets: Secrets,
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(&[u8]) + Send + Sync + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let fields = SpanFields::of(|visit| attributes.record(visit), &self.secrets);
            // Another look at the same events says the same of it.
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let more = SpanFields::of(|visit| values.record(visit), &self.secrets);
            match span.extensions_mut().get_mut::<SpanFields>() {
                Some(fields) => fields.extend(more),
                None => debug_assert!(false, "a span begins before it is recorded in"),
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut entry = Entry::of(event, &self.secrets);
        for span in
            context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(fields) = span.extensions().get::<SpanFields>() {
                entry.within(span.name(), fields);
            }
        }
        (self.to)(&self.look.render(&entry));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tracing::{debug, info, info_span, trace, warn};

    use super::*;

    #[test]
    fn a_line_shows_what_its_level_may() {
        let text = said(Look::Plain { colours: false, time: false }, events);
        let expected = [
            " INFO post{zammad=\"main ****\" call=82ac7419-a888-417e-88d9-a0bd613f105d}: it said **** seq=1234567 at=-7 held=true said=\"+****\\nINFO forged\"",
            " WARN post{zammad=\"main ****\" call=82ac7419-a888-417e-88d9-a0bd613f105d}: refused reason=from **** with ****\\n",
            "DEBUG post{zammad=\"main 030555100\" call=82ac7419-a888-417e-88d9-a0bd613f105d}: **** number=\"4915112345678\"",
            "TRACE post{zammad=\"main 030555100\" call=82ac7419-a888-417e-88d9-a0bd613f105d}: 4915112345678 and ****",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn json_has_a_field_for_each_and_hides_the_same() {
        let text = said(Look::Json, events);
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let time = line.as_object_mut().unwrap().remove("time").unwrap();
            assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{time}");
            assert_eq!(line["call"], "82ac7419-a888-417e-88d9-a0bd613f105d");
            assert!(line["target"].as_str().unwrap().ends_with("log::tests"));
        }
        assert_eq!(
            lines[0],
            json!({
                "level": "INFO", "event": "it_spoke", "message": "it said ****", "target": lines[0]["target"],
                "zammad": "main ****", "call": lines[0]["call"], "seq": 1_234_567, "at": -7, "held": true,
                "said": "+****\nINFO forged",
            })
        );
        assert_eq!(lines[1]["reason"], "from **** with ****\n");
        assert_eq!(lines[1].get("event"), None, "what has no name of its own");
        assert_eq!(lines[2]["number"], "4915112345678");
        assert_eq!(lines[2]["message"], "****");
    }

    #[test]
    fn the_journal_gets_each_field_and_hides_the_same() {
        let entries = entries(Look::Journal, events);
        let first = String::from_utf8(entries[0].clone()).unwrap();
        for line in [
            "PRIORITY=6",
            "SYSLOG_IDENTIFIER=freeswitch-zammad",
            "MESSAGE=it said **** seq=1234567 at=-7 held=true said=\"+****\\nINFO forged\" zammad=\"main ****\" call=82ac7419-a888-417e-88d9-a0bd613f105d",
            "FSZ_EVENT=it_spoke",
            "FSZ_CALL=82ac7419-a888-417e-88d9-a0bd613f105d",
            "FSZ_SEQ=1234567",
        ] {
            assert!(first.lines().any(|l| l == line), "{line} is not in {first}");
        }
        // A value with a line's end in it goes with its length, so that it cannot pass for another field.
        let said = b"FSZ_SAID\n\x11\0\0\0\0\0\0\0+****\nINFO forged\n";
        assert!(entries[0].windows(said.len()).any(|bytes| bytes == said), "{first}");
        assert!(String::from_utf8_lossy(&entries[1]).contains("PRIORITY=4\n"));
        assert!(String::from_utf8_lossy(&entries[2]).contains("FSZ_NUMBER=4915112345678\n"));
    }

    #[test]
    fn a_secret_is_hidden_however_it_is_written() {
        let secret = "a\"b\\c\n0123456";
        for look in [Look::Plain { colours: false, time: false }, Look::Json, Look::Journal] {
            let all = layer_of(look, vec![secret.into()], || {
                info!(whole = secret, debugged = ?secret, shown = %secret, "{secret} {secret:?}");
                debug!(whole = secret, debugged = ?Some(secret), shown = %secret, "{secret} {secret:?}");
            });
            assert_eq!(all.len(), 2);
            for entry in all {
                let text = String::from_utf8_lossy(&entry).into_owned();
                assert!(
                    !text.contains("b\\\\c") && !text.contains("b\\c") && !text.contains("0123456"),
                    "{text}"
                );
                assert!(text.to_lowercase().contains("whole"), "{text}");
            }
        }
    }

    fn events() {
        let call = "82ac7419-a888-417e-88d9-a0bd613f105d";
        let _span = info_span!("post", zammad = "main 030555100", %call).entered();
        info!(
            name: "it_spoke",
            seq = 1_234_567_u64,
            at = -7_i64,
            held = true,
            said = "+4915112345678\nINFO forged",
            "it said {}",
            "tOken"
        );
        warn!(reason = %"from 030555100 with tOken\n", "refused");
        debug!(number = "4915112345678", "tOken");
        trace!("4915112345678 and tOken");
    }

    fn said(look: Look, say: impl FnOnce()) -> String {
        String::from_utf8(entries(look, say).concat()).unwrap()
    }

    fn entries(look: Look, say: impl FnOnce()) -> Vec<Vec<u8>> {
        layer_of(look, vec!["tOken".into()], say)
    }

    fn layer_of(look: Look, secrets: Vec<String>, say: impl FnOnce()) -> Vec<Vec<u8>> {
        let all: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let to = Arc::clone(&all);
        let layer = layer(move |entry: &[u8]| to.lock().unwrap().push(entry.to_vec()), look, secrets);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        std::mem::take(&mut *all.lock().unwrap())
    }
}
