//! Where heads begin in the bytes of an HTTP/1.1 connection, and whether one of them frames its body in
//! two ways. hyper drops `Content-Length` beside `Transfer-Encoding` without a word, so the raw bytes
//! are the only witness. It may not judge anything else: what it cannot follow, hyper refuses.

/// Follows a connection's bytes from its first one on.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    place: Place,
    /// The start of the line under way, lower case.
    line: Vec<u8>,
    /// Heads that were over so far.
    heads: u64,
    /// A request line was seen: an empty line ends the head.
    begun: bool,
    length: Option<u64>,
    encoding: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// Bytes that are left of a body of known length.
    Body(u64),
    ChunkSize,
    /// Bytes that are left of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Malformed.
    Lost,
}

impl Framing {
    /// Bytes of a line that are looked at: the longest name, its colon, and any length.
    const ENOUGH: usize = 64;

    /// Reads on; returns the number of the first head among these (counted from 1 on the connection)
    /// that has both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.1).
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() {
            match self.place {
                Place::Lost => return None,
                Place::Body(left) => {
                    let left = skip(&mut bytes, left);
                    self.place = if left == 0 {
                        Place::Head
                    } else {
                        Place::Body(left)
                    };
                }
                Place::Chunk(left) => {
                    let left = skip(&mut bytes, left);
                    self.place = if left == 0 {
                        Place::ChunkEnd
                    } else {
                        Place::Chunk(left)
                    };
                }
                Place::Head | Place::ChunkSize | Place::ChunkEnd | Place::Trailers => {
                    if !self.line_ends(&mut bytes) {
                        return None;
                    }
                    if self.take_line() {
                        return Some(self.heads);
                    }
                }
            }
        }
        None
    }

    /// Takes bytes up to the end of the line; whether it was among them.
    fn line_ends(&mut self, bytes: &mut &[u8]) -> bool {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        let room = Self::ENOUGH - self.line.len().min(Self::ENOUGH);
        let start = &piece[..room.min(piece.len())];
        self.line.extend(start.iter().map(u8::to_ascii_lowercase));
        *bytes = &bytes[end.map_or(bytes.len(), |end| end + 1)..];
        end.is_some()
    }

    /// Takes a whole line; whether it ended a head that frames its body in two ways.
    fn take_line(&mut self) -> bool {
        let line = self.line.trim_ascii_end();
        let mut ambiguous = false;
        match self.place {
            // Empty lines before a request are no head (RFC 9112 §2.2).
            Place::Head if line.is_empty() && !self.begun => {}
            Place::Head if line.is_empty() => {
                self.heads += 1;
                ambiguous = self.encoding && self.length.is_some();
                self.place = match self.length {
                    // That request is refused, and nothing after it counts.
                    _ if ambiguous => Place::Lost,
                    _ if self.encoding => Place::ChunkSize,
                    None | Some(0) => Place::Head,
                    Some(length) => Place::Body(length),
                };
                (self.begun, self.length, self.encoding) = (false, None, false);
            }
            Place::Head => {
                self.begun = true;
                if let Some(value) = line.strip_prefix(b"content-length:") {
                    match number(value, 10) {
                        Some(length) => self.length = Some(length),
                        None => self.place = Place::Lost,
                    }
                } else if line.starts_with(b"transfer-encoding:") {
                    self.encoding = true;
                }
            }
            Place::ChunkSize => {
                let size = line.split(|byte| *byte == b';').next().unwrap_or(line);
                self.place = match number(size, 16) {
                    Some(0) => Place::Trailers,
                    Some(size) => Place::Chunk(size),
                    None => Place::Lost,
                };
            }
            Place::ChunkEnd if line.is_empty() => self.place = Place::ChunkSize,
            Place::Trailers if line.is_empty() => self.place = Place::Head,
            Place::Trailers => {}
            Place::ChunkEnd | Place::Body(_) | Place::Chunk(_) | Place::Lost => {
                self.place = Place::Lost
            }
        }
        self.line.clear();
        ambiguous
    }
}

/// Skips up to `left` bytes; returns how many are left then.
fn skip(bytes: &mut &[u8], left: u64) -> u64 {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = &bytes[count..];
    left - count as u64
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the first ambiguous head, the same however the bytes are cut.
    fn first(text: &str) -> Option<u64> {
        let whole = Framing::default().feed(text.as_bytes());
        for cut in 0..text.len() {
            let mut framing = Framing::default();
            let (left, right) = text.as_bytes().split_at(cut);
            let found = framing.feed(left).or_else(|| framing.feed(right));
            assert_eq!(found, whole, "cut at {cut}");
        }
        whole
    }

    const BOTH: &str =
        "POST / HTTP/1.1\r\nContent-LENGTH: 3\r\ntransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    const PLAIN: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[test]
    fn a_head_with_both_is_found_wherever_it_stands() {
        assert_eq!(first(BOTH), Some(1));
        assert_eq!(first(&format!("{PLAIN}{BOTH}")), Some(2));
        assert_eq!(
            first(&format!("\r\n{PLAIN}\r\n{PLAIN}{BOTH}{PLAIN}")),
            Some(3)
        );
        let sized = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n\r\n\r\nx";
        assert_eq!(first(&format!("{sized}{BOTH}")), Some(2));
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA;x=y\r\n0123456\r\n\r\r\n0\r\nX: y\r\n\r\n";
        assert_eq!(first(&format!("{chunked}{BOTH}")), Some(2));
    }

    #[test]
    fn what_only_looks_like_it_is_none() {
        let inner = BOTH.len();
        assert_eq!(
            first(&format!(
                "POST / HTTP/1.1\r\nContent-Length: {inner}\r\n\r\n{BOTH}{PLAIN}"
            )),
            None
        );
        assert_eq!(
            first(&format!(
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{inner:x}\r\n{BOTH}\r\n0\r\n\r\n"
            )),
            None
        );
        assert_eq!(
            first(
                "GET /content-length: HTTP/1.1\r\nX-Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            None
        );
        assert_eq!(
            first(&format!(
                "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc{}",
                PLAIN.repeat(2)
            )),
            None
        );
    }

    #[test]
    fn malformed_framing_is_left_to_the_parser() {
        for head in ["Content-Length: x", "Content-Length: -1"] {
            assert_eq!(
                first(&format!("POST / HTTP/1.1\r\n{head}\r\n\r\n{BOTH}")),
                None
            );
        }
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for chunk in ["zz\r\n", "1\r\nab\r\n", "FFFFFFFFFFFFFFFFF\r\n"] {
            assert_eq!(first(&format!("{chunked}{chunk}{BOTH}")), None);
        }
    }
}
