//! The sidecars of the mesh: who is subscribed, what each was sent and acknowledged, and where it accepts connections.
//! A lost stream leaves its endpoints for a grace period, an orderly end takes them away at once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use sidegate_identity::SpiffeId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    discovery::hello::Hello,
    server::{Origin, Peer},
};

/// Where the workloads of each identity accept connections.
pub(crate) type Endpoints = BTreeMap<SpiffeId, Arc<BTreeSet<Endpoint>>>;

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
    entries: Mutex<Entries>,
    /// Held for a few instructions, inside of the other.
    reached: Mutex<Reached>,
}

/// Where identities are reached, and who wants to know. What a change costs follows from who calls, not from how many there are.
#[derive(Debug, Default)]
struct Reached {
    endpoints: Endpoints,
    callers: HashMap<SpiffeId, Vec<Weak<Notify>>>,
}

/// The endpoints of some identities, and their changes. Dropping it ends the interest.
#[derive(Debug)]
pub(crate) struct Watched {
    proxies: Arc<Proxies>,
    identities: BTreeSet<SpiffeId>,
    changed: Arc<Notify>,
}

/// One sidecar, as the operator sees it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) identity: SpiffeId,
    pub(crate) hello: Arc<Hello>,
    pub(crate) origin: Origin,
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

/// Sidecars by identity and instance: what one costs that comes or goes follows from how many its identity has.
#[derive(Debug, Default)]
struct Entries {
    by_identity: BTreeMap<SpiffeId, BTreeMap<String, Entry>>,
    count: usize,
    /// Of these identities sidecars were left out that callers may still be told of.
    thinned: BTreeSet<SpiffeId>,
}

impl Proxies {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), reached: Mutex::default() })
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
        if entries.get(&key).is_none() {
            make_room(&mut entries, identity)?;
        }
        let before = entries.remove(&key);
        if let Some(before) = &before {
            before.superseded.cancel();
        }
        let entry = Entry {
            identity: identity.clone(),
            hello,
            origin: peer.origin,
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
        self.publish(&entries, identity);
        drop(entries);
        Ok(Subscription { proxies: self.clone(), key, superseded })
    }

    /// Tells when endpoints of these identities come and go.
    pub(crate) fn watch(self: &Arc<Self>, identities: BTreeSet<SpiffeId>) -> Watched {
        let changed = Arc::new(Notify::new());
        let mut reached = self.reached();
        for identity in &identities {
            let callers = reached.callers.entry(identity.clone()).or_default();
            callers.retain(|caller| caller.strong_count() > 0);
            callers.push(Arc::downgrade(&changed));
        }
        drop(reached);
        Watched { proxies: self.clone(), identities, changed }
    }

    /// Every sidecar, in the order of identities and instances.
    pub(crate) fn list(&self) -> Vec<Entry> {
        self.lock().iter().cloned().collect()
    }

    /// How many are subscribed, and how many are known.
    pub(crate) fn count(&self) -> (usize, usize) {
        let entries = self.lock();
        (entries.iter().filter(|entry| entry.is_connected()).count(), entries.count)
    }

    /// Takes away the endpoints of streams lost too long ago, and forgets sidecars lost long before.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut entries = self.lock();
        entries.retain(|entry| !entry.is_lost_for(FORGET, now));
        let mut looked_at = mem::take(&mut entries.thinned);
        let lost = entries.iter().filter(|entry| !entry.is_connected());
        looked_at.extend(lost.map(|entry| entry.identity.clone()));
        for identity in looked_at {
            self.reached().set(&identity, entries.endpoints(&identity, now));
        }
    }

    /// What has changed with a sidecar of this identity.
    fn publish(&self, entries: &Entries, identity: &SpiffeId) {
        self.reached().set(identity, entries.endpoints(identity, Instant::now()));
    }

    fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn of(&self, identity: &SpiffeId) -> impl Iterator<Item = &Entry> {
        self.by_identity.get(identity).into_iter().flat_map(BTreeMap::values)
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_identity.values().flat_map(BTreeMap::values)
    }

    fn get(&self, (identity, instance): &Key) -> Option<&Entry> {
        self.by_identity.get(identity)?.get(instance)
    }

    fn get_mut(&mut self, (identity, instance): &Key) -> Option<&mut Entry> {
        self.by_identity.get_mut(identity)?.get_mut(instance)
    }

    fn insert(&mut self, (identity, instance): Key, entry: Entry) {
        let before = self.by_identity.entry(identity).or_default().insert(instance, entry);
        self.count += usize::from(before.is_none());
    }

    fn remove(&mut self, (identity, instance): &Key) -> Option<Entry> {
        let of_identity = self.by_identity.get_mut(identity)?;
        let removed = of_identity.remove(instance)?;
        if of_identity.is_empty() {
            self.by_identity.remove(identity);
        }
        self.count -= 1;
        Some(removed)
    }

    fn retain(&mut self, stays: impl Fn(&Entry) -> bool) {
        self.by_identity.retain(|identity, of_identity| {
            let before = of_identity.len();
            of_identity.retain(|_, entry| stays(entry));
            if of_identity.len() != before {
                self.thinned.insert(identity.clone());
            }
            !of_identity.is_empty()
        });
        self.count = self.by_identity.values().map(BTreeMap::len).sum();
    }

    fn endpoints(&self, identity: &SpiffeId, now: Instant) -> BTreeSet<Endpoint> {
        let known = self.of(identity).filter(|entry| !entry.is_lost_for(GRACE, now));
        known.flat_map(Entry::endpoints).collect()
    }
}

