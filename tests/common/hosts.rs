//! Hosts of their own for the nodes of a fleet, and the network between them: namespaces, joined by bridges that a host can be
//! taken off without a word. Needs root; without it a test says that it was not run, where nothing may be left out it fails.
//!
//! ```text
//!  node0 ──┐             this process, in a namespace of its own
//!  node1 ──┼─ bridge 1 ── 198.18.1.1   the switch
//!  node2 ──┼─ bridge 2 ── 198.18.2.1   Zammad
//!          └─ bridge 3 ── 198.18.3.1   PostgreSQL
//! ```
#![expect(clippy::print_stderr, reason = "a test that was not run says so")]

use std::fmt::Write as _;
use std::io::Write;
use std::process::{Command, Stdio};

/// Set for the process that runs in namespaces of its own.
const INSIDE: &str = "TEST_INSIDE_OWN_NAMESPACES";
/// What is tried before anything is promised.
const PROBE: &str = "mount -t tmpfs none /run/netns && ip netns add probe && ip netns exec probe true";

/// What a node talks to; its number is that of its bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Switch = 1,
    Zammad = 2,
    Postgres = 3,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Switch, Self::Zammad, Self::Postgres];

    /// Where it listens.
    pub(crate) fn address(self) -> String {
        format!("198.18.{}.1", self as u8)
    }
}

/// Whether the test of this name is to go on in this process: it is run again in one that has its network to itself, and ends
/// with it whatever happens.
pub(crate) fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if let Err(why) = probe() {
        assert!(std::env::var_os("NOTHING_LEFT_OUT").is_none(), "no network namespaces: {why}");
        eprintln!(
            "NOT RUN: there can be no network namespaces here (root, with iproute2 and util-linux?): {why}"
        );
        return false;
    }
    let mut again = unshare();
    again.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    assert!(again.status().unwrap().success(), "in its own namespaces it failed");
    false
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--"]);
    command
}

fn probe() -> Result<(), String> {
    std::fs::create_dir_all("/run/netns").map_err(|why| format!("/run/netns: {why}"))?;
    let tried = unshare().args(["sh", "-c", PROBE]).output().map_err(|why| format!("unshare: {why}"))?;
    if tried.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned())
    }
}

/// Lays the network for so many nodes. Only in a process that [`is_inside`].
pub(crate) fn lay(nodes: usize) {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none", "/run/netns"]).status().unwrap();
    assert!(mounted.success());
    // The bridges have a host of their own, which answers nothing.
    let mut here = "link set lo up\nnetns add bridges\n".to_owned();
    let mut there = String::new();
    for node in 0..nodes {
        writeln!(here, "netns add node{node}").unwrap();
    }
    for peer in Peer::ALL {
        let (at, address) = (peer as u8, peer.address());
        writeln!(there, "link add br{at} type bridge\nlink set br{at} up").unwrap();
        writeln!(here, "link add to{at} type veth peer name here{at} netns bridges").unwrap();
        writeln!(here, "address add {address}/24 dev to{at}\nlink set to{at} up").unwrap();
        writeln!(there, "link set here{at} master br{at} up").unwrap();
        for node in 0..nodes {
            let far = format!("link add to{at} type veth peer name {} netns bridges", port(node, peer));
            writeln!(here, "{far} netns-of node{node}").unwrap();
            writeln!(there, "link set {} master br{at} up", port(node, peer)).unwrap();
        }
    }
    // `ip -batch` knows one host at a time.
    let (far, near): (Vec<_>, Vec<_>) = here.lines().partition(|line| line.contains("netns-of"));
    batch(&[], &near.join("\n"));
    for node in 0..nodes {
        let host = format!("node{node}");
        let mut own = "link set lo up\n".to_owned();
        for line in far.iter().filter_map(|line| line.strip_suffix(&format!(" netns-of {host}"))) {
            writeln!(own, "{line}").unwrap();
        }
        for peer in Peer::ALL {
            let at = peer as u8;
            writeln!(own, "address add 198.18.{at}.{}/24 dev to{at}\nlink set to{at} up", node + 10).unwrap();
        }
        batch(&["-n", &host], &own);
    }
    batch(&["-n", "bridges"], &there);
}

/// What the node and its peer say to each other from now on is lost, and neither is told.
pub(crate) fn cut(node: usize, peer: Peer) {
    batch(&["-n", "bridges"], &format!("link set {} nomaster", port(node, peer)));
}

/// It is heard again, what is repeated of before included.
pub(crate) fn mend(node: usize, peer: Peer) {
    batch(&["-n", "bridges"], &format!("link set {} master br{}", port(node, peer), peer as u8));
}

fn port(node: usize, peer: Peer) -> String {
    format!("n{node}p{}", peer as u8)
}

fn batch(host: &[&str], lines: &str) {
    let mut ip = Command::new("ip");
    let mut ip = ip.args(host).args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "{lines}");
}
