//! `send`: tells Zammad of a call that is on none of the switches, for scripts beside any telephone system.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::ask::{question, single};
use super::{Common, EX_CONFIG, Failure, print, runtime, say};
use crate::config::{Config, Needs, ZammadConfig};
use crate::cti::{
    Answer, Builder, Call, CallId, Cause, CtiError, Done, Event, Hangup, Inbound, Invalid, NewCall, Numbers,
    Outbound,
};
use crate::edge::answers;
use crate::edge::control::{self, Request};

/// Zammad's rules reject the caller.
const REJECTED: u8 = 4;
/// Telling it again makes no sense: `EX_DATAERR` of sysexits.h.
const WRONG: u8 = 65;
/// Try again later: `EX_TEMPFAIL` of sysexits.h.
const LATER: u8 = 75;

/// For each help of `send`.
pub(super) const CODES: &str = "\
Exit codes:
  0   told, or known already; with --queue: on disk, and told by and by
  4   the caller is on Zammad's block list; the reason is on standard
      output. Send the hangup all the same
  75  not told now: send it again later, that does no harm
  65  refused, or the call is not known, or the hangup of a missed call
      that may have arrived: do not repeat it
  78  the configuration is wrong, here or in Zammad
  2   the arguments are wrong: an empty or over-long text, a user on the
      answer of an outbound call
  1   anything else that did not work";

#[derive(Args)]
pub(super) struct Send {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct How {
    /// Through the queue of the daemon on this machine, which delivers it at least once and in order within the call;
    /// if none runs, into its stopped queue. The same event sent again is told once
    #[arg(long, global = true)]
    queue: bool,
    /// Which Zammad, where the configuration has several
    #[arg(long, global = true, value_name = "NAME")]
    zammad: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// A call begins
    #[command(after_help = CODES)]
    NewCall {
        #[command(flatten)]
        call: CallArgs,
        /// Who is called (inbound) or calls (outbound), as it is to be shown; may be given several times
        #[arg(long)]
        user: Vec<String>,
        /// Zammad's queue: decides which agents see the call. (The CTI's `queue`; `--queue` is ours)
        #[arg(long, value_name = "QUEUE")]
        queue_name: Option<String>,
    },
    /// Somebody is connected to the outside party
    #[command(after_help = CODES)]
    Answer {
        #[command(flatten)]
        call: CallArgs,
        /// The phone number of the agent for whom the customer's screen is to open; inbound only
        #[arg(long, visible_alias = "answeringNumber", value_name = "NUMBER")]
        answering_number: Option<String>,
        /// Who answered, as it is to be shown; `voicemail` is the mailbox; inbound only
        #[arg(long)]
        user: Option<String>,
        /// With --queue: which leg answered. Without it a second answer by the same user is taken for a repeat
        #[arg(long, requires = "queue", value_name = "ID")]
        leg: Option<String>,
    },
    /// The call ends
    #[command(after_help = CODES)]
    Hangup {
        #[command(flatten)]
        call: CallArgs,
        /// Why: normalClearing, busy, cancel, noAnswer, congestion, notFound, forwarded
        #[arg(long)]
        cause: Cause,
        /// The call was answered: then the hangup may be repeated when it is not known whether it arrived
        #[arg(long)]
        answered: bool,
    },
}

#[derive(Args)]
struct CallArgs {
    /// The call's name, the same in each of its events, at most 250 characters
    #[arg(long, visible_alias = "callId", value_name = "ID")]
    call_id: String,
    /// Whether a customer calls us, or we call a customer; the same in each of the call's events
    #[arg(long, value_enum)]
    direction: Way,
    /// Who calls: digits with the country's code, an extension, or `anonymous`
    #[arg(long, value_name = "NUMBER")]
    from: String,
    /// Who is called
    #[arg(long, value_name = "NUMBER")]
    to: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    In,
    Out,
}

/// What came of it.
enum Told {
    Now(Done),
    /// Its position in the queue, unless it was known; and whether a daemon works on it.
    Queued {
        seq: Option<u64>,
        running: bool,
    },
}

pub(super) fn run(send: &Send, common: &Common) -> Result<ExitCode, Failure> {
    let event = event(&send.command).map_err(Failure::usage)?;
    let answered = matches!(send.command, Command::Hangup { answered: true, .. });
    if send.how.queue {
        let leg = match &send.command {
            Command::Answer { leg, .. } => leg.clone(),
            Command::NewCall { .. } | Command::Hangup { .. } => None,
        };
        return match queue(&send.how, &event, leg, answered, common) {
            Ok(told) => Ok(told.show(common.json)),
            Err(why) if why.later => Ok(failed(&why.why, LATER, None, common.json)),
            Err(why) => Err(why),
        };
    }
    let loaded = common.load(Needs::Zammads)?;
    for warning in &loaded.warnings {
        say(&format!("warning: {warning}"));
    }
    let zammad = which(&loaded.config, send.how.zammad.as_deref())?;
    let client = Builder::from(zammad).build().map_err(Failure::permanent)?;
    match runtime()?.block_on(client.tell(&event, answered)) {
        Ok(done) => Ok(Told::Now(done).show(common.json)),
        Err(why) => {
            let code = match &why {
                CtiError::Invalid(_) => 2,
                CtiError::Away { .. } | CtiError::Unsure { repeatable: true, .. } => LATER,
                CtiError::CallUnknown(_)
                | CtiError::Refused(_)
                | CtiError::Unsure { repeatable: false, .. } => WRONG,
                CtiError::Misconfigured(_) => EX_CONFIG,
            };
            Ok(failed(&why.to_string(), code, Some(&why), common.json))
        }
    }
}

/// The library's own types: what they refuse is refused here.
fn event(command: &Command) -> Result<Event, Invalid> {
    match command {
        Command::NewCall { call, user, queue_name } => {
            let begins = if user.is_empty() { NewCall::default() } else { NewCall::default().users(user) };
            let begins = match queue_name {
                Some(queue) => begins.queue(queue),
                None => begins,
            };
            match call.direction {
                Way::In => call.inbound()?.new_call(begins),
                Way::Out => call.outbound()?.new_call(begins),
            }
        }
        Command::Answer { call, answering_number, user, leg: _ } => match call.direction {
            Way::In => {
                let answer = Answer::default();
                let answer = match answering_number {
                    Some(number) => answer.answering_number(number),
                    None => answer,
                };
                let answer = match user {
                    Some(user) => answer.user(user),
                    None => answer,
                };
                call.inbound()?.answer(answer)
            }
            Way::Out if answering_number.is_some() => Err(Invalid::NotOutbound { field: "answeringNumber" }),
            Way::Out if user.is_some() => Err(Invalid::NotOutbound { field: "user" }),
            Way::Out => call.outbound()?.answer(Answer::default()),
        },
        Command::Hangup { call, cause, answered: _ } => {
            let hangup = Hangup::new(*cause);
            match call.direction {
                Way::In => call.inbound()?.hangup(hangup),
                Way::Out => call.outbound()?.hangup(hangup),
            }
        }
    }
}

impl CallArgs {
    fn inbound(&self) -> Result<Call<Inbound>, Invalid> {
        Call::inbound(self.id()?, self.numbers())
    }

