//! Any bytes as what an agent or an edge sends on its WebSocket. May not read a message of its own making.
#![no_main]

use std::io::{Cursor, Read, Write};

use libfuzzer_sys::fuzz_target;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{self, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

// The one file, for the whole crate would link TLS and a runtime.
#[expect(dead_code, reason = "only the receiving half is fuzzed")]
#[path = "../../crates/tunnel/link/src/frames.rs"]
mod frames;

use frames::{FrameError, Incoming, MAX_MESSAGE, Role};

#[derive(Debug, Default, PartialEq)]
struct Received {
    binary: Vec<u8>,
    texts: Vec<String>,
    ping: Option<Vec<u8>>,
    close: Option<Vec<u8>>,
}

fn received(role: Role, stream: &[u8], size: usize) -> Result<Received, FrameError> {
    let mut incoming = Incoming::new(role);
    let mut received = Received::default();
    for piece in stream.chunks(size) {
        let mut piece = piece.to_vec();
        let binary = incoming.take(&mut piece, &mut received.texts)?;
        received.binary.extend_from_slice(&piece[..binary]);
        assert!(incoming.has_ping() || incoming.take_ping().is_none());
        if let Some(ping) = incoming.take_ping() {
            assert!(ping.len() <= 125);
            received.ping = Some(ping);
        }
    }
    received.close = incoming.close().map(<[u8]>::to_vec);
    Ok(received)
}

struct Silent(Cursor<Vec<u8>>);

impl Read for Silent {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Silent {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What another implementation reads; `None` where it stops for a reason that we do not share.
fn theirs(role: Role, stream: &[u8]) -> Option<Result<Received, ()>> {
    let role = match role {
        Role::Client => protocol::Role::Client,
        Role::Server => protocol::Role::Server,
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = Silent(Cursor::new(stream.to_vec()));
    let mut socket = WebSocket::from_raw_socket(socket, role, Some(config));
    let mut received = Received::default();
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => received.binary.extend_from_slice(&bytes),
            Ok(Message::Text(text)) => received.texts.push(text.as_str().to_owned()),
            Ok(Message::Ping(payload)) => received.ping = Some(payload.to_vec()),
            Ok(Message::Pong(_) | Message::Frame(_)) => {}
            // Reasons are told apart by us no further than by their code.
            Ok(Message::Close(_)) => return None,
            // They look into a text before its end.
            Err(Error::Utf8(_)) => return None,
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return Some(Ok(received));
            }
            Err(_) => return Some(Err(())),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, stream)) = bytes.split_first() else {
        return;
    };
    let role = if choice & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let whole = received(role, stream, stream.len().max(1));
    let pieces = received(role, stream, usize::from(choice >> 1) + 1);
    assert_eq!(
        whole, pieces,
        "the answer depends on where the stream is cut"
    );
    match (whole, theirs(role, stream)) {
        (Ok(ours), Some(Ok(theirs))) => {
            // A message whose end is missing is passed on by us as far as it came.
            assert!(ours.binary.starts_with(&theirs.binary));
            assert_eq!((ours.texts, ours.ping), (theirs.texts, theirs.ping));
        }
        (Ok(ours), Some(Err(()))) => panic!("{ours:?} should have been refused"),
        // We refuse by the head alone, they when the payload is there.
        (Err(_), Some(_)) | (Ok(_) | Err(_), None) => {}
    }
});
