//! What `top` draws: pure, from a snapshot of [`crate::edge::status`].

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline};
use serde_json::Value;

use crate::cli::calls;
use crate::time::UnixMillis;

/// Lines for deliveries, with their heading.
const DELIVERIES: u16 = 7;

/// What is to be seen.
pub(super) struct Shown {
    /// Whether numbers are asked for whole.
    pub(super) reveal: bool,
    last: Value,
    /// Why there is nothing newer.
    trouble: Option<String>,
}

impl Shown {
    pub(super) const fn new(reveal: bool) -> Self {
        Self { reveal, last: Value::Null, trouble: None }
    }

    /// What the daemon said last stays to be seen while it says nothing.
    pub(super) fn take(&mut self, answer: Result<Value, String>) {
        match answer {
            Ok(all) => (self.last, self.trouble) = (all, None),
            Err(why) => self.trouble = Some(why),
        }
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, shown: &Shown, now: UnixMillis) {
    let all = &shown.last;
    let (links, queue) = (links(all), queue(all));
    let heights = [
        Constraint::Length(1),
        Constraint::Length(height(&links)),
        Constraint::Length(height(&queue)),
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(DELIVERIES),
        Constraint::Length(1),
    ];
    let [head, at_links, at_queue, at_plot, at_calls, at_done, foot] =
        Layout::vertical(heights).areas(frame.area());
    frame.render_widget(heading(shown, now), head);
    frame.render_widget(Paragraph::new(links), at_links);
    frame.render_widget(Paragraph::new(queue), at_queue);
    plot(frame, all, at_plot);
    frame.render_widget(list("Calls", going_on(all, now), at_calls.height), at_calls);
    frame.render_widget(list("Delivered last", delivered(all), at_done.height), at_done);
    let numbers = if shown.reveal { "r hides numbers" } else { "r shows numbers" };
    frame.render_widget(Line::from(format!(" q ends   {numbers}")).dim(), foot);
}

fn heading(shown: &Shown, now: UnixMillis) -> Line<'static> {
    let version = shown.last["version"].as_str().unwrap_or(env!("CARGO_PKG_VERSION"));
    let name = Span::from(format!(" freeswitch-zammad {version}")).bold();
    match &shown.trouble {
        Some(why) => Line::from(vec![name, Span::from(format!("   {why}")).style(BAD)]),
        None => {
            let about = format!("   running since {}   now {now}", text(&shown.last["started"]));
            Line::from(vec![name, Span::from(about).dim()])
        }
    }
}

fn links(all: &Value) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for it in each(&all["loops"]).filter(|it| it["stuck"] == true) {
        lines.push(state(BAD, "STUCK", &format!("{} does not move: restart the daemon", text(&it["name"]))));
    }
    for it in each(&all["switches"]) {
        let name = format!("switch {}", text(&it["name"]));
        lines.push(if it["listening"] == true {
            state(
                GOOD,
                "listening",
                &format!("{name}   {} events, link lost {} times", it["events"], it["losses"]),
            )
        } else {
            state(BAD, "NO LINK", &format!("{name}   {}", text(&it["reason"])))
        });
    }
    for it in each(&all["zammads"]) {
        let name = format!("zammad {}", text(&it["name"]));
        let done = format!(
            "{name}   {} delivered, {} on the way, {} repeated, {} dead letters",
            it["delivered"], it["in_flight"], it["repeated"], it["dead"]
        );
        lines.push(match (it["paused"] == true, it["link"].as_str()) {
            (true, _) => state(WARN, "PAUSED", &done),
            (false, Some("up")) => state(GOOD, "answers", &done),
            (false, Some("unasked")) => state(Style::new(), "unasked", &done),
            (false, Some("misconfigured")) => {
                state(BAD, "NEEDS YOU", &format!("{name}   {}", text(&it["reason"])))
            }
            (false, _) => state(BAD, "AWAY", &format!("{name}   {}", text(&it["reason"]))),
        });
    }
    lines
}

fn queue(all: &Value) -> Vec<Line<'static>> {
    let (queue, calls) = (&all["queue"], &all["calls"]);
    if queue.is_null() {
        return vec![];
    }
    let oldest = queue["oldest_age_s"].as_u64().map_or(String::new(), |s| format!(", the oldest for {s} s"));
    let sum = format!(
        "{} waiting{oldest}   {} dead letters   {} kB on disk",
        queue["waiting"],
        queue["dead"],
        queue["disk_bytes"].as_u64().unwrap_or_default() / 1000
    );
    let mut lines = vec![state(Style::new(), "queue", &sum)];
    lines.extend(outbox(&all["outbox"]));
    if let Some(why) = queue["disk_refuses"].as_str() {
        lines.push(state(BAD, "NO ROOM", &format!("{why}; {} events in memory", calls["events_unaccepted"])));
    }
    if let Some(left) = queue["taking_in"]["left"].as_u64() {
        let said = format!(
            "{left} of {} rows of a damaged store are still to be taken in",
            queue["taking_in"]["rows"]
        );
        lines.push(state(WARN, "SALVAGE", &said));
    }
    if calls["events_dropped"].as_u64().is_some_and(|lost| lost > 0) {
        lines.push(state(BAD, "LOST", &format!("{} events had no room", calls["events_dropped"])));
    }
    lines
}

