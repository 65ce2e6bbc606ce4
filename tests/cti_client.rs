//! The CTI client that other programs use, against the stand-in: what it tells, what it makes of each answer, over TLS too.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "../examples/dialer.rs"]
#[expect(dead_code, reason = "its `main` is for who runs it")]
mod dialer;
#[path = "common/tls.rs"]
mod tls;

use std::time::Duration;

use freeswitch_zammad::config::{Environment, EnvironmentError};
use freeswitch_zammad::cti::{
    Answer, Builder, Call, Cause, ClientError, CtiClient, CtiError, Done, Hangup, Inbound, Invalid, NewCall,
    Numbers, Outbound,
};
use freeswitch_zammad::sim::zammad::{self, Fault, Routing, Settings, Zammad};
use tls::Front;

const TOKEN: &str = "tOken-of-the-zammad";
const NUMBERS: Numbers<'static> = Numbers { from: "4915112345678", to: "4930555" };

fn zammad() -> Zammad {
    Zammad::start(Settings { token: TOKEN.into(), ..Settings::default() }).unwrap()
}

fn client(zammad: &Zammad) -> CtiClient {
    CtiClient::new(&zammad.url()).unwrap()
}

fn inbound(id: &str) -> Call<Inbound> {
    Call::inbound(id.parse().unwrap(), NUMBERS).unwrap()
}

fn outbound(id: &str) -> Call<Outbound> {
    Call::outbound(id.parse().unwrap(), Numbers { from: "1001", to: "4915112345678" }).unwrap()
}

