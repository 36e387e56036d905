//! WebSocket frames (RFC 6455 §5) without I/O: what came in becomes payload in place, and a batch becomes a
//! frame where it lies. It may not know what a payload means.
//!
//! A frame's payload is one part of a byte stream here. Binary payload is passed on as it comes and never
//! collected; only text, and what a control frame carries, is.

/// Longest text or binary message, in fragments or whole.
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Longest head: two bytes, eight of length, four of mask.
const MAX_HEAD: usize = 14;
/// Longest payload of a control frame (§5.5).
const MAX_CONTROL: usize = 125;
/// Copied and masked in pieces that the processor's nearest cache holds, so that the second pass over them is
/// nearly free. Below 4 KiB the C library copies with vector registers; above, it may use `rep movsb`, which
/// AMD's processors with FSRM carry out up to 15 times slower where the two places are aligned unluckily.
const PIECE: usize = 2 * 1024;

const FINAL: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Which end of the WebSocket we are. The client masks what it sends (§5.3), the server does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What the other end did that no WebSocket does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream ended without a close frame.
    #[error("the other end closed the connection without a word")]
    Cut,
    /// A bit that no extension gave a meaning.
    #[error("a frame has a reserved bit set")]
    ReservedBit,
    /// An operation code that nobody defined.
    #[error("a frame has the unknown operation code {0}")]
    UnknownOperation(u8),
    /// A client's frame without a mask, or a server's with one.
    #[error("a frame is masked that must not be, or the other way round")]
    Mask,
    /// A control frame in fragments, or longer than 125 bytes.
    #[error("a control frame is too long or in fragments")]
    Control,
    /// The rest of a message that had not begun, or a message within another.
    #[error("the fragments of a message are out of order")]
    Fragments,
    /// A message beyond the limit.
    #[error("a message is longer than 4 MiB")]
    TooLong,
    /// A text that is no UTF-8.
    #[error("a text message is not UTF-8")]
    Text,
}

/// What a frame is for (§5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Operation {
    fn of(code: u8) -> Result<Self, FrameError> {
        Ok(match code {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            unknown => return Err(FrameError::UnknownOperation(unknown)),
        })
    }

    fn code(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }
}

/// Where the payload of the frame at hand goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Binary,
    Text,
    Close,
    Ping,
    Pong,
}

