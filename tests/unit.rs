//! The unit that comes with this: systemd understands it, it is as narrow as it was, and it fits the program.
//!
//! systemd's own tools judge it. Where they are missing that part is not run, and says so.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use freeswitch_zammad::daemon::STOP_MAX;
use freeswitch_zammad::edge::pulse::BOUND;

/// As `systemd-analyze security` counts, from 0 (narrow) to 10.
const EXPOSURE_MAX: f64 = 1.2;

#[test]
fn the_unit_is_as_narrow_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let unit = installed(dir.path());
    let Some(said) = analyze(&["security", "--offline=true", "--no-pager"], &unit) else { return };
    let text = String::from_utf8_lossy(&said.stdout);
    let verdict = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or(&text);
    let level = verdict.split_ascii_whitespace().find_map(|word| word.parse::<f64>().ok());
    let level = level.unwrap_or_else(|| panic!("no level in {verdict:?}"));
    assert!(level <= EXPOSURE_MAX, "{verdict}");
    assert!(level > 0.0, "{verdict}");
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let unit = installed(dir.path());
    let Some(said) = analyze(&["verify", "--man=no"], &unit) else { return };
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    // Of other units that it pulls in a machine may lack some.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("freeswitch-zammad.service")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    // It does tell what it does not understand.
    fs::write(&unit, fs::read_to_string(&unit).unwrap().replace("PrivateTmp=", "PrivateTemp=")).unwrap();
    let said = analyze(&["verify", "--man=no"], &unit).unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("PrivateTemp"), "{said:?}");
}

#[test]
fn the_unit_fits_the_program() {
    let text = fs::read_to_string(source()).unwrap();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key}"))
    };
    let seconds = |key: &str| value(key).parse::<u64>().unwrap();
    assert!(seconds("TimeoutStopSec") > STOP_MAX.as_secs(), "systemd would kill what is being written");
    assert!(seconds("WatchdogSec") / 2 >= BOUND.as_secs(), "the program would not be the first to know");
    assert_eq!(value("Type"), "notify");
    assert_eq!(value("RestartPreventExitStatus"), "78");
}

/// The unit as it will be found, beside a program that can be executed.
fn installed(dir: &Path) -> PathBuf {
    let unit = dir.join("freeswitch-zammad.service");
    let program = env!("CARGO_BIN_EXE_freeswitch-zammad");
    let text = fs::read_to_string(source()).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/freeswitch-zammad "));
    fs::write(&unit, text.replace("/usr/bin/freeswitch-zammad", program)).unwrap();
    unit
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/freeswitch-zammad.service")
}

/// What systemd's tool says of the unit; `None`, and a word about it, where there is none.
#[expect(clippy::print_stderr, reason = "what was not run must show")]
fn analyze(args: &[&str], unit: &Path) -> Option<Output> {
    match Command::new("systemd-analyze").args(args).arg(unit).env("SYSTEMD_COLORS", "0").output() {
        Ok(said) => Some(said),
        Err(why) => {
            assert!(std::env::var_os("NOTHING_LEFT_OUT").is_none(), "there is no systemd-analyze: {why}");
            eprintln!("NOT RUN: there is no systemd-analyze here ({why}); install systemd to run this");
            None
        }
    }
}