    fn outbound(&self) -> Result<Call<Outbound>, Invalid> {
        Call::outbound(self.id()?, self.numbers())
    }

    fn id(&self) -> Result<CallId, Invalid> {
        self.call_id.parse()
    }

    fn numbers(&self) -> Numbers<'_> {
        Numbers { from: &self.from, to: &self.to }
    }
}

fn which<'c>(config: &'c Config, zammad: Option<&str>) -> Result<&'c ZammadConfig, Failure> {
    let there = config.zammads.iter().map(|z| z.name.as_str());
    let name = answers::one_meant(there, zammad).map_err(Failure::usage)?;
    let named = config.zammads.iter().find(|z| z.name.as_str() == name);
    Ok(named.expect("a name of this configuration"))
}

fn queue(
    how: &How,
    event: &Event,
    leg: Option<String>,
    answered: bool,
    common: &Common,
) -> Result<Told, Failure> {
    let body: Value = serde_json::from_str(&event.body()).map_err(Failure::new)?;
    let given = control::Send { zammad: how.zammad.clone(), body, leg, answered };
    let answer = single(question(common, Request::Send(given))?)?;
    Ok(Told::Queued { seq: answer["seq"].as_u64(), running: answer["running"] == true })
}

impl Told {
    fn show(self, as_json: bool) -> ExitCode {
        let (shown, words, code) = match self {
            Self::Now(Done::Accepted) => (json!({ "result": "accepted" }), "accepted".to_owned(), 0),
            Self::Now(Done::AlreadyKnown) => {
                (json!({ "result": "already-known" }), "already known".to_owned(), 0)
            }
            Self::Now(Done::Rejected { reason }) => {
                let words = format!("rejected: {reason}");
                (json!({ "result": "rejected", "reason": reason }), words, REJECTED)
            }
            Self::Now(Done::Dial { caller_id, number }) => {
                let words = format!("dial: number={number} caller_id={caller_id}");
                (json!({ "result": "dial", "caller_id": caller_id, "number": number }), words, 0)
            }
            Self::Queued { seq: None, .. } => {
                (json!({ "result": "already-queued" }), "already queued".to_owned(), 0)
            }
            Self::Queued { seq: Some(seq), running } => {
                if !running {
                    say("the daemon is not running; Zammad is told once it runs");
                }
                (json!({ "result": "queued", "seq": seq }), format!("queued: {seq}"), 0)
            }
        };
        print(&if as_json { shown.to_string() } else { words });
        ExitCode::from(code)
    }
}

/// Says why it was not told, and with JSON whether it should be sent again.
fn failed(why: &str, code: u8, error: Option<&CtiError>, as_json: bool) -> ExitCode {
    if as_json {
        let mut shown = json!({ "error": why, "retry": code == LATER });
        if let Some(after) = error.and_then(CtiError::retry_after) {
            shown["retry_after_s"] = after.as_secs().into();
        }
        print(&shown.to_string());
    }
    say(&format!("freeswitch-zammad: {why}"));
    ExitCode::from(code)
}
