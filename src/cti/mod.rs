//! Zammad's Generic CTI contract: what is posted, what comes back, what it means.
//!
//! Knows nothing of FreeSWITCH, of sled or of the queue. [`event`], [`cause`], [`call`], [`url`] and [`reply`] are
//! pure; [`client`] is the only file that names reqwest.
//!
//! # For other programs
//!
//! Dialers, softphones, glue of other telephone systems tell Zammad about their calls with [`CtiClient`]. It goes
//! the daemon's own way: the same events, the same requests, the same reading of the answers.
//!
//! ```
//! use freeswitch_zammad::cti::{Answer, Call, Cause, CtiClient, Done, Hangup, NewCall, Numbers};
//! # use freeswitch_zammad::sim::zammad::{Settings, Zammad};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let zammad = Zammad::start(Settings::default())?;
//! # let url = zammad.url();
//! // let url = "https://zammad.example.com/api/v1/cti/TOKEN";
//! let zammad_of_ours = CtiClient::new(&url)?;
//! let call = Call::inbound("pbx-17".parse()?, Numbers { from: "4915112345678", to: "4930555" })?;
//! match zammad_of_ours.new_call(&call, NewCall::default().queue("Support")).await? {
//!     Done::Accepted | Done::AlreadyKnown => {}
//!     Done::Rejected { reason } => println!("on the block list: hang up with {reason}"),
//!     Done::Dial { caller_id, number } => println!("dial {number}, presenting {caller_id}"),
//! }
//! zammad_of_ours.answer(&call, Answer::default().answering_number("1001").user("Bob")).await?;
//! zammad_of_ours.hangup(&call, Hangup::new(Cause::NormalClearing).answered()).await?;
//! # assert_eq!(zammad.log()[0].state, "hangup");
//! # assert_eq!(zammad.log()[0].to_comment.as_deref(), Some("Bob"));
//! # Ok(())
//! # }
//! ```
//!
//! [`tell`] has more: a program without async, TLS, what to do with an error. What must not be lost while Zammad is away
//! goes through the queue of a running daemon: `freeswitch-zammad send --queue`.

pub mod call;
pub mod cause;
pub mod client;
pub mod event;
pub mod reply;
pub mod tell;
pub mod url;

pub use call::{Answer, Call, Hangup, Inbound, Invalid, NewCall, Numbers, Outbound, Way};
pub use cause::Cause;
pub use client::ClientError;
pub use event::{CallId, Direction, Event};
pub use reply::Done;
pub use tell::{Builder, CtiClient, CtiError};
pub use url::CtiUrl;
