//! What `docs/py-zammad-cti.md` says of py-zammad-cti 0.0.2, seen in the real package against the stand-in; and what our
//! client makes of the same.
//!
//! Needs Python and the package in `tests/py/site`; says so where they are missing.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "common/program.rs"]
mod program;
#[path = "common/tls.rs"]
mod tls;

use std::path::Path;
use std::process::{Command, Output};

use freeswitch_zammad::cti::{Answer, Call, Cause, CtiClient, CtiError, Done, Inbound, NewCall, Numbers};
use freeswitch_zammad::sim::zammad::{self, Fault, Routing, Row, Settings, Zammad};
use program::{Program, TOKEN};
use serde_json::{Value, json};
use tls::Front;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/py");
const CUSTOMER: &str = "4915112345678";

/// The real package, if it is there.
struct Python;

struct Acted {
    said: Value,
    log: String,
}

impl Python {
    #[expect(clippy::print_stderr, reason = "a test that did not run must not look as if it had")]
    fn found() -> Option<Self> {
        let there = Path::new(FOLDER).join("site/zammad_cti").exists()
            && Command::new("python3").arg("--version").output().is_ok_and(|said| said.status.success());
        if !there {
            assert!(
                std::env::var_os("NOTHING_LEFT_OUT").is_none(),
                "there is no Python, or no py-zammad-cti"
            );
            eprintln!(
                "NOT RUN: the real py-zammad-cti is looked at with Python and \
                 `python3 -m pip install --target tests/py/site -r tests/py/requirements.txt`"
            );
        }
        there.then_some(Self)
    }

    async fn act(&self, act: &str, url: &str) -> Acted {
        self.act_in(act, url, &[]).await
    }

    async fn act_in(&self, act: &str, url: &str, environment: &[(&str, &str)]) -> Acted {
        let mut command = Command::new("python3");
        command.args([&format!("{FOLDER}/act.py"), act, url]).env_clear().envs(environment.iter().copied());
        command.env("PYTHONPATH", format!("{FOLDER}/site")).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let acting = tokio::task::spawn_blocking(move || command.output().unwrap());
        let Output { stdout, stderr, .. } = acting.await.unwrap();
        let (out, log) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        let said = out.lines().last().and_then(|line| serde_json::from_str(line).ok());
        Acted { said: said.unwrap_or_else(|| panic!("{act}: {out}\n{log}")), log }
    }
}

impl Acted {
    fn returned(&self) -> &Value {
        assert!(self.said["raised"].is_null(), "{}", self.said);
        &self.said["returned"]
    }

    fn raised(&self, class: &str) -> &str {
        assert_eq!(self.said["raised"], class, "{}", self.said);
        self.said["message"].as_str().unwrap()
    }
}

fn zammad() -> Zammad {
    Zammad::start(Settings { token: TOKEN.into(), ..Settings::default() }).unwrap()
}

fn client(zammad: &Zammad) -> CtiClient {
    CtiClient::new(&zammad.url()).unwrap()
}

fn call(id: &str) -> Call<Inbound> {
    Call::inbound(id.parse().unwrap(), Numbers { from: CUSTOMER, to: "4930555" }).unwrap()
}

