//! How many connections there may be, in all and from one source. A permit is taken before the handshake and returns
//! when the connection is dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::Source;

/// The open connections, counted.
pub(super) struct Limits {
    /// Held for a few instructions.
    counts: Arc<Mutex<Counts>>,
}

/// One connection's place.
pub(super) struct Permit {
    counts: Arc<Mutex<Counts>>,
    source: Source,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_source: HashMap<Source, usize>,
}

impl Limits {
    pub(super) fn new() -> Self {
        Self { counts: Arc::default() }
    }

    /// A place for a connection from this source, or the limit that is reached (a metric's label).
    pub(super) fn admit(&self, source: Source) -> Result<Permit, &'static str> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= MAX_CONNECTIONS {
            return Err("connections");
        }
        let from_source = counts.by_source.entry(source).or_default();
        if *from_source >= MAX_PER_SOURCE {
            return Err("connections_per_source");
        }
        *from_source += 1;
        counts.all += 1;
        Ok(Permit { counts: self.counts.clone(), source })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        if let Some(count) = counts.by_source.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

/// Each sidecar holds one, and a second during its renewal.
const MAX_CONNECTIONS: usize = 10_000;
/// Sidecars of one host, of one user of this host, or behind one address translation.
const MAX_PER_SOURCE: usize = 2_000;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::{super::Origin, *};

    fn source(address: &str) -> Source {
        Origin::Network(SocketAddr::new(address.parse().unwrap(), 1)).source()
    }

    #[test]
    fn one_source_has_its_limit_and_others_still_come() {
        let limits = Limits::new();
        let one = source("10.0.0.1");
        let mut held: Vec<_> = (0..MAX_PER_SOURCE).map(|_| limits.admit(one).unwrap()).collect();
        assert_eq!(limits.admit(one).err(), Some("connections_per_source"));
        assert_eq!(limits.admit(source("::ffff:10.0.0.1")).err(), Some("connections_per_source"));
        assert!(limits.admit(source("10.0.0.2")).is_ok());
        assert!(limits.admit(Source::User(0)).is_ok());
        held.pop();
        assert!(limits.admit(one).is_ok());
    }

    #[test]
    fn all_sources_together_have_a_limit() {
        let limits = Limits::new();
        let address = |number: usize| {
            Source::Address(IpAddr::from((u128::try_from(number).unwrap() + 1).to_be_bytes()))
        };
        let _held: Vec<_> =
            (0..MAX_CONNECTIONS).map(|number| limits.admit(address(number)).unwrap()).collect();
        assert_eq!(limits.admit(address(MAX_CONNECTIONS)).err(), Some("connections"));
    }

    #[test]
    fn nothing_is_remembered_of_a_source_that_is_gone() {
        let limits = Limits::new();
        drop(limits.admit(source("10.0.0.1")).unwrap());
        let counts = limits.counts.lock().unwrap();
        assert_eq!((counts.all, counts.by_source.len()), (0, 0));
    }
}
