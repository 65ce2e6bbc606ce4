//! What does not depend on how busy the machine is: allocations, and under callgrind instructions, for each event that is
//! decoded, followed or accepted.
//!
//! `counts NAME N` does the work N times and nothing else, for callgrind; without arguments allocations are told.

#[path = "accept.rs"]
#[allow(dead_code, reason = "only its groups")]
mod accept;
#[allow(dead_code, reason = "shared with the other program")]
mod corpus;
#[path = "decode.rs"]
#[allow(dead_code, reason = "only what is read")]
mod decode;
#[allow(dead_code, reason = "shared with the other program")]
mod disk;
#[allow(dead_code, reason = "shared with the other program")]
mod measure;
#[allow(dead_code, reason = "shared with the other program")]
mod server;
#[allow(dead_code, reason = "shared with the other program")]
mod track;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use freeswitch_zammad::store::Store;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: all is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps what `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Most times that the work is done. So much of it is always prepared: what is counted is the difference of two runs.
const TIMES_MAX: usize = 4;

/// What is counted: how many events, and the work on them.
type Work = (usize, Box<dyn FnOnce()>);

/// Its name, and what makes it: how many times.
type Kind = (&'static str, fn(usize) -> Work);

const KINDS: [Kind; 5] = [
    ("decode", decoding),
    ("track-10", |times| tracking(10, times)),
    ("track-10000", |times| tracking(10_000, times)),
    ("accept-1", |times| accepting(times, false)),
    ("accept-64", |times| accepting(times, true)),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    if let Some(name) = arguments.next() {
        let times = arguments.next().and_then(|n| n.parse().ok()).expect("counts NAME N");
        assert!(times <= TIMES_MAX);
        let kind = KINDS.iter().find(|(known, _)| *known == name).expect("a kind that there is");
        let (events, work) = (kind.1)(times);
        work();
        println!("{events}");
        return;
    }
    println!("| | allocations per event | bytes per event |\n|---|---|---|");
    for (name, kind) in KINDS {
        let (events, work) = kind(4);
        let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
        work();
        let per =
            |now: &AtomicU64, before: u64| (now.load(Ordering::Relaxed) - before) as f64 / events as f64;
        println!("| {name} | {:.1} | {:.0} |", per(&ALLOCATIONS, before.0), per(&BYTES, before.1));
    }
}

fn decoding(times: usize) -> Work {
    let (stream, events) = corpus::stream(&corpus::recordings());
    (events * times, Box::new(move || assert!(decode::from_memory(&stream, times) > 0)))
}

fn tracking(open: usize, times: usize) -> Work {
    let mut tracker = track::with_open(open);
    let mut events = track::some_calls(0, 100 * TIMES_MAX);
    events.truncate(events.len() / TIMES_MAX * times);
    (
        events.len(),
        Box::new(move || {
            track::run_calls(&mut tracker, &events);
        }),
    )
}

fn accepting(times: usize, grouped: bool) -> Work {
    let dir = disk::dir();
    let store = Store::open(dir.path(), corpus::limits()).expect("a fresh store");
    let mut requests =
        if grouped { accept::groups(10 * TIMES_MAX, "c") } else { corpus::accepted(50 * TIMES_MAX, "c") };
    requests.truncate(requests.len() / TIMES_MAX * times);
    let events = requests.iter().map(|r| r.events.len()).sum();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let work = move || {
        runtime.block_on(async {
            for request in requests {
                let _ = store.accept_in_place(request).await.expect("a sound disk");
            }
            store.close().await.expect("a sound disk");
        });
        drop(dir);
    };
    (events, Box::new(work))
}
