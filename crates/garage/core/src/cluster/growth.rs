//! What a node may promise to store while its volumes grow. May not make them grow.
//!
//! A role says how much data Garage may put on a node, and Garage believes it: a node that promises what
//! its volume does not have yet runs full. Each new promise moves data, so there is one for all of them.

/// Bytes for a node's role. `present` is what its role says now, `room` what its volumes have.
pub(crate) fn promise(wanted: u64, present: Option<u64>, growing: bool, room: u64) -> u64 {
    match (growing, present) {
        (false, _) => wanted,
        (true, Some(present)) => wanted.min(present),
        (true, None) => wanted.min(room),
    }
}
