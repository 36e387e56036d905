//! The sizes and times of a connection. Values only.

use std::time::Duration;

/// Sizes and times of one connection; both ends take the same type.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Receive window of a stream in bytes: what the other end may send before we have read.
    pub stream_window: u32,
    /// Bytes that may wait in a stream for the other end's window.
    pub send_buffer: usize,
    /// Streams that may be open at once on a connection.
    pub max_streams: u32,
    /// Largest header block in bytes.
    pub max_header_list: u32,
    /// Largest DATA frame that we accept, in bytes. With its head it should just fit a round number:
    /// HTTP/2 takes that much memory for each.
    pub max_frame: u32,
    /// Time between PING frames.
    pub keep_alive_interval: Duration,
    /// Time for a PING's answer before the connection counts as dead.
    pub keep_alive_timeout: Duration,
    /// Time for the handshake, from the first byte to the first control message.
    pub handshake_timeout: Duration,
}

/// The widest window that HTTP/2 knows (RFC 9113 §6.9.1).
pub(crate) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How long a stream that we reset is remembered. Frames that were under way to it are expected and
/// dropped; a slow line carries them for seconds.
pub(crate) const RESET_MEMORY: Duration = Duration::from_secs(10);

/// How many of them are remembered, half a KiB each.
pub(crate) const REMEMBERED_RESETS: usize = 8 * 1024;

/// Streams that an edge opens and that must be refused, over the life of a connection. Each is
/// answered with a reset, and an edge that does not read must not fill our memory with answers.
pub(crate) const LOCAL_RESETS: usize = 16 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_window: 1024 * 1024,
            send_buffer: 128 * 1024,
            max_streams: 1024,
            max_header_list: 128 * 1024,
            max_frame: 63 * 1024,
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}
