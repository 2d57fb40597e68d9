//! Chooses addresses on loopback that are free now. Stays below the range from which the kernel takes source ports
//! (32768 and up by default): a connection could otherwise hold a sidecar's port at the moment of its restart.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Hands out each free port once.
#[derive(Debug)]
pub(super) struct Ports {
    next: u16,
}

/// Every port of the range is taken.
#[derive(Debug, thiserror::Error)]
#[error("no free port on 127.0.0.1 between {FIRST} and {LAST}")]
pub(super) struct NoFreePort;

impl Ports {
    /// Begins somewhere in the range, by `seed`, so that demos side by side rarely try the same ports.
    pub(super) fn from_seed(seed: u16) -> Self {
        Self { next: FIRST + seed % (LAST - FIRST) }
    }

    /// The next free port of the range.
    pub(super) fn free(&mut self) -> Result<SocketAddr, NoFreePort> {
        for _ in FIRST..LAST {
            let address = loopback(self.next);
            self.next = if self.next + 1 < LAST { self.next + 1 } else { FIRST };
            if is_free(address) {
                return Ok(address);
            }
        }
        Err(NoFreePort)
    }

    /// `wanted`, or another one when it is taken.
    pub(super) fn preferably(&mut self, wanted: u16) -> Result<SocketAddr, NoFreePort> {
        let address = loopback(wanted);
        if is_free(address) { Ok(address) } else { self.free() }
    }
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_and_a_free_one_kept() {
        let mut ports = Ports::from_seed(7);
        let address = ports.free().expect("a free port");
        assert_eq!(ports.preferably(address.port()).expect("a port"), address);
        let _taken = TcpListener::bind(address).expect("to take it");
        assert_ne!(ports.preferably(address.port()).expect("a port"), address);
    }

    #[test]
    fn no_port_is_handed_out_twice_in_a_row() {
        let mut ports = Ports::from_seed(u16::MAX);
        let first = ports.free().expect("a port");
        assert_ne!(ports.free().expect("a port"), first);
    }
}