#[tokio::test]
async fn a_calls_events_arrive_as_they_are_meant() {
    let zammad = zammad();
    let client = client(&zammad);
    let call = inbound("in");
    let begins = NewCall::default().users(["Alice", "Bob"]).queue("Support");
    assert_eq!(client.new_call(&call, begins).await, Ok(Done::Accepted));
    let row = |id: &str| zammad.log().into_iter().find(|row| row.call_id == id).unwrap();
    assert_eq!(row("in").to_comment.as_deref(), Some("Alice, Bob"));
    assert_eq!(row("in").queue.as_deref(), Some("Support"));
    let answer = Answer::default().answering_number("1001").user("Bob");
    assert_eq!(client.answer(&call, answer).await, Ok(Done::Accepted));
    assert_eq!(row("in").to_comment.as_deref(), Some("Bob"));
    assert!(zammad.requests()[1].body.contains(r#""answeringNumber":"1001""#));
    let hangup = Hangup::new(Cause::NormalClearing).answered();
    assert_eq!(client.hangup(&call, hangup).await, Ok(Done::Accepted));
    assert!(!row("in").missed_mark());

    let call = outbound("out");
    assert_eq!(client.new_call(&call, NewCall::default().user("Alice")).await, Ok(Done::Accepted));
    assert_eq!(client.answer(&call, Answer::default()).await, Ok(Done::Accepted));
    assert_eq!(client.hangup(&call, Cause::NormalClearing).await, Ok(Done::Accepted));
    assert_eq!(row("out").from_comment.as_deref(), Some("Alice"));
    assert_eq!(row("out").to_comment, None);

    let call = inbound("mailbox");
    client.new_call(&call, NewCall::default()).await.unwrap();
    client.answer(&call, Answer::voicemail()).await.unwrap();
    client.hangup(&call, Hangup::new(Cause::NormalClearing).answered()).await.unwrap();
    assert!(row("mailbox").missed_mark());
}

#[tokio::test]
async fn each_word_of_zammads_on_a_new_call_has_a_type() {
    let zammad = zammad();
    let routing = Routing {
        block: vec![NUMBERS.from.into()],
        table: vec![("4915*".into(), "49309999".into())],
        default_caller_id: None,
    };
    zammad.change(|settings| settings.routing = Some(routing));
    let client = client(&zammad);
    let rejected = Done::Rejected { reason: "busy".into() };
    assert_eq!(client.new_call(&inbound("b"), NewCall::default()).await, Ok(rejected.clone()));
    // Written with +, the block list would not know it.
    let plus = Numbers { from: "+4915112345678", ..NUMBERS };
    let call = Call::inbound("p".parse().unwrap(), plus).unwrap();
    assert_eq!(client.new_call(&call, NewCall::default()).await, Ok(rejected));
    let dial = Done::Dial { caller_id: "49309999".into(), number: "4915112345678".into() };
    assert_eq!(client.new_call(&outbound("d"), NewCall::default()).await, Ok(dial));
    assert_eq!(client.new_call(&outbound("d"), NewCall::default()).await, Ok(Done::AlreadyKnown));
}

#[tokio::test]
async fn each_error_says_whether_to_try_again() {
    let mut zammad = zammad();
    let client = client(&zammad);
    let call = inbound("c");
    let next = |fault: Fault| zammad.set_faults([fault]);
    let json = |status, body| Fault::answer_instead(zammad::Answer::json(status, body));

    let error = client.hangup(&call, Cause::Cancel).await.unwrap_err();
    assert!(matches!(&error, CtiError::CallUnknown(_)) && !error.is_retryable(), "{error:?}");

    next(Fault::answer_instead(zammad::Answer::nginx(503).with_header("retry-after", "7")));
    let error = client.new_call(&call, NewCall::default()).await.unwrap_err();
    assert!(matches!(&error, CtiError::Away { .. }) && error.is_retryable(), "{error:?}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));

    next(Fault::reset_after());
    let error = client.new_call(&call, NewCall::default()).await.unwrap_err();
    assert!(matches!(&error, CtiError::Unsure { .. }) && error.is_retryable(), "{error:?}");
    assert_eq!(client.new_call(&call, NewCall::default()).await, Ok(Done::AlreadyKnown));

    // It was processed: told again it would take the missed mark back.
    next(Fault::reset_after());
    let error = client.hangup(&call, Cause::Cancel).await.unwrap_err();
    assert!(matches!(&error, CtiError::Unsure { .. }) && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("do not repeat it"), "{error}");
    assert!(zammad.log()[0].missed_mark());
    for hangup in [Hangup::new(Cause::NormalClearing).answered(), Cause::Forwarded.into()] {
        next(Fault::reset_after());
        assert!(client.hangup(&call, hangup).await.unwrap_err().is_retryable());
    }
    next(Fault::reset_after());
    assert!(client.hangup(&outbound("c"), Cause::Busy).await.unwrap_err().is_retryable());

    next(json(413, r#"{"error":"too large"}"#));
    let error = client.new_call(&call, NewCall::default()).await.unwrap_err();
    assert!(matches!(&error, CtiError::Refused(_)) && !error.is_retryable(), "{error:?}");

    // In words of another language: the probe shows whose fault it is.
    next(json(422, r#"{"error":"Das geht so nicht!"}"#));
    let error = client.new_call(&call, NewCall::default()).await.unwrap_err();
    assert_eq!(error, CtiError::Refused("HTTP 422: Das geht so nicht!".into()));
    zammad.set_fault_rule(move |_| {
        Fault::answer_instead(zammad::Answer::json(422, r#"{"error":"Funktion ist deaktiviert!"}"#))
    });
    let error = client.new_call(&call, NewCall::default()).await.unwrap_err();
    assert!(matches!(&error, CtiError::Misconfigured(_)) && !error.is_retryable(), "{error:?}");
    zammad.clear_faults();

    assert_eq!(client.check().await, Ok(()));
    zammad.change(|settings| settings.token = "another-token".into());
    let error = client.check().await.unwrap_err();
    assert!(matches!(&error, CtiError::Misconfigured(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains(TOKEN));

    zammad.stop().await;
    let error = client.new_call(&call, NewCall::default()).await.unwrap_err();
    assert!(matches!(&error, CtiError::Away { .. }) && error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn what_is_wrong_is_not_sent() {
    let zammad = zammad();
    let client = client(&zammad);
    let error = client.answer(&inbound("c"), Answer::default().user("x".repeat(101))).await.unwrap_err();
    let too_long = Invalid::TooLong { field: "user", length: 101, max: 100 };
    assert_eq!(error, CtiError::Invalid(too_long));
    assert!(!error.is_retryable());
    // An event that did not come of a typed call.
    let mut event = inbound("c").answer(Answer::default().user("Bob")).unwrap();
    event.direction = freeswitch_zammad::cti::Direction::Out;
    let error = client.tell(&event, false).await.unwrap_err();
    assert_eq!(error, CtiError::Invalid(Invalid::NotOutbound { field: "user" }));
    assert!(zammad.requests().is_empty());
}

#[tokio::test]
async fn a_request_ends_in_time() {
    let zammad = zammad();
    zammad.set_faults([Fault::slow(Duration::from_secs(3600), Duration::ZERO)]);
    let client = CtiClient::builder(&zammad.url()).timeout(Duration::from_millis(50)).build().unwrap();
    let error = client.new_call(&inbound("c"), NewCall::default()).await.unwrap_err();
    assert_eq!(error, CtiError::Unsure { why: "no answer in time".into(), repeatable: true });
}

#[tokio::test]
async fn tls_is_checked_unless_it_is_switched_off_and_one_connection_serves_all() {
    let zammad = zammad();
    let front = Front::of(&zammad).await;
    let builder = || CtiClient::builder(&front.url(TOKEN));
    let call = inbound("c");
    let error = builder().build().unwrap().new_call(&call, NewCall::default()).await.unwrap_err();
    assert!(matches!(&error, CtiError::Misconfigured(why) if why.contains("not trusted")), "{error:?}");
    assert!(!error.is_retryable() && !error.to_string().contains(TOKEN));
    assert!(zammad.requests().is_empty(), "something was sent to whom nobody trusts");

    let before = front.connections();
    let trusting = builder().ca(&front.pem).build().unwrap();
    assert_eq!(trusting.new_call(&call, NewCall::default()).await, Ok(Done::Accepted));
    assert_eq!(trusting.answer(&call, Answer::default()).await, Ok(Done::Accepted));
    assert_eq!(trusting.clone().hangup(&call, Cause::NormalClearing).await, Ok(Done::Accepted));
    assert_eq!(front.connections(), before + 1);

    let unchecked = builder().accept_any_certificate().build().unwrap();
    assert_eq!(unchecked.new_call(&call, NewCall::default()).await, Ok(Done::AlreadyKnown));
    assert!(matches!(builder().ca("no PEM").build(), Err(ClientError::Ca(_))));
}

#[tokio::test]
async fn the_environment_makes_a_client_by_either_set_of_names() {
    let zammad = zammad();
    let front = Front::of(&zammad).await;
    let url = front.url(TOKEN);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &url).unwrap();
    let path = file.path().to_str().unwrap();
    let from = |variables: &[(&str, &str)]| {
        Builder::from_environment(&variables.iter().copied().collect::<Environment>())
    };
    for names in [
        [("FREESWITCH_ZAMMAD_ZAMMAD_URL", url.as_str()), ("FREESWITCH_ZAMMAD_ZAMMAD_VERIFY_SSL", "no")],
        [("FREESWITCH_ZAMMAD_ZAMMAD_URL_FILE", path), ("ZammadCTI_VERIFY_SSL", "false")],
        [("ZammadCTI_URL", &url), ("ZammadCTI_VERIFY_SSL", "false")],
        [("ZAMMADCTI_URL", &url), ("ZAMMADCTI_VERIFY_SSL", "false")],
    ] {
        assert_eq!(from(&names).unwrap().build().unwrap().check().await, Ok(()), "{}", names[0].0);
        // Without the word they are checked.
        let checked = from(&names[..1]).unwrap().build().unwrap().check().await;
        assert!(matches!(checked, Err(CtiError::Misconfigured(_))), "{checked:?}");
        let own = from(&names[..1]).unwrap().ca(&front.pem).build().unwrap();
        assert_eq!(own.check().await, Ok(()), "{}", names[0].0);
    }
    let nothing = from(&[]).unwrap_err().to_string();
    assert!(nothing.contains("nothing says where Zammad's CTI is"), "{nothing}");
    assert!(!nothing.contains("password"), "{nothing}");
    assert!(!format!("{:?}", CtiClient::builder(&url)).contains(TOKEN));
    let wrong = from(&[("ZammadCTI_URL", "https://z.test/api/v1/cti/s3cret/x")]).unwrap_err();
    assert!(!EnvironmentError::from(wrong).to_string().contains("s3cret"));
}

#[test]
fn an_address_that_is_none_is_refused_without_its_token() {
    for url in ["https://z.test/s3cret", "z.test/api/v1/cti/s3cret", "https://z.test/api/v1/cti/s3cret?x"] {
        let Err(why) = CtiClient::new(url) else { panic!("{url} is taken") };
        assert!(matches!(why, ClientError::Url(_)) && !why.to_string().contains("s3cret"), "{why}");
    }
}

#[tokio::test]
async fn the_example_dials() {
    let zammad = zammad();
    dialer::dial(&client(&zammad), "dialled", "4915112345678").await.unwrap();
    let [row] = &zammad.log()[..] else { panic!("{:?}", zammad.log()) };
    assert_eq!((row.state.as_str(), row.comment.as_deref()), ("hangup", Some("normalClearing")));
}
