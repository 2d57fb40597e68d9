//! The proxy's part of the ledger: one cell per edge and outcome, counted where it happens and read by whoever asks.
//! Each worker has a shard of its own, so a lock is only ever contended by the reader. Cells stay for the life of
//! the process (a counter that disappears breaks `rate()`); past the limit everything lands in one overflow cell.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hashbrown::HashMap;
use sidegate_identity::SpiffeId;
use sidegate_proto::v1;

use super::{Carried, Direction, Ends, Judgement, TlsState, Verdict};

/// What tells one cell from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) direction: Direction,
    pub(crate) ends: Ends,
    pub(crate) port: u16,
    pub(crate) carried: Carried,
    pub(crate) tls: TlsState,
    pub(crate) judgement: Judgement,
}

/// One thing that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    pub(crate) status: Option<u16>,
    pub(crate) failed: bool,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) duration: Duration,
}

/// Everything that ended on one edge in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// By the first digit of the status; index 0: there was none.
    pub(crate) classes: [u64; 6],
    pub(crate) latency: [u64; BUCKETS],
    /// Microseconds, all together.
    pub(crate) latency_sum: u64,
    first_seen_ms: i64,
    last_seen_ms: i64,
}

/// The cells of one worker.
#[derive(Debug)]
pub(crate) struct EdgeShard {
    limit: usize,
    cells: Mutex<Cells>,
}

/// What one shard adds to a report.
type Additions = (Vec<(Key, Cell)>, u64);

#[derive(Debug, Default)]
struct Cells {
    seen: HashMap<Key, Counted>,
    overflow: u64,
    overflow_reported: u64,
}

#[derive(Debug, Default)]
struct Counted {
    total: Cell,
    reported: Cell,
}

/// The cells of all workers: the reading side.
#[derive(Clone, Debug)]
pub(crate) struct Edges {
    shards: Arc<[Arc<EdgeShard>]>,
}

impl EdgeShard {
    /// Adds one observation.
    pub(crate) fn record(&self, key: &Key, seen: Observation) {
        let now = now_ms();
        let mut cells = self.lock();
        if let Some(counted) = cells.seen.get_mut(key) {
            counted.total.add(seen, now);
        } else if cells.seen.len() < self.limit {
            let mut counted = Counted::default();
            counted.total.first_seen_ms = now;
            counted.total.add(seen, now);
            cells.seen.insert(key.clone(), counted);
        } else {
            cells.overflow += 1;
        }
    }

    /// Every cell's totals. Texts are shared, so the worker waits for a copy of numbers at most.
    fn totals(&self) -> Vec<(Key, Cell)> {
        let cells = self.lock();
        let totals = cells.seen.iter().map(|(key, counted)| (key.clone(), counted.total.clone()));
        totals.collect()
    }

    /// What has been added since the last call, and how many observations found no free cell.
    fn take_additions(&self) -> Additions {
        let mut cells = self.lock();
        let dropped = cells.overflow - cells.overflow_reported;
        cells.overflow_reported = cells.overflow;
        let changed = cells.seen.iter_mut().filter_map(|(key, counted)| {
            let added = counted.take()?;
            Some((key.clone(), added))
        });
        (changed.collect(), dropped)
    }

    /// A panic while holding the lock leaves counters that are at worst one short.
    fn lock(&self) -> MutexGuard<'_, Cells> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Edges {
    /// A shard per worker, each of at most `limit` cells.
    pub(crate) fn new(workers: usize, limit: usize) -> Self {
        let shard = || Arc::new(EdgeShard { limit, cells: Mutex::default() });
        Self { shards: (0..workers).map(|_| shard()).collect() }
    }

    /// The shard that worker `index` writes.
    pub(crate) fn shard(&self, index: usize) -> Arc<EdgeShard> {
        Arc::clone(&self.shards[index % self.shards.len()])
    }

    /// Shows every cell's totals since the start. The same key may come once per worker.
    pub(crate) fn each(&self, mut show: impl FnMut(&Key, &Cell)) {
        for shard in self.shards.iter() {
            for (key, total) in shard.totals() {
                show(&key, &total);
            }
        }
    }

    /// Observations since the start that found no free cell.
    pub(crate) fn overflow(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().overflow).sum()
    }

    /// What has been added since the last call, one cell per edge over all workers, and how many observations found
    /// no free cell. `own` is this side of each edge: what was seen before the first certificate does not say it.
    pub(crate) fn take_deltas(&self, own: &SpiffeId) -> (Vec<v1::EdgeCell>, u64) {
        let mut deltas: HashMap<Key, Cell> = HashMap::new();
        let mut dropped = 0;
        for shard in self.shards.iter() {
            let (added, dropped_here) = shard.take_additions();
            dropped += dropped_here;
            for (key, cell) in added {
                deltas.entry(key.seen_by(own)).and_modify(|sum| sum.merge(&cell)).or_insert(cell);
            }
        }
        (deltas.iter().map(|(key, cell)| delta(key, cell)).collect(), dropped)
    }
}

