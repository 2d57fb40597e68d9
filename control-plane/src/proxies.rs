//! The sidecars of the mesh: who is subscribed, what each was sent and acknowledged, and where it accepts connections.
//! A lost stream leaves its endpoints for a grace period, an orderly end takes them away at once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sidegate_identity::SpiffeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{clock, discovery::hello::Hello, server::Peer};

/// Where the workloads of each identity accept connections.
pub(crate) type Endpoints = BTreeMap<SpiffeId, BTreeSet<Endpoint>>;

/// Where one inbound listener of a sidecar accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The application's port behind it.
    pub(crate) port: u16,
    /// Whether it is the first of its sidecar's listeners.
    pub(crate) is_first: bool,
}

/// Every sidecar that is or lately was subscribed.
#[derive(Debug)]
pub(crate) struct Proxies {
    /// Held for a few instructions, or for one walk over all sidecars.
    entries: Mutex<HashMap<Key, Entry>>,
    endpoints: watch::Sender<Arc<Endpoints>>,
}

/// One sidecar, as the operator sees it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) identity: SpiffeId,
    pub(crate) hello: Arc<Hello>,
    pub(crate) address: SocketAddr,
    pub(crate) since_ms: u64,
    /// The version of the newest Update that was sent.
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    /// The newest refusal, until a later version is acknowledged.
    pub(crate) nack: Option<Nack>,
    pub(crate) certificate: Certificate,
    /// The version of the mesh's own trust bundle that is in force there, as it said.
    pub(crate) bundle: Option<String>,
    /// When its stream was lost; `None` while it is subscribed.
    lost: Option<Instant>,
    /// Ends the stream when a newer one of the same instance takes its place.
    superseded: CancellationToken,
}

/// A refusal, in the sidecar's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nack {
    pub(crate) version: u64,
    pub(crate) path: String,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The certificate that a sidecar subscribed with.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) serial: String,
    pub(crate) issued_at_ms: Option<u64>,
    pub(crate) not_after: rustls_pki_types::UnixTime,
}

/// A subscription. Dropping it says that the stream was lost.
#[derive(Debug)]
pub(crate) struct Subscription {
    proxies: Arc<Proxies>,
    key: Key,
    /// Tells this subscription from a newer one of the same instance.
    superseded: CancellationToken,
}

/// Too many sidecars, in all or for one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many sidecars are subscribed")]
pub(crate) struct TooMany;

/// Two identities may draw the same instance; one may not take the other's place.
type Key = (SpiffeId, String);