/// The frame whose payload comes in.
#[derive(Debug, Clone, Copy)]
struct Current {
    kind: Kind,
    is_final: bool,
    left: u64,
    /// Turned so that its first byte belongs to the next byte of the payload.
    key: [u8; 4],
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Incoming {
    role: Role,
    head: [u8; MAX_HEAD],
    head_length: usize,
    current: Option<Current>,
    /// The message whose end has not come: its kind and its length so far.
    message: Option<(Kind, u64)>,
    text: Vec<u8>,
    control: Vec<u8>,
    ping: Option<Vec<u8>>,
    close: Option<Vec<u8>>,
}

impl Incoming {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            head: [0; MAX_HEAD],
            head_length: 0,
            current: None,
            message: None,
            text: Vec::new(),
            control: Vec::new(),
            ping: None,
            close: None,
        }
    }

    /// Takes bytes as they came. Binary payload is moved to the front of `raw`, unmasked; the answer is how much of
    /// it there is. Texts that became whole are added to `texts`. Nothing that follows a close frame is looked at.
    pub(crate) fn take(
        &mut self,
        raw: &mut [u8],
        texts: &mut Vec<String>,
    ) -> Result<usize, FrameError> {
        let (mut from, mut to) = (0, 0);
        while from < raw.len() && self.close.is_none() {
            let Some(mut current) = self.current.take() else {
                from += self.take_head(&raw[from..])?;
                // A frame without payload is over with its head.
                if let Some(empty) = self.current.take_if(|current| current.left == 0) {
                    self.finish(empty, texts)?;
                }
                continue;
            };
            let there = raw.len() - from;
            let count = usize::try_from(current.left).map_or(there, |left| left.min(there));
            let payload = &mut raw[from..from + count];
            if self.role == Role::Server {
                apply(current.key, payload);
            }
            match current.kind {
                Kind::Binary => {
                    if from > to {
                        raw.copy_within(from..from + count, to);
                    }
                    to += count;
                }
                Kind::Text => self.text.extend_from_slice(payload),
                Kind::Close | Kind::Ping | Kind::Pong => self.control.extend_from_slice(payload),
            }
            from += count;
            current.left -= count as u64;
            current.key.rotate_left(count % 4);
            if current.left == 0 {
                self.finish(current, texts)?;
            } else {
                self.current = Some(current);
            }
        }
        Ok(to)
    }

    /// What the last PING carried, if it has not been answered: earlier ones need no answer then (§5.5.3).
    pub(crate) fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// Whether a PING waits for its answer.
    pub(crate) fn has_ping(&self) -> bool {
        self.ping.is_some()
    }

    /// What the close frame carried, once it has come.
    pub(crate) fn close(&self) -> Option<&[u8]> {
        self.close.as_deref()
    }

    /// Takes as much of a head as there is; says how many bytes that were.
    fn take_head(&mut self, raw: &[u8]) -> Result<usize, FrameError> {
        let mut used = 0;
        loop {
            let wanted = head_length(&self.head[..self.head_length]);
            let count = (wanted - self.head_length).min(raw.len() - used);
            self.head[self.head_length..][..count].copy_from_slice(&raw[used..used + count]);
            (self.head_length, used) = (self.head_length + count, used + count);
            if self.head_length < wanted {
                return Ok(used);
            }
            if wanted == head_length(&self.head[..self.head_length]) {
                self.current = Some(self.begin()?);
                self.head_length = 0;
                return Ok(used);
            }
        }
    }

    /// Judges a whole head.
    fn begin(&mut self) -> Result<Current, FrameError> {
        let [first, second, ..] = self.head;
        if first & RESERVED_BITS != 0 {
            return Err(FrameError::ReservedBit);
        }
        let operation = Operation::of(first & 0x0f)?;
        if (second & MASKED != 0) != (self.role == Role::Server) {
            return Err(FrameError::Mask);
        }
        let is_final = first & FINAL != 0;
        let [_, _, a, b, c, d, e, f, g, h, ..] = self.head;
        let length = match second & !MASKED {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        };
        let mut key = [0; 4];
        if second & MASKED != 0 {
            key.copy_from_slice(&self.head[self.head_length - 4..self.head_length]);
        }
        let kind = match (operation, self.message) {
            (Operation::Close | Operation::Ping | Operation::Pong, _)
                if !is_final || length > MAX_CONTROL as u64 =>
            {
                return Err(FrameError::Control);
            }
            (Operation::Close, _) => Kind::Close,
            (Operation::Ping, _) => Kind::Ping,
            (Operation::Pong, _) => Kind::Pong,
            (Operation::Continuation, Some((kind, _))) => kind,
            (Operation::Text, None) => Kind::Text,
            (Operation::Binary, None) => Kind::Binary,
            (Operation::Continuation, None) | (Operation::Text | Operation::Binary, Some(_)) => {
                return Err(FrameError::Fragments);
            }
        };
        match kind {
            Kind::Text | Kind::Binary => {
                let before = self.message.map_or(0, |(_, length)| length);
                let whole = before.saturating_add(length);
                if whole > MAX_MESSAGE as u64 {
                    return Err(FrameError::TooLong);
                }
                self.message = Some((kind, whole));
            }
            Kind::Close | Kind::Ping | Kind::Pong => self.control.clear(),
        }
        Ok(Current {
            kind,
            is_final,
            left: length,
            key,
        })
    }

    /// A frame's payload is complete.
    fn finish(&mut self, frame: Current, texts: &mut Vec<String>) -> Result<(), FrameError> {
        match frame.kind {
            Kind::Binary | Kind::Text if !frame.is_final => {}
            Kind::Binary => self.message = None,
            Kind::Text => {
                self.message = None;
                let text = String::from_utf8(std::mem::take(&mut self.text));
                texts.push(text.map_err(|_| FrameError::Text)?);
            }
            Kind::Ping => self.ping = Some(std::mem::take(&mut self.control)),
            Kind::Pong => self.control.clear(),
            // A reason is two bytes of code and a text, or nothing (§5.5.1).
            Kind::Close if self.control.len() == 1 => return Err(FrameError::Control),
            Kind::Close => self.close = Some(std::mem::take(&mut self.control)),
        }
        Ok(())
    }
}

