//! A dialer that tells Zammad of its calls: `ZammadCTI_URL=https://… cargo run --example dialer CALLID 4915112345678`.
#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::error::Error;

use freeswitch_zammad::cti::{Answer, Call, Cause, CtiClient, Done, Hangup, NewCall, Numbers};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(call_id), Some(number)) = (args.next(), args.next()) else {
        return Err("CALLID NUMBER".into());
    };
    dial(&CtiClient::from_env()?, &call_id, &number).await
}

/// One call by the agent at extension 1001, as Zammad is to see it.
pub(crate) async fn dial(zammad: &CtiClient, call_id: &str, number: &str) -> Result<(), Box<dyn Error>> {
    let call = Call::outbound(call_id.parse()?, Numbers { from: "1001", to: number })?;
    match zammad.new_call(&call, NewCall::default().user("Alice")).await? {
        Done::Dial { caller_id, number } => println!("dialling {number} as {caller_id}"),
        Done::Accepted | Done::AlreadyKnown | Done::Rejected { .. } => println!("dialling {number}"),
    }
    // … here the telephone system dials, and the customer picks up …
    zammad.answer(&call, Answer::default()).await?;
    // … they talk …
    zammad.hangup(&call, Hangup::new(Cause::NormalClearing).answered()).await?;
    Ok(())
}