impl Key {
    /// The same with this side's identity in its place.
    fn seen_by(mut self, own: &SpiffeId) -> Self {
        let end = match self.direction {
            Direction::Inbound => &mut self.ends.destination,
            Direction::Outbound => &mut self.ends.source,
        };
        end.get_or_insert_with(|| own.clone());
        self
    }
}

impl Counted {
    /// What was added since the last call, if anything.
    fn take(&mut self) -> Option<Cell> {
        if self.total.count == self.reported.count {
            return None;
        }
        let reported = std::mem::replace(&mut self.reported, self.total.clone());
        Some(self.total.since(&reported))
    }
}

impl Cell {
    fn add(&mut self, seen: Observation, now_ms: i64) {
        self.count += 1;
        self.errors += u64::from(seen.failed || seen.status.is_some_and(|status| status >= 500));
        self.received = self.received.saturating_add(seen.received);
        self.sent = self.sent.saturating_add(seen.sent);
        let class = usize::from(seen.status.unwrap_or(0) / 100);
        self.classes[if class < self.classes.len() { class } else { 0 }] += 1;
        let bucket = LATENCY_BOUNDS.iter().position(|bound| seen.duration <= *bound).unwrap_or(BUCKETS - 1);
        self.latency[bucket] += 1;
        let micros = u64::try_from(seen.duration.as_micros()).unwrap_or(u64::MAX);
        self.latency_sum = self.latency_sum.saturating_add(micros);
        // A clock that was set back does not make the end come before the beginning.
        self.last_seen_ms = self.last_seen_ms.max(now_ms);
    }

    /// Adds another worker's share of the same edge.
    fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.errors = self.errors.saturating_add(other.errors);
        self.received = self.received.saturating_add(other.received);
        self.sent = self.sent.saturating_add(other.sent);
        self.latency_sum = self.latency_sum.saturating_add(other.latency_sum);
        let sums = self.classes.iter_mut().chain(&mut self.latency);
        for (sum, more) in sums.zip(other.classes.iter().chain(&other.latency)) {
            *sum = sum.saturating_add(*more);
        }
        self.first_seen_ms = self.first_seen_ms.min(other.first_seen_ms);
        self.last_seen_ms = self.last_seen_ms.max(other.last_seen_ms);
    }

    /// What this has that `earlier` had not. Counters only grow.
    fn since(&self, earlier: &Self) -> Self {
        let mut added = self.clone();
        added.count = self.count.saturating_sub(earlier.count);
        added.errors = self.errors.saturating_sub(earlier.errors);
        added.received = self.received.saturating_sub(earlier.received);
        added.sent = self.sent.saturating_sub(earlier.sent);
        added.latency_sum = self.latency_sum.saturating_sub(earlier.latency_sum);
        let counts = added.classes.iter_mut().chain(&mut added.latency);
        for (count, before) in counts.zip(earlier.classes.iter().chain(&earlier.latency)) {
            *count = count.saturating_sub(*before);
        }
        added
    }
}

fn delta(key: &Key, added: &Cell) -> v1::EdgeCell {
    let name = |id: &Option<SpiffeId>| id.as_ref().map(ToString::to_string).unwrap_or_default();
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let judgement = &key.judgement;
    v1::EdgeCell {
        direction: match key.direction {
            Direction::Inbound => v1::Direction::Inbound,
            Direction::Outbound => v1::Direction::Outbound,
        }
        .into(),
        source: name(&key.ends.source),
        destination: name(&key.ends.destination),
        port: key.port.into(),
        protocol: protocol(key.carried).to_owned(),
        route: text(&judgement.route),
        tls: match key.tls {
            TlsState::Mutual => v1::TlsState::Mutual,
            TlsState::Plaintext => v1::TlsState::Plaintext,
            TlsState::Failed => v1::TlsState::Failed,
        }
        .into(),
        verdict: verdict(judgement.verdict).into(),
        code: judgement.code.map(|code| code.id().to_owned()).unwrap_or_default(),
        policy: text(&judgement.policy),
        rule: text(&judgement.rule),
        shadow: judgement.shadow.map_or(v1::Verdict::Unspecified, verdict).into(),
        count: added.count,
        errors: added.errors,
        bytes_received: added.received,
        bytes_sent: added.sent,
        latency: added.latency.to_vec(),
        first_seen_ms: added.first_seen_ms,
        last_seen_ms: added.last_seen_ms,
    }
}

