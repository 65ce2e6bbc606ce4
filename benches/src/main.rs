//! `cargo run --release --manifest-path benches/Cargo.toml -- [--quick] [ROW…]`: see `README.md` beside this.

mod accept;
mod backlog;
mod child;
mod corpus;
mod decode;
mod disk;
mod drain;
mod idle;
mod latency;
mod measure;
mod outbox;
#[path = "../../tests/common/postgres.rs"]
mod postgres;
mod server;
mod track;
#[path = "../../tests/common/unit.rs"]
mod unit;

use std::process::ExitCode;

use measure::{Row, Size};

type Bench = fn(Size) -> Vec<Row>;

const BENCHES: [(&str, Bench); 8] = [
    ("decode", decode::run),
    ("track", track::run),
    ("accept", accept::run),
    ("latency", latency::run),
    ("drain", drain::run),
    ("outbox", outbox::run),
    ("backlog", backlog::run),
    ("idle", idle::run),
];

fn main() -> ExitCode {
    if std::env::var_os(child::AS_DAEMON).is_some() {
        return freeswitch_zammad::cli::main();
    }
    let mut size = Size::Full;
    let mut wanted = Vec::new();
    for argument in std::env::args().skip(1) {
        match BENCHES.iter().find(|(name, _)| *name == argument) {
            Some(bench) => wanted.push(bench),
            None if argument == "--quick" => size = Size::Quick,
            None => {
                eprintln!("{argument}: no such row; there are {}", BENCHES.map(|(name, _)| name).join(", "));
                return ExitCode::from(2);
            }
        }
    }
    if wanted.is_empty() {
        wanted.extend(&BENCHES);
    }
    println!("| what | against | goal | result | |\n|---|---|---|---|---|");
    for (_, bench) in wanted {
        for row in bench(size) {
            println!("{row}");
        }
    }
    if size == Size::Quick {
        println!("\nToo little was measured to say anything: this shows only that the benches run.");
    }
    ExitCode::SUCCESS
}