/// What is in the shared outbox, and which of its nodes are not well; nothing where there is none.
fn outbox(outbox: &Value) -> Vec<Line<'static>> {
    let fleet = &outbox["fleet"];
    let mut lines = Vec::new();
    let away = [&outbox["reason"], &fleet["reason"]].into_iter().find_map(|why| why.as_str());
    if let Some(why) = away {
        lines.push(state(BAD, "AWAY", &format!("outbox   {why}")));
    }
    for it in each(&fleet["zammads"]) {
        let oldest = it["oldest_age_s"].as_u64().map_or(String::new(), |s| format!(", the oldest for {s} s"));
        let sum = format!(
            "for zammad {}   {} waiting{oldest}   {} dead letters",
            text(&it["zammad"]),
            it["waiting"],
            it["dead"]
        );
        lines.push(state(Style::new(), "outbox", &sum));
    }
    let all = each(&fleet["nodes"]).count();
    for it in each(&fleet["nodes"]).filter(|it| it["state"] == "silent") {
        lines.push(state(
            BAD,
            "SILENT",
            &format!("node {} of {all}   since {}", text(&it["node"]), text(&it["seen"])),
        ));
    }
    lines
}

/// How many events waited, newest at the right.
fn plot(frame: &mut Frame<'_>, all: &Value, area: Rect) {
    let [label, bars] = Layout::horizontal([Constraint::Length(12), Constraint::Min(1)]).areas(area);
    let samples = each(&all["history"]["samples"]).filter_map(|sample| sample[1].as_u64());
    let mut samples: Vec<u64> = samples.collect();
    samples.drain(..samples.len().saturating_sub(usize::from(bars.width)));
    let most = samples.iter().max().copied().unwrap_or_default();
    frame.render_widget(Line::from(format!(" most {most}")).dim(), label);
    frame.render_widget(Sparkline::default().data(&samples).max(most.max(1)).style(Color::Blue), bars);
}

fn going_on(all: &Value, now: UnixMillis) -> Vec<Line<'static>> {
    let mut calls = each(&all["calls_now"]).peekable();
    if calls.peek().is_none() {
        return vec![Line::from("no calls are going on").dim()];
    }
    let heading = Line::from(calls::HEADING).dim();
    let line = |call: &Value| {
        let style = match call["state"].as_str() {
            Some("talking") => GOOD,
            Some("mailbox") => WARN,
            _ => Style::new(),
        };
        Line::from(calls::line(call, now.0)).style(style)
    };
    [heading].into_iter().chain(calls.map(line)).collect()
}

fn delivered(all: &Value) -> Vec<Line<'static>> {
    let line = |row: &Value| {
        let age = all["now_ms"]
            .as_u64()
            .unwrap_or_default()
            .saturating_sub(row["settled_ms"].as_u64().unwrap_or_default());
        Line::from(format!(
            "{:>6} s ago  {:<7}  {:<3}  {:<16}  {:<16}  {}",
            age / 1000,
            text(&row["event"]),
            text(&row["direction"]),
            text(&row["from"]),
            text(&row["to"]),
            row["what"].as_str().unwrap_or_default(),
        ))
    };
    each(&all["delivered"]).map(line).collect()
}

fn list(title: &'static str, lines: Vec<Line<'static>>, height: u16) -> Paragraph<'static> {
    let room = usize::from(height.saturating_sub(1));
    let hidden = lines.len().saturating_sub(room);
    let mut title = vec![Span::from(format!(" {title} ")).bold()];
    if hidden > 0 {
        title.push(Span::from(format!("({hidden} more) ")).dim());
    }
    Paragraph::new(lines).block(
        Block::new()
            .borders(Borders::TOP)
            .title(Line::from(title))
            .border_style(Style::new().add_modifier(Modifier::DIM)),
    )
}

const GOOD: Style = Style::new().fg(Color::Green);
const WARN: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// A state in a word, and what it is of. The word says all that the colour does.
fn state(style: Style, word: &str, of: &str) -> Line<'static> {
    Line::from(vec![Span::from(format!(" {word:<10}")).style(style), Span::from(of.to_owned())])
}

