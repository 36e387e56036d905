//! The control channel beside the streams: whole JSON texts, in order. It may not read them.

use tokio::sync::mpsc;

use crate::LinkError;

/// Messages that may wait in each direction.
pub(crate) const WAITING: usize = 64;
/// Longest control message in bytes, on either carrier.
pub(crate) const MAX_MESSAGE: usize = crate::frames::MAX_MESSAGE;

/// Our end of a connection's control channel. Both halves end when the connection ends.
#[derive(Debug)]
pub struct ControlChannel {
    /// Texts to send; `send` waits while the connection is congested.
    pub outgoing: mpsc::Sender<String>,
    /// Texts that came in; `None` when the connection is over.
    pub incoming: mpsc::Receiver<String>,
}

/// The connection's end of the same channel.
#[derive(Debug)]
pub(crate) struct ControlPipe {
    pub(crate) outgoing: mpsc::Receiver<String>,
    pub(crate) incoming: mpsc::Sender<String>,
}

/// Refuses what the other end would refuse, where the reason can still be told.
pub(crate) fn check_length(text: &str) -> Result<(), LinkError> {
    if text.len() > MAX_MESSAGE {
        return Err(LinkError::ControlTooLong {
            bytes: text.len(),
            limit: MAX_MESSAGE,
        });
    }
    Ok(())
}

/// A channel and the pipe that the carrier works on.
pub(crate) fn pair() -> (ControlChannel, ControlPipe) {
    let (outgoing, to_send) = mpsc::channel(WAITING);
    let (received, incoming) = mpsc::channel(WAITING);
    (
        ControlChannel { outgoing, incoming },
        ControlPipe {
            outgoing: to_send,
            incoming: received,
        },
    )
}
