//! `top`: the calls, the links, Zammad and the queue, live, until a key is pressed.

mod view;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::ask::{running, single};
use super::{Common, Failure, runtime};
use crate::config::Needs;
use crate::edge::clock;
use crate::edge::control::Request;
use view::Shown;

/// How often the daemon is asked.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct Top {
    /// Show telephone numbers whole
    #[arg(long)]
    reveal: bool,
}

pub(super) fn run(top: &Top, common: &Common) -> Result<ExitCode, Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("top needs a terminal; `status` and `calls` say it once"));
    }
    let state_dir = common.load(Needs::Calls)?.config.state_dir;
    let runtime = runtime()?;
    let failed = |why: std::io::Error| Failure::new(format!("the terminal fails: {why}"));
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let mut shown = Shown::new(top.reveal);
    let done = loop {
        shown.take(ask(&runtime, &state_dir, shown.reveal));
        if let Err(why) = terminal.draw(|frame| view::draw(frame, &shown, clock::now())) {
            break Err(failed(why));
        }
        match key() {
            Ok(None) => {}
            Ok(Some(Key::Quit)) => break Ok(ExitCode::SUCCESS),
            Ok(Some(Key::Reveal)) => shown.reveal = !shown.reveal,
            Err(why) => break Err(failed(why)),
        }
    };
    ratatui::restore();
    done
}

/// What the daemon says, or why it does not.
fn ask(runtime: &Runtime, state_dir: &Path, reveal: bool) -> Result<Value, String> {
    let answer = runtime.block_on(running(state_dir, &Request::Snapshot { reveal }));
    match answer.map_err(|failure| failure.why)? {
        Some(answer) => single(answer).map_err(|failure| failure.why),
        None => Err("the daemon is not running; waiting for it".to_owned()),
    }
}

enum Key {
    Quit,
    Reveal,
}

/// A key that means something; waits for it no longer than until the daemon is to be asked again. A change of the
/// terminal's size comes back at once.
fn key() -> std::io::Result<Option<Key>> {
    if !event::poll(EVERY)? {
        return Ok(None);
    }
    Ok(match event::read()? {
        Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) => match code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
            KeyCode::Char('r') => Some(Key::Reveal),
            _ => None,
        },
        _ => None,
    })
}
