//! The status page is everybody's on this machine to read, without a number, and nobody's to order but who has a link.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/web.rs"]
mod web;

use std::fs::{self, DirEntry};
use std::path::Path;
use std::time::Duration;

use freeswitch_zammad::config::{Config, Environment, Overrides};
use freeswitch_zammad::edge::admin::{self, CONNECTIONS_MAX};
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::control::Live;
use freeswitch_zammad::sim::zammad::{Answer, Fault};
use freeswitch_zammad::store::{Limits, Store};
use program::run;
use road::within;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use web::{Web, ask};

/// The customer, and our number that they called.
const NUMBERS: [&str; 2] = ["4915112345678", "4930555"];

mod invariants {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn numbers_are_shown_in_a_session_only() {
        let web = Web::start("", "").await;
        let refusing = Answer::json(422, "{\"error\": \"from +4915112345678 is wrong\"}");
        web.zammad.set_fault_rule(move |seen| match seen.event.as_deref() {
            Some("newCall") => Fault::none(),
            Some(_) => Fault::answer_instead(refusing.clone()),
            None => Fault::none(),
        });
        let call = web.begin("in_answered_caller_hangs_up", "one");
        let answered = |all: &Value| all["calls_now"][0]["state"] == "talking" && all["queue"]["dead"] == 1;
        web.until("a call goes on, one event is dead", "/api/status", |reply| answered(&reply.json())).await;
        let masked = web.status().await;
        let now = &masked["calls_now"][0];
        assert_eq!((&now["from"], &now["direction"]), (&json!("••••78"), &json!("in")));
        assert!(now["answered_by"].is_string() && now["since_ms"].is_u64(), "{now}");
        assert_eq!(masked["dead_letters"].as_array().unwrap().len(), 1);
        assert_eq!(masked["masked"], true);

        for path in files().iter().map(String::as_str).chain(["/api/status", "/metrics", "/livez", "/readyz"])
        {
            let reply = web.get(path).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.body);
            none_of(&NUMBERS, &reply.body);
        }
        none_of(&NUMBERS, &first_tick(&web, "/api/live", &[]).await);
        for headers in [&[][..], &[("authorization", "Bearer 0123")], &[("authorization", "Basic eDp5")]] {
            for path in ["/api/status?reveal=1", "/api/live?reveal=1"] {
                assert_eq!(web.get_with(path, headers).await.status, 401);
            }
        }

        let session = format!("Bearer {}", web.session().await);
        let whole = web.get_with("/api/status?reveal=1", &[("authorization", &session)]).await.json();
        assert_eq!(whole["calls_now"][0]["from"], NUMBERS[0]);
        assert!(whole["dead_letters"][0]["note"].as_str().unwrap().contains(NUMBERS[0]), "{whole}");
        let live = first_tick(&web, "/api/live?reveal=1", &[("authorization", &session)]).await;
        assert!(live.contains(NUMBERS[0]), "{live}");
        // Not asked for, they stay hidden.
        none_of(&NUMBERS, &web.get_with("/api/status", &[("authorization", &session)]).await.body);