impl Proxies {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), endpoints: watch::Sender::default() })
    }

    /// Enters a sidecar with its endpoints. Another stream of the same instance ends.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        peer: &Peer,
        identity: &SpiffeId,
        certificate: Certificate,
        hello: Arc<Hello>,
        bundle: Option<String>,
    ) -> Result<Subscription, TooMany> {
        let key = (identity.clone(), hello.instance.clone());
        let superseded = CancellationToken::new();
        let mut entries = self.lock();
        if !entries.contains_key(&key) {
            make_room(&mut entries, identity)?;
        }
        let before = entries.remove(&key);
        if let Some(before) = &before {
            before.superseded.cancel();
        }
        let entry = Entry {
            identity: identity.clone(),
            hello,
            address: peer.address,
            since_ms: clock::now_ms(),
            sent: before.as_ref().map_or(0, |before| before.sent),
            acked: before.as_ref().map_or(0, |before| before.acked),
            nack: None,
            certificate,
            bundle,
            lost: None,
            superseded: superseded.clone(),
        };
        entries.insert(key.clone(), entry);
        self.publish(&entries);
        drop(entries);
        Ok(Subscription { proxies: self.clone(), key, superseded })
    }

    /// Tells when endpoints come and go.
    pub(crate) fn endpoints(&self) -> watch::Receiver<Arc<Endpoints>> {
        self.endpoints.subscribe()
    }

    /// Every sidecar, in the order of identities and instances.
    pub(crate) fn list(&self) -> Vec<Entry> {
        let mut entries: Vec<_> = self.lock().values().cloned().collect();
        entries.sort_by(|a, b| {
            (a.identity.as_str(), &a.hello.instance).cmp(&(b.identity.as_str(), &b.hello.instance))
        });
        entries
    }

    /// How many are subscribed, and how many are known.
    pub(crate) fn count(&self) -> (usize, usize) {
        let entries = self.lock();
        (entries.values().filter(|entry| entry.is_connected()).count(), entries.len())
    }

    /// Takes away the endpoints of streams lost too long ago, and forgets sidecars lost long before.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut entries = self.lock();
        entries.retain(|_, entry| !entry.is_lost_for(FORGET, now));
        self.publish_at(&entries, now);
    }

    fn publish(&self, entries: &HashMap<Key, Entry>) {
        self.publish_at(entries, Instant::now());
    }

    /// Wakes the streams only if an endpoint came or went.
    fn publish_at(&self, entries: &HashMap<Key, Entry>, now: Instant) {
        let mut endpoints = Endpoints::new();
        for entry in entries.values().filter(|entry| !entry.is_lost_for(GRACE, now)) {
            let listeners = entry.hello.inbound.iter().enumerate().map(|(index, listener)| Endpoint {
                address: listener.address,
                port: listener.port,
                is_first: index == 0,
            });
            endpoints.entry(entry.identity.clone()).or_default().extend(listeners);
        }
        self.endpoints.send_if_modified(|published| {
            let modified = **published != endpoints;
            if modified {
                *published = Arc::new(endpoints);
            }
            modified
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn is_connected(&self) -> bool {
        self.lost.is_none()
    }

    fn is_lost_for(&self, time: Duration, now: Instant) -> bool {
        self.lost.is_some_and(|lost| now.saturating_duration_since(lost) >= time)
    }
}

impl Subscription {
    /// The version that this instance was last sent, over all of its streams.
    pub(crate) fn last_sent(&self) -> u64 {
        self.proxies.lock().get(&self.key).map_or(0, |entry| entry.sent)
    }

    pub(crate) fn sent(&self, version: u64) {
        self.change(|entry| entry.sent = version);
    }

    pub(crate) fn acked(&self, version: u64, bundle: Option<String>) {
        self.change(|entry| {
            entry.acked = version;
            entry.bundle = bundle;
            entry.nack = None;
        });
    }

    pub(crate) fn nacked(&self, nack: Nack) {
        self.change(|entry| entry.nack = Some(nack));
    }

    /// Returns when a newer stream of the same instance has taken this one's place.
    pub(crate) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// The sidecar said goodbye: its endpoints go at once.
    pub(crate) fn end(self) {
        let mut entries = self.proxies.lock();
        if self.is_current() {
            entries.remove(&self.key);
            self.proxies.publish(&entries);
            // A newer stream may enter before this is dropped, and must not be taken for the lost one.
            self.superseded.cancel();
        }
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.proxies.lock();
        if let Some(entry) = entries.get_mut(&self.key).filter(|_| self.is_current()) {
            change(entry);
        }
    }

    /// Asked under the lock under which a newer stream says otherwise.
    fn is_current(&self) -> bool {
        !self.superseded.is_cancelled()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.change(|entry| entry.lost = Some(Instant::now()));
    }
}

/// Whoever is lost makes room for whoever comes: one identity's lost sidecars for its own, and over all first those
/// whose grace is over, so that nobody's crash loop costs another service its endpoints.
fn make_room(entries: &mut HashMap<Key, Entry>, identity: &SpiffeId) -> Result<(), TooMany> {
    let count =
        |entries: &HashMap<Key, Entry>| entries.values().filter(|entry| entry.identity == *identity).count();
    if count(entries) >= MAX_PER_IDENTITY {
        entries.retain(|_, entry| entry.is_connected() || entry.identity != *identity);
    }
    if entries.len() >= MAX_PROXIES {
        let now = Instant::now();
        entries.retain(|_, entry| !entry.is_lost_for(GRACE, now));
    }
    if entries.len() >= MAX_PROXIES {
        entries.retain(|_, entry| entry.is_connected());
    }
    if entries.len() >= MAX_PROXIES || count(entries) >= MAX_PER_IDENTITY { Err(TooMany) } else { Ok(()) }
}

/// A sidecar that reconnects within this keeps its place in its callers' balance.
const GRACE: Duration = Duration::from_secs(30);
/// A sidecar that is gone is still shown for this long.
const FORGET: Duration = Duration::from_hours(1);
const MAX_PROXIES: usize = 10_000;
const MAX_PER_IDENTITY: usize = 1_000;

#[cfg(test)]
mod tests;