/// As the wire names it: what was never known is left empty.
fn protocol(carried: Carried) -> &'static str {
    match carried {
        Carried::Unknown => "",
        known => known.as_str(),
    }
}

fn verdict(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Allowed => v1::Verdict::Allowed,
        Verdict::Denied => v1::Verdict::Denied,
        Verdict::WouldDeny => v1::Verdict::WouldDeny,
        Verdict::Failed => v1::Verdict::Failed,
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Upper bounds of the latency buckets; the last bucket has none. `ledger.proto` states the same.
pub(crate) const LATENCY_BOUNDS: [Duration; BUCKETS - 1] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];
const BUCKETS: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> Key {
        Key {
            direction: Direction::Inbound,
            ends: Ends { source: None, destination: None },
            port,
            carried: Carried::Http1,
            tls: TlsState::Mutual,
            judgement: Judgement::ADMITTED,
        }
    }

    fn own() -> SpiffeId {
        SpiffeId::parse("spiffe://shop.test/ns/shop/sa/payments").unwrap()
    }

    const SEEN: Observation = Observation {
        status: Some(200),
        failed: false,
        received: 10,
        sent: 20,
        duration: Duration::from_millis(2),
    };

    #[test]
    fn a_delta_is_handed_out_once() {
        let edges = Edges::new(1, 16);
        edges.shard(0).record(&key(1), SEEN);
        edges.shard(0).record(&key(1), Observation { status: Some(503), ..SEEN });
        let (first, _) = edges.take_deltas(&own());
        assert_eq!((first[0].count, first[0].errors, first[0].bytes_sent), (2, 1, 40));
        assert_eq!(first[0].latency.iter().sum::<u64>(), 2);
        assert!(edges.take_deltas(&own()).0.is_empty());
        edges.shard(0).record(&key(1), SEEN);
        assert_eq!(edges.take_deltas(&own()).0[0].count, 1);
    }

    #[test]
    fn what_finds_no_cell_is_counted_and_said() {
        let edges = Edges::new(1, 2);
        for port in 0..5 {
            edges.shard(0).record(&key(port), SEEN);
        }
        let (deltas, dropped) = edges.take_deltas(&own());
        assert_eq!((deltas.len(), dropped, edges.overflow()), (2, 3, 3));
        assert_eq!(edges.take_deltas(&own()).1, 0);
    }

    #[test]
    fn a_status_outside_the_classes_does_not_break_the_count() {
        let edges = Edges::new(1, 2);
        edges.shard(0).record(&key(1), Observation { status: Some(999), ..SEEN });
        edges.each(|_, cell| assert_eq!(cell.classes, [1, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn what_was_seen_before_the_first_certificate_is_reported_as_this_workloads() {
        for (direction, source, destination) in
            [(Direction::Inbound, "", own().as_str()), (Direction::Outbound, own().as_str(), "")]
        {
            let edges = Edges::new(1, 2);
            edges.shard(0).record(&Key { direction, ..key(1) }, SEEN);
            let (deltas, _) = edges.take_deltas(&own());
            assert_eq!((deltas[0].source.as_str(), deltas[0].destination.as_str()), (source, destination));
        }
    }

    #[test]
    fn one_edge_that_several_workers_saw_is_one_cell() {
        let edges = Edges::new(2, 2);
        edges.shard(0).record(&key(1), SEEN);
        let mut named = key(1);
        named.ends.destination = Some(own());
        edges.shard(1).record(&named, SEEN);
        let (deltas, _) = edges.take_deltas(&own());
        assert_eq!((deltas.len(), deltas[0].count, deltas[0].bytes_sent), (1, 2, 40));
        assert_eq!(deltas[0].latency.iter().sum::<u64>(), 2);
    }

    #[test]
    fn every_kind_of_observation_has_a_name_that_the_control_plane_knows() {
        for carried in [Carried::Http1, Carried::Http2, Carried::Tcp, Carried::Unknown] {
            assert!(["http1", "http2", "tcp", ""].contains(&protocol(carried)));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_the_end_after_the_beginning() {
        let mut cell = Cell { first_seen_ms: 2_000, ..Cell::default() };
        cell.add(SEEN, 2_000);
        cell.add(SEEN, 1_000);
        assert_eq!((cell.first_seen_ms, cell.last_seen_ms), (2_000, 2_000));
    }
}