        web.end(&call);
        let over = |all: &Value| all["calls_now"] == json!([]) && all["calls"]["going_on"] == 0;
        web.until("the call is over", "/api/status", |reply| over(&reply.json())).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_ordered_without_a_session_nor_by_another_site() {
        let web = Web::start("", "").await;
        web.zammad.set_fault_rule(|seen| match seen.event {
            Some(_) => Fault::answer_instead(Answer::json(422, "{\"error\": \"no\"}")),
            None => Fault::none(),
        });
        let call = web.begin("in_answered_caller_hangs_up", "one");
        web.end(&call);
        let dead = |all: &Value| all["queue"]["dead"] == 3 && all["queue"]["waiting"] == 0;
        web.until("all is dead", "/api/status", |reply| dead(&reply.json())).await;
        web.zammad.clear_faults();

        let session = format!("Bearer {}", web.session().await);
        let all = json!({ "all": true });
        let with = |more: &[(&'static str, &'static str)]| {
            let mut headers = vec![("authorization".to_owned(), session.clone())];
            headers.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            headers
        };
        for (headers, status) in [
            (vec![], 401),
            (vec![("authorization".to_owned(), "Bearer nonsense".to_owned())], 401),
            (with(&[("origin", "https://evil.example")]), 403),
            (with(&[("origin", "http://127.0.0.1:1")]), 403),
            (with(&[("sec-fetch-site", "cross-site")]), 403),
            (with(&[("sec-fetch-site", "same-site")]), 403),
        ] {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let reply = web.post("/api/replay", &all, &headers).await;
            assert_eq!(reply.status, status, "{headers:?}: {}", reply.body);
        }
        let session = [("authorization", session.as_str())];
        assert_eq!(web.get_with("/api/replay", &session).await.status, 405);
        assert_eq!(web.post("/api/replay", &json!("x"), &session).await.status, 422);
        assert_eq!(web.status().await["queue"]["dead"], 3);

        // One, then the rest.
        let first = web.status().await["dead_letters"].as_array().unwrap().last().unwrap()["seq"].clone();
        let one = web.post("/api/replay", &json!({ "seqs": [first] }), &session).await;
        assert_eq!(one.json(), json!({ "replayed": 1 }));
        assert_eq!(web.post("/api/replay", &all, &session).await.json(), json!({ "replayed": 2 }));
        let told = |all: &Value| all["queue"]["delivered_kept"] == 3 && all["queue"]["dead"] == 0;
        web.until("all is told", "/api/status", |reply| told(&reply.json())).await;

        let mut looking = view(&web, "/api/live?reveal=1", &session).await;
        looking.read_line(&mut String::new()).await.unwrap();
        assert_eq!(web.post("/api/session/end", &json!({}), &session).await.status, 200);
        // Who looks on is let go too; the connection is kept for another request, as the end of a stream is none of its own.
        let mut seen = String::new();
        within("the stream ends", async {
            while !seen.ends_with("\r\n0\r\n") {
                assert!(looking.read_line(&mut seen).await.unwrap() > 0, "{seen}");
            }
        })
        .await;
        assert_eq!(web.post("/api/replay", &all, &session).await.status, 401);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_link_is_good_once_and_only_the_control_socket_makes_one() {
        let web = Web::start("", "").await;
        let link = web.link();
        assert!(link.starts_with(&format!("http://{}/#key=", web.address)), "{link}");
        let key = json!({ "key": link.split_once("#key=").unwrap().1 });
        let evil = [("origin", "https://evil.example")];
        assert_eq!(web.post("/api/session", &key, &evil).await.status, 403);
        assert_eq!(web.post("/api/session", &json!({ "key": "guess" }), &[]).await.status, 401);
        assert_eq!(web.post("/api/session", &key, &[]).await.status, 200);
        let again = web.post("/api/session", &key, &[]).await;
        assert_eq!(again.status, 401);
        assert!(again.json()["error"].as_str().unwrap().contains("make another"));
        // What was said of it anywhere is not the key.
        assert!(!web.program.err().contains(key["key"].as_str().unwrap()));

        let file = web.dir.path().join("config.toml");
        let without =
            std::fs::read_to_string(&file).unwrap().replace("[admin]\nlisten = \"127.0.0.1:0\"", "");
        web.program.signal("TERM");
        assert_eq!(web.program.end().code, Some(0));
        std::fs::write(&file, without).unwrap();
        let args = ["page", "--config", file.to_str().unwrap()];
        assert!(run(&args).sentence().contains("the daemon is not running"));
        let mut running = program::Program::start(&["run", "--config", file.to_str().unwrap()], &[]);
        running.wait_for("listening to the switch");
        let said = run(&args);
        assert!(said.code == Some(1) && said.sentence().contains("there is no status page"), "{said:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reload_leaves_the_page_where_it_is_and_says_what_a_restart_would_change() {
        let web = Web::start("", "").await;
        let file = web.dir.path().join("config.toml");
        let before = std::fs::read_to_string(&file).unwrap();
        let listen = "[admin]\nlisten = \"127.0.0.1:0\"";
        let asks = |web: &Web| web.program.err().matches("needs a restart").count();
        let changes = [
            ("[admin]\nlisten = \"127.0.0.1:1\"", 1),
            ("[admin]\nlisten = \"127.0.0.1:0\"\nhost = \"status.example.com\"", 2),
            ("", 3),
            // As it runs: nothing is left to be said.
            (listen, 3),
        ];
        for (reloads, (admin, warnings)) in (1..).zip(changes) {
            std::fs::write(&file, before.replace(listen, admin)).unwrap();
            web.program.signal("HUP");
            let done =
                || web.program.err().matches("reloaded: the configuration is in use").count() == reloads;
            assert!(crate::program::wait(done), "{}", web.program.err());
            assert_eq!(asks(&web), warnings, "{admin:?}: {}", web.program.err());
            assert_eq!(web.get("/livez").await.status, 200, "{admin:?}");
        }
        let said = web.program.err();
        let warning = said.lines().find(|line| line.contains("needs a restart")).unwrap();
        assert!(warning.contains("WARN") && warning.contains("[admin]: the status page stays"), "{warning}");
        assert!(warning.contains("systemctl restart freeswitch-zammad"), "{warning}");
        std::fs::write(&file, before.replace(listen, "")).unwrap();
        web.program.signal("TERM");
        assert_eq!(web.program.end().code, Some(0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_that_goes_on_is_still_shown_after_a_restart() {
        let mut web = Web::start("", "").await;
        let call = web.begin("in_answered_caller_hangs_up", "one");
        let talks = |all: &Value| all["calls_now"][0]["state"] == "talking" && all["queue"]["waiting"] == 0;
        web.until("it goes on", "/api/status", |reply| talks(&reply.json())).await;
        let before = web.status().await["calls_now"][0].clone();
        web.restart();
        web.until("it goes on still", "/api/status", |reply| talks(&reply.json())).await;
        let after = web.status().await;
        let (now, all) = (&after["calls_now"][0], after["calls_now"].as_array().unwrap().len());
        for key in ["id", "switch", "direction", "from", "to", "answered_by"] {
            assert_eq!(now[key], before[key], "{key}");
        }
        assert_eq!((all, &after["calls"]["going_on"]), (1, &json!(1)));
        web.end(&call);
        web.until("it is over", "/api/status", |reply| reply.json()["calls_now"] == json!([])).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_answer_keeps_other_sites_out() {
        let web = Web::start("", "").await;
        for path in
            files().iter().map(String::as_str).chain(["/metrics", "/api/status", "/livez", "/nothing"])
        {
            let reply = web.get(path).await;
            assert_eq!(reply.status, if path == "/nothing" { 404 } else { 200 });
            let policy = reply.header("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
            assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            assert_eq!(reply.header("access-control-allow-origin"), None);
            // A name that was made to lead here.
            for host in
                ["evil.example", &format!("evil.example:{}", web.address.port()), "127.0.0.1.evil.example"]
            {
                let reply = ask(web.address, "GET", path, &[("host", host)], "").await;
                assert_eq!(reply.status, 421, "{host}{path}");
            }
            assert_eq!(ask(web.address, "GET", path, &[], "").await.status, 421);
        }
        let local = format!("localhost:{}", web.address.port());
        assert_eq!(ask(web.address, "GET", "/api/status", &[("host", &local)], "").await.status, 200);
    }
}

mod known_errors {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_silent_and_greedy_clients_harm_only_the_page() {
        let web = Web::start("", "").await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(web.address).await.unwrap());
        }
        // Beyond them: closed at once.
        let mut more = TcpStream::connect(web.address).await.unwrap();
        let mut said = Vec::new();
        // Long before the ten seconds that a silent one is waited for.
        let closed = tokio::time::timeout(Duration::from_secs(5), more.read_to_end(&mut said)).await;
        assert!(closed.is_ok(), "there is room for more than {CONNECTIONS_MAX}");
        assert_eq!(said, b"");
        // Calls are told meanwhile.
        let call = web.begin("in_answered_caller_hangs_up", "one");
        web.end(&call);
        let ended =
            |rows: &[freeswitch_zammad::sim::zammad::Row], _: &[_]| rows.iter().any(|r| r.state == "hangup");
        within("the call is told", web.zammad.wait_until(ended)).await;
        silent.clear();
        web.until("there is room again", "/livez", |reply| reply.status == 200).await;

        let long = "x".repeat(20_000);
        assert_eq!(web.get_with("/", &[("x-long", &long)]).await.status, 431);
        let body = json!({ "key": "x".repeat(100_000) });
        assert_eq!(web.post("/api/session", &body, &[]).await.status, 413);

        let mut viewers = Vec::new();
        let refused = loop {
            let mut viewer = view(&web, "/api/live", &[]).await;
            let mut first = String::new();
            viewer.read_line(&mut first).await.unwrap();
            if !first.contains(" 200 ") {
                break first;
            }
            viewers.push(viewer);
        };
        assert_eq!((viewers.len(), refused.trim_end()), (16, "HTTP/1.1 503 Service Unavailable"));
        viewers.pop();
        web.until("a place is free", "/livez", |reply| reply.status == 200).await;
        within("a viewer is let in", async {
            loop {
                let mut first = String::new();
                view(&web, "/api/live", &[]).await.read_line(&mut first).await.unwrap();
                if first.contains(" 200 ") {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_address_that_is_taken_keeps_no_call_from_being_told() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Web::start("", "").await;
        let file = web.dir.path().join("config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
        let text = text.replace("\"state\"", "\"other-state\"");
        std::fs::write(&file, text).unwrap();
        let args = ["run", "--config", file.to_str().unwrap()];
        let mut second = program::Program::start(&args, &[]);
        second.wait_for("no status page, metrics and health: this address cannot be had");
        second.wait_for("listening to the switch");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_or_half_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let age = Duration::from_secs(3600);
        let limits = Limits {
            delivered_max: 10,
            delivered_age: age,
            dead_max: 10,
            dead_age: age,
            swap_bytes: u64::MAX,
            together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
        };
        let store = Store::open(dir.path(), limits).unwrap();
        let page = admin::listen(([127, 0, 0, 1], 0).into(), None).await.unwrap();
        let (address, stop) = (page.admin().address(), CancellationToken::new());
        let serving = tokio::spawn(page.serve(store.clone(), Live::new(clock::now()), stop.clone()));
        for said in ["", "GET / HTTP/1.1\r\nhost: 127.0", "GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"] {
            let mut silent = TcpStream::connect(address).await.unwrap();
            silent.write_all(said.as_bytes()).await.unwrap();
            // Time jumps to whatever is waited for next; on the daemon's side that is the end of its patience.
            let minute = Duration::from_secs(60);
            let let_go = tokio::time::timeout(minute, silent.read_to_end(&mut Vec::new())).await;
            assert!(let_go.is_ok(), "{said:?}");
        }
        stop.cancel();
        serving.await.unwrap();
        store.close().await.unwrap();
    }

    #[test]
    fn beyond_loopback_only_if_that_is_said() {
        for (admin, fault) in [
            ("listen = \"127.0.0.1:8022\"", ""),
            ("listen = \"[::1]:0\"", ""),
            ("listen = \"0.0.0.0:8022\"\nallow_remote = true", ""),
            ("listen = \"127.0.0.1:8022\"\nhost = \"status.example.com\"", ""),
            ("listen = \"0.0.0.0:8022\"", "can be reached from other machines"),
            ("listen = \"192.0.2.1:8022\"\nallow_remote = false", "can be reached from other machines"),
            ("listen = \"localhost:8022\"", "is no ADDRESS:PORT"),
            ("listen = \"8022\"", "is no ADDRESS:PORT"),
            ("listen = \"127.0.0.1:8022\"\nhost = \"https://x\"", "is no host name"),
            ("lisen = \"127.0.0.1:8022\"", "did you mean listen?"),
        ] {
            let text = format!(
                "country = \"DE\"\n[[switch]]\npassword = \"x\"\n[[zammad]]\nurl = \"https://z.example/api/v1/cti/T\"\n[admin]\n{admin}\n"
            );
            let nothing = Environment::from_iter(std::iter::empty::<(String, String)>());
            let judged = Config::judge(&text, Path::new("/c.toml"), &Overrides::default(), &nothing);
            let said = judged.err().map(|why| why.to_string()).unwrap_or_default();
            assert!(said.contains(fault) && said.is_empty() == fault.is_empty(), "{admin}: {said}");
        }
    }
}

/// Where each file of the page is to be had.
fn files() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/edge/admin/page");
    let name = |file: std::io::Result<DirEntry>| file.unwrap().file_name().into_string().unwrap();
    let paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| format!("/{}", name(file).replace("index.html", "")))
        .collect();
    assert!(paths.len() > 3);
    paths
}

fn none_of(numbers: &[&str], text: &str) {
    for number in numbers {
        assert!(!text.contains(number), "{number} in {text}");
    }
}

async fn view(web: &Web, path: &str, headers: &[(&str, &str)]) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(web.address).await.unwrap();
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n", web.address);
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    BufReader::new(stream)
}

/// The first event of a stream.
async fn first_tick(web: &Web, path: &str, headers: &[(&str, &str)]) -> String {
    let mut stream = view(web, path, headers).await;
    within("a tick", async {
        loop {
            let mut line = String::new();
            assert!(stream.read_line(&mut line).await.unwrap() > 0, "the stream ended");
            if line.starts_with("data: ") {
                return line;
            }
        }
    })
    .await
}
