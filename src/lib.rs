//! freeswitch-zammad: tells Zammad about the calls on a FreeSWITCH.
//!
//! One daemon beside the switch. It hears the event socket, understands which *calls* are going on, writes what
//! Zammad must learn into a durable queue, and delivers it at least once, in order, however long Zammad is away.
//!
//! # The way of an event
//!
//! ```text
//!  socket ─ bytes ─▶ esl::frame ─▶ esl::event ─▶ call::tracker ─▶ cti::event
//!                                                                    │ one record: pending events + call state
//!                                                                    ▼ written with fdatasync: from here it is ours
//!  Zammad ◀─ POST ─ cti::client ◀─ queue::schedule ◀────────────── store
//!               └─ cti::reply: verdict ─▶ schedule ─▶ store: done / again at T / dead letter
//! ```
//!
//! Where several nodes share an outbox, `edge::shipper` brings events from each node's store into it, and `edge::claims`
//! hands each node's schedule the calls that it has claimed there; `edge::fleet` tells how all of them are.
//!
//! Nothing between the socket and the store waits for Zammad. Nothing after the store knows a FreeSWITCH header.
//!
//! # The modules, in reading order
//!
//! | module | what it is | what it does not know |
//! |---|---|---|
//! | [`esl`] | FreeSWITCH's wire: frames, events, commands, the conversation | calls, Zammad |
//! | [`cti`] | Zammad's contract: events, causes, what an answer means, the HTTP client | FreeSWITCH, the queue |
//! | [`call`] | legs become calls, told as a person would tell them | sockets, clocks, HTTP |
//! | [`queue`] | what is posted when: order, repeats, pauses, dead letters | clocks, HTTP, the store |
//! | [`store`] | what must survive: pending events, call state, dead letters (sled, behind a journal) | Zammad's answers, the switch |
//! | [`outbox`] | what several nodes share: each event once, each call from one node at a time (PostgreSQL) | Zammad's answers, the switch |
//! | [`config`] | file, environment and flags to one checked configuration | how it is used |
//! | [`edge`] | the only code that waits: listener, backfill, intake, drain, control socket, status page, clock, log | decisions |
//! | [`daemon`] | builds the parts, starts the tasks, stops them in order | decisions |
//! | [`cli`] | what each subcommand says and prints | |
//! | [`sim`] | a switch and a Zammad to talk to, over real sockets: for the demo, tests and benches | |
//!
//! Imports run one way: `cli → daemon → edge → {config, outbox, store} → queue → call → {cti, esl}`. `esl` and `cti` never
//! know each other; only `call` knows both. A test reads the `use` lines and holds this.
//!
//! Every state machine ([`esl::session`], [`call::tracker`], [`queue::schedule`]) has the same verbs: `handle_*`
//! with what came in and when, `poll_output` for what is to be done, `poll_timeout` for when to come back. Time,
//! randomness and the environment are arguments; only [`edge::clock`] reads a clock.
//!
//! # What always holds
//!
//! - An accepted event survives a crash of the program and of the machine; it is accepted with the call state
//!   that belongs to it, or not at all.
//! - A call's newCall is its first event and its hangup its last, each once; numbers and direction never change.
//! - Events of one call go to Zammad one after the other; no call waits for another.
//! - Nothing is discarded because Zammad fails. What it refuses for good becomes a dead letter with its story.
//! - Every queue, length and count has a bound with a name.

pub mod call;
pub mod cli;
pub mod config;
pub mod cti;
pub mod daemon;
pub mod edge;
pub mod esl;
pub mod outbox;
pub mod queue;
pub mod sim;
pub mod store;
pub mod time;