fn row(zammad: &Zammad, id: &str) -> Row {
    zammad.log().into_iter().find(|row| row.call_id == id).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_its_calls_arrive_and_ours_leave_the_same_rows() {
    let Some(python) = Python::found() else { return };
    let (theirs, ours) = (zammad(), zammad());
    for act in ["new-call", "answer", "hangup"] {
        assert_eq!(python.act(act, &theirs.url()).await.returned(), &json!({}));
    }
    let client = client(&ours);
    client.new_call(&call("c"), NewCall::default()).await.unwrap();
    let answer = Answer::default().answering_number("1001").user("Bob");
    client.answer(&call("c"), answer).await.unwrap();
    client.hangup(&call("c"), Cause::NormalClearing).await.unwrap();
    let told = |zammad: &Zammad| {
        let row = row(zammad, "c");
        (row.direction, row.state, row.from, row.to, row.to_comment, row.queue, row.comment, row.done)
    };
    assert_eq!(told(&ours), told(&theirs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_users_it_loses_all_but_the_last() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    python.act("new-call-users", &zammad.url()).await.returned();
    assert!(zammad.requests()[0].body.contains("user=Alice&user=Bob"), "{}", zammad.requests()[0].body);
    assert_eq!(row(&zammad, "c").to_comment.as_deref(), Some("Bob"));
    client(&zammad).new_call(&call("ours"), NewCall::default().users(["Alice", "Bob"])).await.unwrap();
    assert_eq!(row(&zammad, "ours").to_comment.as_deref(), Some("Alice, Bob"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_everything_to_whoever_answers_for_zammad() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    let front = Front::of(&zammad).await;
    let url = front.url(TOKEN);
    // Nobody vouches for this certificate.
    let ours = CtiClient::new(&url).unwrap().new_call(&call("c"), NewCall::default()).await;
    assert!(matches!(ours, Err(CtiError::Misconfigured(_))), "{ours:?}");
    assert!(zammad.requests().is_empty());
    python.act("new-call-checked", &url).await.raised("SSLError");
    assert!(zammad.requests().is_empty());
    python.act("new-call", &url).await.returned();
    assert_eq!(zammad.log().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_ever() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    // `tests/cti_client.rs`, `a_request_ends_in_time`, shows ours.
    assert_eq!(python.act("socket-timeout", &zammad.url()).await.returned(), &json!([null]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tries_once_and_its_error_holds_the_token() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    zammad.set_faults([Fault::answer_instead(zammad::Answer::nginx(502))]);
    let acted = python.act("new-call", &zammad.url()).await;
    assert!(acted.raised("HTTPError").contains(TOKEN), "{}", acted.said);
    assert_eq!((zammad.requests().len(), zammad.log().len()), (1, 0));

    zammad.set_faults([Fault::answer_instead(zammad::Answer::nginx(502))]);
    let error = client(&zammad).new_call(&call("c"), NewCall::default()).await.unwrap_err();
    assert!(error.is_retryable() && !format!("{error} {error:?}").contains(TOKEN), "{error}");
    // A script's; `tests/cli_send.rs` shows what --queue makes of it.
    zammad.set_faults([Fault::answer_instead(zammad::Answer::nginx(502))]);
    let words =
        ["send", "new-call", "--call-id", "c", "--direction", "in", "--from", CUSTOMER, "--to", "4930555"];
    let said = Program::start(&words, &[("ZammadCTI_URL", &zammad.url())]).end();
    assert_eq!(said.code, Some(75), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_zammad_has_is_an_error_to_it() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    python.act("new-call", &zammad.url()).await.returned();
    python.act("new-call", &zammad.url()).await.raised("HTTPError");
    let told = client(&zammad).new_call(&call("c"), NewCall::default()).await;
    assert_eq!(told, Ok(Done::AlreadyKnown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_outbound_answer_takes_the_customers_name() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    python.act("outbound-answer-user", &zammad.url()).await.returned();
    // `to` is the customer; ours does not compile: `cti::call`.
    assert_eq!(row(&zammad, "o").to_comment.as_deref(), Some("Alice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_sends_what_cannot_be_right() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    python.act("direction-inbound", &zammad.url()).await.raised("HTTPError");
    assert_eq!(zammad.requests().len(), 1);
    // Zammad cuts the id, and the hangup finds no call: it rings for ever.
    python.act("long-call-id", &zammad.url()).await.raised("HTTPError");
    assert!(zammad.log()[0].ringing());
    python.act("new-call-empty", &zammad.url()).await.returned();
    assert_eq!(row(&zammad, "c").from, "");
    // Ours: `cti::call`, `limits_are_zammads_to_the_character`, `what_is_empty_is_refused_and_says_so_without_the_rest`.
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plus_of_its_examples_passes_the_block_list() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    let block = Routing { block: vec![CUSTOMER.into()], ..Routing::default() };
    zammad.change(|settings| settings.routing = Some(block));
    assert_eq!(python.act("new-call-plus", &zammad.url()).await.returned(), &json!({}));
    let numbers = Numbers { from: "+4915112345678", to: "4930555" };
    let call = Call::inbound("ours".parse().unwrap(), numbers).unwrap();
    let told = client(&zammad).new_call(&call, NewCall::default()).await;
    assert_eq!(told, Ok(Done::Rejected { reason: "busy".into() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_turns_its_event_into_a_look() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    let redirect = || Fault::answer_instead(zammad::Answer::redirect(301, &zammad.url()));
    zammad.set_faults([redirect()]);
    python.act("new-call", &zammad.url()).await.raised("HTTPError");
    let methods: Vec<String> = zammad.requests().into_iter().map(|seen| seen.method).collect();
    assert_eq!((methods, zammad.log().len()), (vec!["POST".to_owned(), "GET".to_owned()], 0));
    zammad.set_faults([redirect()]);
    let error = client(&zammad).new_call(&call("c"), NewCall::default()).await.unwrap_err();
    assert!(matches!(&error, CtiError::Misconfigured(why) if why.contains("redirects")), "{error:?}");
    assert_eq!(zammad.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_repr_and_its_log_show_the_token_and_the_numbers() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    let shown = python.act("repr", &zammad.url()).await;
    assert!(shown.returned().as_str().unwrap().contains(TOKEN), "{}", shown.said);
    let acted = python.act("new-call", &zammad.url()).await;
    assert!(acted.log.contains(CUSTOMER) && acted.log.contains(TOKEN), "{}", acted.log);
    assert!(!format!("{:?}", client(&zammad)).contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_reads_other_variables_than_its_readme_says() {
    let Some(python) = Python::found() else { return };
    let zammad = zammad();
    let url = zammad.url();
    let acted = python.act_in("environment", "-", &[("ZammadCTI_URL", &url)]).await;
    assert!(acted.raised("ValueError").contains("ZAMMADCTI_URL"), "{}", acted.said);
    python.act_in("environment", "-", &[("ZAMMADCTI_URL", &url)]).await.returned();
    let words =
        ["send", "new-call", "--call-id", "o", "--direction", "in", "--from", CUSTOMER, "--to", "4930555"];
    for name in ["ZammadCTI_URL", "ZAMMADCTI_URL"] {
        assert_eq!(Program::start(&words, &[(name, &url)]).end().code, Some(0), "{name}");
    }
}
