//! Frames against the book (RFC 6455 §5) and against tungstenite, which shares no line with them.

use std::io::{self, Cursor, Read, Write};

use proptest::collection::vec;
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{self, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use super::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Repeatable bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect()
}

/// A frame by hand, with a head as short as it can be.
fn by_hand(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mask_bit = if key.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(mask_bit | length as u8),
        length @ 126..65_536 => {
            frame.push(mask_bit | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(mask_bit | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(key.iter().flatten());
    let key = key.unwrap_or_default();
    frame.extend(
        payload
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ key[at % 4]),
    );
    frame
}

/// Everything that came out of a stream of frames.
#[derive(Debug, Default, PartialEq)]
struct Received {
    binary: Vec<u8>,
    texts: Vec<String>,
    ping: Option<Vec<u8>>,
    close: Option<Vec<u8>>,
}

/// Takes a stream in pieces of these sizes, over and over.
fn received(role: Role, stream: &[u8], sizes: &[usize]) -> Result<Received, FrameError> {
    let mut incoming = Incoming::new(role);
    let mut received = Received::default();
    let mut sizes = sizes.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let size = sizes
            .next()
            .copied()
            .unwrap_or(rest.len())
            .clamp(1, rest.len());
        let mut piece = rest[..size].to_vec();
        rest = &rest[size..];
        let binary = incoming.take(&mut piece, &mut received.texts)?;
        received.binary.extend_from_slice(&piece[..binary]);
        if let Some(ping) = incoming.take_ping() {
            received.ping = Some(ping);
        }
    }
    received.close = incoming.close().map(<[u8]>::to_vec);
    Ok(received)
}

#[test]
fn the_examples_of_the_book_are_read() {
    // RFC 6455 §5.7.
    let hello = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    let read = received(Role::Server, &hello, &[]).unwrap();
    assert_eq!(read.texts, ["Hello"]);
    let fragments = [0x01, 0x03, b'H', b'e', b'l', 0x80, 0x02, b'l', b'o'];
    let read = received(Role::Client, &fragments, &[]).unwrap();
    assert_eq!(read.texts, ["Hello"]);
    let ping = [0x89, 0x05, b'H', b'e', b'l', b'l', b'o'];
    let read = received(Role::Client, &ping, &[]).unwrap();
    assert_eq!(read.ping.as_deref(), Some(&b"Hello"[..]));
    for (length, head) in [
        (256, &[0x82, 0x7e, 0x01, 0x00][..]),
        (65_536, &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut batch = Batch::default();
        batch.push(&pattern(length));
        let (frame, begin) = batch.finish(Vec::new());
        assert_eq!(&frame[begin..begin + head.len()], head);
        let read = received(Role::Client, &frame[begin..], &[]).unwrap();
        assert_eq!(read.binary, pattern(length));
    }
}

#[test]
fn a_batch_is_masked_alike_however_it_is_collected() {
    for length in (0..70).chain([PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 3]) {
        let payload = pattern(length);
        for first in (0..length.min(9)).chain([length]) {
            for second in 0..(length - first).min(9) {
                let mut batch = Batch::default();
                batch.set_key(Some(KEY));
                let (a, rest) = payload.split_at(first);
                let (b, c) = rest.split_at(second);
                for part in [a, b, c] {
                    batch.push(part);
                }
                assert_eq!(batch.len(), length);
                let (frame, begin) = batch.finish(Vec::new());
                assert_eq!(frame[begin..], by_hand(0x82, &payload, Some(KEY)));
                assert_eq!(batch.len(), 0);
            }
        }
    }
}

#[test]
fn a_frame_is_unmasked_alike_wherever_it_is_cut() {
    // Two frames, so that heads are cut too, at every place.
    let stream = [
        by_hand(0x82, &pattern(33), Some(KEY)),
        by_hand(0x82, &pattern(200), Some([1, 2, 3, 4])),
    ]
    .concat();
    let whole = [pattern(33), pattern(200)].concat();
    for first in 1..stream.len() {
        for second in [1, 2, 3, 5, 8, 13] {
            let read = received(Role::Server, &stream, &[first, second]).unwrap();
            assert_eq!(read.binary, whole, "cut at {first}, then every {second}");
        }
    }
}

#[test]
fn a_batch_goes_on_in_the_memory_that_it_is_given() {
    let mut batch = Batch::default();
    batch.set_key(Some(KEY));
    batch.push(b"first");
    let (first, _) = batch.finish(b"what was sent long ago".to_vec());
    batch.push(b"second");
    let (second, begin) = batch.finish(first);
    assert_eq!(second[begin..], by_hand(0x82, b"second", Some(KEY)));
}

#[test]
fn control_frames_come_between_fragments_and_between_bytes() {
    let stream = [
        by_hand(0x02, b"a", Some(KEY)),
        by_hand(0x89, b"one", Some(KEY)),
        by_hand(0x00, b"", Some(KEY)),
        by_hand(0x8a, b"nobody asked", Some(KEY)),
        by_hand(0x89, b"two", Some(KEY)),
        by_hand(0x80, b"b", Some(KEY)),
        by_hand(0x01, "grü".as_bytes(), Some(KEY)),
        by_hand(0x89, b"", Some(KEY)),
        by_hand(0x80, "ße".as_bytes(), Some(KEY)),
        by_hand(0x88, &[3, 232], Some(KEY)),
        b"what follows a close frame does not count".to_vec(),
    ]
    .concat();
    for size in 1..stream.len() {
        let read = received(Role::Server, &stream, &[size]).unwrap();
        let expected = Received {
            binary: b"ab".to_vec(),
            texts: vec!["grüße".to_owned()],
            ping: Some(Vec::new()),
            close: Some(vec![3, 232]),
        };
        assert_eq!(read, expected, "in pieces of {size}");
    }
}

#[test]
fn what_no_websocket_sends_is_refused_wherever_it_is_cut() {
    let masked = |first, payload: &[u8]| by_hand(first, payload, Some(KEY));
    let half = vec![b'x'; MAX_MESSAGE / 2 + 1];
    let over = (MAX_MESSAGE as u64 + 1).to_be_bytes();
    let long = |first, length: [u8; 8]| [&[first, 0xff][..], &length, &KEY].concat();
    let cases = [
        (FrameError::Mask, by_hand(0x82, b"x", None)),
        (FrameError::ReservedBit, masked(0xc2, b"x")),
        (FrameError::ReservedBit, masked(0x92, b"x")),
        (FrameError::UnknownOperation(3), masked(0x83, b"x")),
        (FrameError::UnknownOperation(15), masked(0x8f, b"x")),
        (FrameError::Control, masked(0x89, &[0; 126])),
        (FrameError::Control, masked(0x09, b"x")),
        (FrameError::Control, masked(0x88, b"x")),
        (FrameError::Fragments, masked(0x80, b"x")),
        (
            FrameError::Fragments,
            [masked(0x02, b"x"), masked(0x82, b"x")].concat(),
        ),
        (
            FrameError::Fragments,
            [masked(0x01, b"x"), masked(0x02, b"x")].concat(),
        ),
        (FrameError::TooLong, long(0x82, over)),
        (FrameError::TooLong, long(0x81, over)),
        (FrameError::TooLong, long(0x82, [0xff; 8])),
        (
            FrameError::TooLong,
            [masked(0x02, &half), masked(0x80, &half)].concat(),
        ),
        (FrameError::Text, masked(0x81, &[0xff, 0xfe])),
        (
            FrameError::Text,
            [masked(0x01, "ü".as_bytes()), masked(0x80, &[0xc3])].concat(),
        ),
    ];
    for (error, stream) in cases {
        let sizes: &[usize] = if stream.len() > 1000 {
            &[4096]
        } else {
            &[1, 2, 3, 1000]
        };
        for size in sizes {
            let read = received(Role::Server, &stream, &[*size]);
            assert_eq!(read, Err(error), "in pieces of {size}");
        }
    }
    let masked_by_a_server = by_hand(0x82, b"x", Some(KEY));
    let read = received(Role::Client, &masked_by_a_server, &[]);
    assert_eq!(read, Err(FrameError::Mask));
}

#[test]
fn a_head_takes_no_more_bytes_than_its_length_needs() {
    for (length, wanted) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        for key in [None, Some(KEY)] {
            let (_, got) = head(Operation::Binary, length, key);
            assert_eq!(got, wanted + key.map_or(0, |key| key.len()), "{length}");
        }
    }
}

/// A message to send.
#[derive(Debug, Clone)]
enum Sent {
    /// In fragments of at most this size, with a PING after each.
    Binary(Vec<u8>, usize),
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let edge = prop_oneof![
        0..20_usize,
        120..130_usize,
        65_530..65_540_usize,
        0..100_000_usize
    ];
    let payload = (edge, any::<u8>()).prop_map(|(length, seed)| {
        let mut payload = pattern(length);
        payload.iter_mut().for_each(|byte| *byte ^= seed);
        payload
    });
    let fragment = prop_oneof![Just(usize::MAX), 1..70_000_usize];
    prop_oneof![
        4 => (payload, fragment).prop_map(|(payload, size)| {
            // A handful of fragments is enough.
            let size = size.max(payload.len() / 5 + 1);
            Sent::Binary(payload, size)
        }),
        2 => ".{0,200}".prop_map(Sent::Text),
        1 => vec(any::<u8>(), 0..=125).prop_map(Sent::Ping),
        1 => vec(any::<u8>(), 0..=125).prop_map(Sent::Pong),
    ]
}

/// A socket of tungstenite's with what it reads and writes in memory.
struct Memory {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other implementation's end of a WebSocket at which we are `ours`.
fn theirs(ours: Role, input: Vec<u8>) -> WebSocket<Memory> {
    let role = match ours {
        Role::Client => protocol::Role::Server,
        Role::Server => protocol::Role::Client,
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let memory = Memory {
        input: Cursor::new(input),
        output: Vec::new(),
    };
    WebSocket::from_raw_socket(memory, role, Some(config))
}

/// What the other implementation puts on the wire for these messages, and what we should read.
fn written_by_theirs(ours: Role, messages: &[Sent]) -> (Vec<u8>, Received) {
    let mut socket = theirs(ours, Vec::new());
    let mut expected = Received::default();
    let mut write = |message| socket.write(message).unwrap();
    for message in messages {
        match message {
            Sent::Binary(payload, size) => {
                expected.binary.extend_from_slice(payload);
                let mut code = OpCode::Data(Data::Binary);
                let mut rest = payload.as_slice();
                loop {
                    let (part, after) = rest.split_at(rest.len().min(*size));
                    let is_final = after.is_empty();
                    write(Message::Frame(Frame::message(
                        part.to_vec(),
                        code,
                        is_final,
                    )));
                    if is_final {
                        break;
                    }
                    write(Message::Ping("between".into()));
                    expected.ping = Some(b"between".to_vec());
                    (code, rest) = (OpCode::Data(Data::Continue), after);
                }
            }
            Sent::Text(text) => {
                expected.texts.push(text.clone());
                write(Message::text(text.as_str()));
            }
            Sent::Ping(payload) => {
                expected.ping = Some(payload.clone());
                write(Message::Ping(payload.clone().into()));
            }
            Sent::Pong(payload) => write(Message::Pong(payload.clone().into())),
        }
    }
    socket.flush().unwrap();
    (std::mem::take(&mut socket.get_mut().output), expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_tungstenite_writes_is_read(
        is_server in any::<bool>(),
        messages in vec(sent(), 0..8),
        sizes in vec(1..70_000_usize, 1..6),
    ) {
        let role = if is_server { Role::Server } else { Role::Client };
        let (stream, expected) = written_by_theirs(role, &messages);
        prop_assert_eq!(received(role, &stream, &sizes), Ok(expected));
    }

    #[test]
    fn tungstenite_reads_what_is_written(
        is_client in any::<bool>(),
        messages in vec(sent(), 0..8),
        key in any::<[u8; 4]>(),
    ) {
        let (role, key) = if is_client { (Role::Client, Some(key)) } else { (Role::Server, None) };
        let mut stream = Vec::new();
        let mut batch = Batch::default();
        let mut expected = Vec::new();
        for message in messages {
            match message {
                Sent::Binary(payload, size) => {
                    if payload.is_empty() {
                        continue;
                    }
                    batch.set_key(key);
                    payload.chunks(size).for_each(|part| batch.push(part));
                    let (frame, begin) = batch.finish(Vec::new());
                    stream.extend_from_slice(&frame[begin..]);
                    expected.push(Message::Binary(payload.into()));
                }
                Sent::Text(text) => {
                    push_text(&mut stream, &text, key);
                    expected.push(Message::text(text));
                }
                Sent::Ping(payload) | Sent::Pong(payload) => {
                    push_pong(&mut stream, &payload, key);
                    expected.push(Message::Pong(payload.into()));
                }
            }
        }
        push_close(&mut stream, &[3, 232], key);
        let mut socket = theirs(role, stream);
        for message in expected {
            prop_assert_eq!(socket.read().unwrap(), message);
        }
        prop_assert!(matches!(socket.read(), Ok(Message::Close(Some(_)))));
    }

    /// Nothing that tungstenite refuses gets through here; and nothing panics.
    #[test]
    fn what_tungstenite_refuses_is_refused(
        is_server in any::<bool>(),
        frames in vec((any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..140)), 1..6),
    ) {
        let role = if is_server { Role::Server } else { Role::Client };
        let stream: Vec<u8> = frames
            .into_iter()
            // Mostly frames that could be.
            .flat_map(|(first, mask, payload)| {
                let first = if mask % 4 == 0 { first } else { first & 0x8b };
                let key = (is_server != (mask % 16 == 1)).then_some([mask, first, 7, 9]);
                by_hand(first, &payload, key)
            })
            .collect();
        let ours = received(role, &stream, &[]);
        let mut socket = theirs_alike(role, stream);
        let refused = loop {
            match socket.read() {
                Ok(Message::Close(_)) => break false,
                Ok(_) => {}
                // They look into a text before its end, and into the text of a reason.
                Err(Error::Utf8(_)) => break false,
                Err(Error::Protocol(
                    tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                )) => break false,
                Err(_) => break true,
            }
        };
        prop_assert!(!refused || ours.is_err(), "{:?}", ours);
    }
}

/// The other implementation in our own role.
fn theirs_alike(role: Role, input: Vec<u8>) -> WebSocket<Memory> {
    match role {
        Role::Client => theirs(Role::Server, input),
        Role::Server => theirs(Role::Client, input),
    }
}