/// How long the head is that begins with these bytes: two at least, which say the rest.
fn head_length(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else {
        return 2;
    };
    let length = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & MASKED != 0 { 4 } else { 0 }
}

/// Masks or unmasks (§5.3). Eight bytes at a time, which compilers make into sixteen and more.
fn apply(key: [u8; 4], bytes: &mut [u8]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// A binary frame in the making. Room for its head is left in front of the payload, so that the frame is sent from
/// where it lies.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    key: Option<[u8; 4]>,
}

impl Batch {
    /// The key with which the next payload is masked; `None` at the server.
    pub(crate) fn set_key(&mut self, key: Option<[u8; 4]>) {
        self.key = key;
    }

    /// Length of the payload so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(MAX_HEAD)
    }

    /// Makes room for at least so much more payload.
    pub(crate) fn reserve(&mut self, payload: usize) {
        self.bytes.reserve(MAX_HEAD + payload);
    }

    /// Room that is left without another allocation.
    pub(crate) fn room(&self) -> usize {
        let taken = self.bytes.len().max(MAX_HEAD);
        self.bytes.capacity().saturating_sub(taken)
    }

    /// Adds to the payload.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.resize(MAX_HEAD, 0);
        }
        let Some(mut key) = self.key else {
            return self.bytes.extend_from_slice(bytes);
        };
        key.rotate_left(self.len() % 4);
        for piece in bytes.chunks(PIECE) {
            let at = self.bytes.len();
            self.bytes.extend_from_slice(piece);
            // Every piece but the last is a multiple of four long, so the key stays as it is.
            apply(key, &mut self.bytes[at..]);
        }
    }

    /// Ends the frame: writes its head before the payload. The frame is the vector from the returned place on; the
    /// batch is empty afterwards and goes on in `spare`'s memory.
    pub(crate) fn finish(&mut self, spare: Vec<u8>) -> (Vec<u8>, usize) {
        let length = self.len();
        let mut bytes = std::mem::replace(&mut self.bytes, spare);
        self.bytes.clear();
        let (head, head_length) = head(Operation::Binary, length, self.key);
        let begin = MAX_HEAD - head_length;
        bytes[begin..MAX_HEAD].copy_from_slice(&head[..head_length]);
        (bytes, begin)
    }
}

/// Adds a whole text message.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str, key: Option<[u8; 4]>) {
    push_frame(out, Operation::Text, text.as_bytes(), key);
}

/// Adds the answer to a PING.
pub(crate) fn push_pong(out: &mut Vec<u8>, payload: &[u8], key: Option<[u8; 4]>) {
    push_frame(out, Operation::Pong, payload, key);
}

/// Adds a close frame with the reason that the other end gave, or none.
pub(crate) fn push_close(out: &mut Vec<u8>, reason: &[u8], key: Option<[u8; 4]>) {
    push_frame(out, Operation::Close, reason, key);
}

fn push_frame(out: &mut Vec<u8>, operation: Operation, payload: &[u8], key: Option<[u8; 4]>) {
    let (head, head_length) = head(operation, payload.len(), key);
    out.extend_from_slice(&head[..head_length]);
    let at = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        apply(key, &mut out[at..]);
    }
}

/// The head of a frame that is a message of its own, and how long the head is. A length takes as few bytes as it
/// can (§5.2).
fn head(operation: Operation, length: usize, key: Option<[u8; 4]>) -> ([u8; MAX_HEAD], usize) {
    let mut head = [0; MAX_HEAD];
    let mut end = 2;
    let mut push = |bytes: &[u8]| {
        head[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    let short = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..126), _) => length,
        (_, Ok(length)) => {
            push(&length.to_be_bytes());
            126
        }
        (_, Err(_)) => {
            push(&(length as u64).to_be_bytes());
            127
        }
    };
    if let Some(key) = key {
        push(&key);
    }
    head[0] = FINAL | operation.code();
    head[1] = short | if key.is_some() { MASKED } else { 0 };
    (head, end)
}

// The path is spelled out because a fuzz target takes this file as a module of its own.
#[cfg(test)]
#[path = "frames/tests.rs"]
mod tests;
