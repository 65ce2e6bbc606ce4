//! The recorded events from a loopback socket, every header read that the call tracker may ask for.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use freeswitch_esl_tokio::{EslClient, EslConnectOptions, EventFormat, EventOverflow};
use freeswitch_zammad::call::HEADERS;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::esl::command::SUBSCRIPTION;
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::esl::frame::FrameDecoder;
use freeswitch_zammad::esl::session::{Login, Output, Session};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::codec::FramedRead;

use crate::measure::{Row, Size, in_turns};
use crate::{corpus, server};

/// As the daemon reads.
const READ_SIZE: usize = 64 * 1024;

pub(crate) fn run(size: Size) -> Vec<Row> {
    let (stream, events) = corpus::stream(&corpus::recordings());
    let times = size.of(30, 2);
    let address = server::switch(stream, times);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut heard = (0, 0);
    let mut sums = (0, 0);
    let ratios = in_turns(
        size.of(11, 1),
        |_| {
            let (took, count, sum) = runtime.block_on(ours(address));
            (heard.0, sums.0) = (count, sum);
            took
        },
        |_| {
            let (took, count, sum) = runtime.block_on(theirs(address));
            (heard.1, sums.1) = (count, sum);
            took
        },
    );
    assert_eq!(heard, (events * times, events * times), "neither dropped an event");
    // Of a header that stands twice we take the first, they the last: only nearly the same bytes are read.
    assert!(sums.0.abs_diff(sums.1) * 100 < sums.0, "both read the same values: {sums:?}");
    let median = ratios.median();
    vec![Row {
        what: "decode the recorded events from a loopback socket, reading all 70 headers the tracker may ask for",
        against: "freeswitch-esl-tokio 2.8, never dropping",
        goal: "≥ 10".into(),
        result: ratios.to_string(),
        met: Some(median >= 10.0),
    }]
}

/// Reads what the tracker may ask for; how many bytes that is.
pub(crate) fn read_ours(event: &Event) -> usize {
    HEADERS.iter().filter_map(|name| event.get(name)).map(|value| value.len()).sum()
}

async fn ours(address: SocketAddr) -> (Duration, usize, usize) {
    let socket = TcpStream::connect(address).await.expect("the bench's switch");
    let (read, mut write) = socket.into_split();
    let mut frames = FramedRead::with_capacity(read, FrameDecoder::default(), READ_SIZE);
    let login = Login { user: None, password: "ClueCon".into() };
    let mut session = Session::new(login, Duration::from_secs(60), clock::now());
    let (mut count, mut sum, mut begun) = (0, 0, clock::monotonic());
    while let Some(frame) = frames.next().await {
        session.handle_frame(frame.expect("a frame"), clock::now());
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send(bytes) => {
                    begun = clock::monotonic();
                    write.write_all(&bytes).await.expect("the bench's switch reads");
                }
                Output::Event(event) => {
                    count += 1;
                    sum += read_ours(&event);
                }
                Output::Listening => {}
                Output::Skipped(_) | Output::Answer { .. } | Output::Fault(_) => panic!("{output:?}"),
            }
        }
    }
    (begun.elapsed(), count, sum)
}

async fn theirs(address: SocketAddr) -> (Duration, usize, usize) {
    let options = EslConnectOptions::new()
        .with_event_queue_size(100_000)
        .with_event_overflow(EventOverflow::BlockFor(Duration::from_secs(60)));
    let connected = EslClient::connect_with_options("127.0.0.1", address.port(), "ClueCon", options).await;
    let (client, mut events) = connected.expect("the bench's switch");
    let begun = clock::monotonic();
    let wanted = SUBSCRIPTION.trim_start_matches("event plain ");
    client.subscribe_events_raw(EventFormat::Plain, wanted).await.expect("everybody is let in");
    let (mut count, mut sum) = (0, 0);
    while let Some(event) = events.recv().await {
        let Ok(event) = event else { break };
        count += 1;
        sum += HEADERS.iter().filter_map(|name| event.header_str(name)).map(str::len).sum::<usize>();
    }
    (begun.elapsed(), count, sum)
}

#[allow(dead_code, reason = "only the counting program does")]
/// The same without a socket, for counting: `times` over, from memory.
pub(crate) fn from_memory(stream: &Bytes, times: usize) -> usize {
    use tokio_util::codec::Decoder;
    let mut sum = 0;
    for _ in 0..times {
        let mut decoder = FrameDecoder::default();
        let mut buffer = bytes::BytesMut::from(&stream[..]);
        while let Some(frame) = decoder.decode(&mut buffer).expect("a frame") {
            sum += read_ours(&Event::parse(&frame.body).expect("a recorded event"));
        }
    }
    sum
}