impl Reached {
    /// Wakes the callers only if an endpoint came or went.
    fn set(&mut self, identity: &SpiffeId, endpoints: BTreeSet<Endpoint>) {
        let before = self.endpoints.get(identity);
        if before.map_or(endpoints.is_empty(), |before| **before == endpoints) {
            return;
        }
        if endpoints.is_empty() {
            self.endpoints.remove(identity);
        } else {
            self.endpoints.insert(identity.clone(), Arc::new(endpoints));
        }
        let Some(callers) = self.callers.get_mut(identity) else { return };
        callers.retain(|caller| caller.upgrade().inspect(|caller| caller.notify_one()).is_some());
        if callers.is_empty() {
            self.callers.remove(identity);
        }
    }
}

impl Watched {
    /// The endpoints of now.
    pub(crate) fn endpoints(&self) -> Endpoints {
        let reached = self.proxies.reached();
        let found = |identity| reached.endpoints.get_key_value(identity);
        self.identities.iter().filter_map(found).map(|(id, set)| (id.clone(), set.clone())).collect()
    }

    /// Returns when they may be others than when it last returned, but not before this moment. Dropping it loses no change.
    pub(crate) async fn changed(&self, not_before: tokio::time::Instant) {
        // The timer would wake the stream once more, even for a moment that has passed.
        if tokio::time::Instant::now() < not_before {
            tokio::time::sleep_until(not_before).await;
        }
        self.changed.notified().await;
    }
}

impl Entry {
    pub(crate) fn is_connected(&self) -> bool {
        self.lost.is_none()
    }

    fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.hello.inbound.iter().enumerate().map(|(index, listener)| Endpoint {
            address: listener.address,
            port: listener.port,
            is_first: index == 0,
        })
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
            self.proxies.publish(&entries, &self.key.0);
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
fn make_room(entries: &mut Entries, identity: &SpiffeId) -> Result<(), TooMany> {
    if entries.of(identity).count() >= MAX_PER_IDENTITY {
        entries.retain(|entry| entry.is_connected() || entry.identity != *identity);
    }
    if entries.count >= MAX_PROXIES {
        let now = Instant::now();
        entries.retain(|entry| !entry.is_lost_for(GRACE, now));
    }
    if entries.count >= MAX_PROXIES {
        entries.retain(Entry::is_connected);
    }
    let is_full = entries.count >= MAX_PROXIES || entries.of(identity).count() >= MAX_PER_IDENTITY;
    if is_full { Err(TooMany) } else { Ok(()) }
}

/// A sidecar that reconnects within this keeps its place in its callers' balance.
const GRACE: Duration = Duration::from_secs(30);
/// A sidecar that is gone is still shown for this long.
const FORGET: Duration = Duration::from_hours(1);
const MAX_PROXIES: usize = 10_000;
const MAX_PER_IDENTITY: usize = 1_000;

#[cfg(test)]
mod tests;
