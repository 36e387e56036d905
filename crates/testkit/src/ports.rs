//! Free loopback ports for parts that cannot choose one themselves. It may not keep a socket open.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below the kernel's ephemeral range (32768 on Linux), so that no outgoing connection takes one
/// between our probe and the part's bind, or while a part restarts.
const FIRST: u16 = 21_000;
const COUNT: u16 = 10_000;

/// A TCP port on 127.0.0.1 that nobody listened on a moment ago; never the same one twice in a process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run at the same time begin at different places.
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + ((u32::from(start) + u32::from(step)) % u32::from(COUNT)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!(
        "no free TCP port on 127.0.0.1 between {FIRST} and {}",
        FIRST + COUNT - 1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: two at once would take each other's ports.
    #[test]
    fn ports_are_distinct_bindable_and_never_taken_ones() {
        let (a, b) = (free_port(), free_port());
        assert_ne!(a, b);
        TcpListener::bind(("127.0.0.1", a)).expect("a free port can be bound");

        let next = free_port();
        let _held: Vec<TcpListener> = (next + 1..=next + 3)
            .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .collect();
        assert!(!(next + 1..=next + 3).contains(&free_port()));
    }
}