fn height(lines: &[Line<'_>]) -> u16 {
    u16::try_from(lines.len()).unwrap_or(u16::MAX)
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn snapshot() -> Value {
        json!({
            "version": "1.2.3", "started": "2026-11-25T02:00:00Z", "now_ms": 20_000, "loops": [],
            "switches": [
                { "name": "main", "listening": true, "events": 70, "losses": 1 },
                { "name": "branch", "listening": false, "reason": "connection refused" },
            ],
            "zammads": [{
                "name": "desk", "link": "away", "reason": "it answers 502", "paused": false, "delivered": 5,
                "in_flight": 0, "repeated": 0, "dead": 1,
            }],
            "queue": { "waiting": 12, "oldest_age_s": 90, "dead": 1, "disk_bytes": 524_288, "disk_refuses": null },
            "calls": { "events_dropped": 0, "events_unaccepted": 0 },
            "history": { "step_s": 10, "samples": [[0, 3, null], [10_000, 12, 90]] },
            "calls_now": [{
                "id": "5c0e3d8e", "switch": "main", "direction": "in", "from": "4915112****", "to": "4930****",
                "since_ms": 5_000, "state": "talking", "answered_by": "Eva",
            }],
            "delivered": [{
                "event": "hangup", "direction": "in", "from": "49151****", "to": "4930****", "what": "cancel",
                "settled_ms": 12_000,
            }],
        })
    }

    fn screen(shown: &Shown, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, shown, UnixMillis(20_000))).unwrap();
        let cells = terminal.backend().buffer().content();
        cells
            .chunks(width.into())
            .map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect())
            .collect()
    }

    fn shows(lines: &[String], words: &[&str]) -> bool {
        lines.iter().any(|line| words.iter().all(|word| line.contains(word)))
    }

    #[test]
    fn everything_is_there_at_once() {
        let mut shown = Shown::new(false);
        shown.take(Ok(snapshot()));
        let lines = screen(&shown, 110, 24);
        for words in [
            &["freeswitch-zammad 1.2.3", "running since 2026-11-25"][..],
            &["listening", "switch main", "70 events"],
            &["NO LINK", "switch branch", "connection refused"],
            &["AWAY", "zammad desk", "it answers 502"],
            &["queue", "12 waiting, the oldest for 90 s", "1 dead letters"],
            &["most 12", "█"],
            &["0:15", "4915112****", "talking", "Eva", "5c0e3d8e"],
            &["8 s ago", "hangup", "cancel"],
            &["q ends", "r shows numbers"],
        ] {
            assert!(shows(&lines, words), "{words:?} in\n{}", lines.join("\n"));
        }
    }

    #[test]
    fn of_an_outbox_there_is_what_is_in_it_and_who_is_silent() {
        let mut all = snapshot();
        let node =
            |name: &str, state: &str| json!({ "node": name, "state": state, "seen": "2026-11-25T02:00:00Z" });
        all["outbox"] = json!({ "node": "a", "reason": null, "fleet": {
            "reason": "it is gone", "nodes": [node("a", "up"), node("b", "silent"), node("c", "stopped")],
            "zammads": [{ "zammad": "desk", "waiting": 7, "oldest_age_s": 3, "dead": 2 }],
        } });
        let mut shown = Shown::new(false);
        shown.take(Ok(all));
        let lines = screen(&shown, 110, 24);
        for words in [
            &["outbox", "zammad desk", "7 waiting, the oldest for 3 s", "2 dead letters"][..],
            &["SILENT", "node b of 3", "since 2026-11-25"],
            &["AWAY", "outbox", "it is gone"],
        ] {
            assert!(shows(&lines, words), "{words:?} in\n{}", lines.join("\n"));
        }
        assert!(!shows(&lines, &["node c"]));
    }

    #[test]
    fn what_was_said_last_stays_while_the_daemon_is_away() {
        let mut shown = Shown::new(true);
        shown.take(Err("the daemon is not running; waiting for it".into()));
        assert!(shows(&screen(&shown, 80, 20), &["not running"]));
        shown.take(Ok(snapshot()));
        shown.take(Err("the daemon is not running; waiting for it".into()));
        let lines = screen(&shown, 110, 24);
        assert!(shows(&lines, &["1.2.3", "not running"]) && shows(&lines, &["Eva"]), "{lines:#?}");
        shown.take(Ok(snapshot()));
        assert!(!shows(&screen(&shown, 110, 24), &["not running"]));
    }

    #[test]
    fn more_than_fits_is_said_and_no_size_is_too_small() {
        let mut all = snapshot();
        let call = all["calls_now"][0].clone();
        all["calls_now"] = vec![call; 40].into();
        let mut shown = Shown::new(false);
        shown.take(Ok(all));
        assert!(shows(&screen(&shown, 110, 24), &["Calls", "more)"]));
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 100)] {
            screen(&shown, width, height);
        }
    }
}
