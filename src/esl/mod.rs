//! FreeSWITCH's event socket, the wire and the conversation. Knows nothing of calls or of Zammad.
//!
//! The protocol is text with byte counts. Either side of a connection sends *frames*: a block of
//! `Name: value` lines, ended by an empty line, then as many bytes of body as `Content-Length` says.
//!
//! ```text
//! Content-Length: 4521            ← a frame (level one, values as they are)
//! Content-Type: text/event-plain
//!
//! Event-Name: CHANNEL_CREATE      ← its body is an event (level two, values percent-encoded)
//! Unique-ID: 82ac7419-…
//!                                 ← an empty line inside the length; with an inner Content-Length
//!                                   as many bytes of the event's own body follow (BACKGROUND_JOB)
//! ```
//!
//! | module | turns |
//! |---|---|
//! | [`frame`] | bytes into frames (a `tokio_util` decoder) |
//! | [`event`] | a frame's body into an event whose headers can be asked for |
//! | [`command`] | what we say into bytes |
//! | [`session`] | frames into login, subscription, events and a verdict on the link (a pure state machine) |

pub mod command;
pub mod event;
pub mod frame;
pub mod session;
