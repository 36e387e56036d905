//! Loopback addresses that no other node has. It may not keep a socket open.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses per process, before they come round again.
const COUNT: u32 = 254;

/// An address of `127.0.0.0/8`, all of which Linux answers, on which `ports` are free. The second and third
/// number are this process's own.
pub(super) fn free(ports: &[u16]) -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id() % (250 * 250);
    // Not 127.0.x.y, where everybody else is.
    let (b, c) = (1 + process / 250, process % 250);
    for _ in 0..COUNT {
        let d = 1 + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let address = Ipv4Addr::new(127, b as u8, c as u8, d as u8);
        let free = |port: &u16| TcpListener::bind((address, *port)).is_ok();
        if ports.iter().all(free) {
            return address;
        }
    }
    panic!("no loopback address in 127.{b}.{c}.0/24 has the ports {ports:?} free");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_loopback_distinct_and_bindable() {
        let (a, b) = (free(&[3901]), free(&[3901]));
        assert_ne!(a, b);
        assert!(a.is_loopback() && b.is_loopback());
        TcpListener::bind((a, 3901)).expect("a free address can be bound");
    }
}
