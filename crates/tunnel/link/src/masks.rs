//! The keys that a WebSocket client masks its frames with (RFC 6455 §5.3): nobody who chooses a body
//! may know them before. It may not know the frames.

use std::io;

use crate::frames::Role;

/// Keys that one call to the operating system gives.
const STOCK: usize = 64;

/// The keys of one connection's end, in the order in which they are used.
pub(crate) struct Masks {
    role: Role,
    stock: Box<[[u8; 4]]>,
    used: usize,
}

impl Masks {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            stock: Box::default(),
            used: 0,
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The next frame's key; `None` at the server, which does not mask.
    pub(crate) fn next(&mut self) -> io::Result<Option<[u8; 4]>> {
        match self.role {
            Role::Server => return Ok(None),
            Role::Client => {}
        }
        if self.used == self.stock.len() {
            if self.stock.is_empty() {
                self.stock = vec![[0; 4]; STOCK].into();
            }
            getrandom::fill(self.stock.as_flattened_mut())
                .map_err(|error| io::Error::other(error.to_string()))?;
            self.used = 0;
        }
        self.used += 1;
        Ok(self.stock.get(self.used - 1).copied())
    }
}
