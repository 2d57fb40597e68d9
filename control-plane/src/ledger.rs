//! The ledger: what sidecars saw on each edge, for the last hour, in memory. Takes checked batches, counts each once,
//! answers which edges there were in a window. What finds no room is counted as dropped, never guessed.

pub(crate) mod cell;
mod latency;
pub(crate) mod report;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sidegate_identity::SpiffeId;

use self::{
    cell::{Cell, CellKey, Counts},
    latency::quantile_ms,
    report::Report,
};

/// Every edge of the last hour.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Held for one batch, or for one walk over all edges.
    books: Mutex<Books>,
}

/// One edge in a window, as the operator sees it.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) key: CellKey,
    pub(crate) counts: Counts,
    /// Requests per second, by the newest reports of all reporters.
    pub(crate) rps: f64,
    /// `None`: nothing was measured.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

#[derive(Debug, Default)]
struct Books {
    edges: HashMap<CellKey, Book>,
    /// How many of the edges each identity reported.
    reported: HashMap<SpiffeId, usize>,
    /// The identities are those of the mesh; how many instances one has is up to it, and bounded.
    reporters: HashMap<SpiffeId, HashMap<String, Sequence>>,
    dropped: u64,
    /// The minute in which the old was last forgotten.
    forgotten_at: u64,
}

/// One edge: what was counted in each minute in which something was.
#[derive(Debug, Default)]
struct Book {
    /// The oldest first.
    slots: VecDeque<Slot>,
    rates: HashMap<Reporter, Rate>,
}

#[derive(Debug)]
struct Slot {
    /// Since the Unix epoch, by the control plane's clock: sidecars' clocks may be anywhere.
    minute: u64,
    counts: Counts,
}

/// What one reporter's newest report said of an edge.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    until_ms: u64,
}

/// The newest batch of a reporter.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    newest: u64,
    at_ms: u64,
}

/// Identity and instance: one identity cannot spend another's sequence numbers.
type Reporter = (SpiffeId, String);

impl Ledger {
    /// Adds a batch; `false` if it was counted before.
    pub(crate) fn add(&self, report: Report, now_ms: u64) -> bool {
        let mut books = self.lock();
        books.forget(now_ms);
        let reporter = (report.reporter, report.instance);
        if !books.is_new(&reporter, report.sequence, now_ms) {
            return false;
        }
        books.dropped = books.dropped.saturating_add(report.dropped);
        let rate_until_ms = now_ms.saturating_add(2 * report.covers_ms + RATE_SLACK_MS);
        for Cell { key, counts } in report.cells {
            #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
            let per_second = counts.count as f64 * 1000.0 / report.covers_ms as f64;
            let rate = Rate { per_second, until_ms: rate_until_ms };
            books.count(key, &counts, &reporter, rate, now_ms);
        }
        true
    }

    /// The edges of the last `window_ms`, to the minute.
    pub(crate) fn edges(&self, window_ms: u64, now_ms: u64) -> Vec<Edge> {
        let from_minute = now_ms.saturating_sub(window_ms) / MINUTE_MS;
        let books = self.lock();
        let mut edges: Vec<_> =
            books.edges.iter().filter_map(|(key, book)| book.edge(key, from_minute, now_ms)).collect();
        drop(books);
        edges.sort_by(|a, b| a.key.cmp(&b.key));
        edges
    }

    /// How many edges are held, and how many observations found no room here or in a sidecar.
    pub(crate) fn size(&self) -> (usize, u64) {
        let books = self.lock();
        (books.edges.len(), books.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn is_new(&mut self, (identity, instance): &Reporter, sequence: u64, now_ms: u64) -> bool {
        let instances = self.reporters.entry(identity.clone()).or_default();
        if instances.get(instance).is_some_and(|seen| sequence <= seen.newest) {
            return false;
        }
        if instances.len() >= MAX_INSTANCES && !instances.contains_key(instance) {
            let silent = instances.iter().min_by_key(|(_, seen)| seen.at_ms).map(|(name, _)| name.clone());
            silent.map(|name| instances.remove(&name));
        }
        instances.insert(instance.clone(), Sequence { newest: sequence, at_ms: now_ms });
        true
    }

    fn count(&mut self, key: CellKey, counts: &Counts, reporter: &Reporter, rate: Rate, now_ms: u64) {
        if !self.edges.contains_key(&key) && !self.has_room(&reporter.0) {
            self.dropped = self.dropped.saturating_add(counts.count);
            return;
        }
        self.edges.entry(key).or_default().count(counts, reporter, rate, now_ms);
    }

    /// Takes the room of one more edge: one reporter that invents edges leaves room for the others.
    fn has_room(&mut self, reporter: &SpiffeId) -> bool {
        let taken = self.reported.entry(reporter.clone()).or_default();
        let has_room = self.edges.len() < MAX_EDGES && *taken < MAX_EDGES_PER_IDENTITY;
        *taken += usize::from(has_room);
        has_room
    }

    /// What is older than an hour goes, with the edges and reporters that have nothing newer. Once a minute: it is a
    /// walk over everything.
    fn forget(&mut self, now_ms: u64) {
        if self.forgotten_at == now_ms / MINUTE_MS {
            return;
        }
        self.forgotten_at = now_ms / MINUTE_MS;
        let oldest_minute = now_ms.saturating_sub(HOUR_MS) / MINUTE_MS;
        self.edges.retain(|_, book| {
            book.slots.retain(|slot| slot.minute >= oldest_minute);
            !book.slots.is_empty()
        });
        self.reported.clear();
        for reporter in self.edges.keys().filter_map(CellKey::reporter) {
            *self.reported.entry(reporter.clone()).or_default() += 1;
        }
        self.reporters.retain(|_, instances| {
            instances.retain(|_, seen| seen.at_ms.saturating_add(HOUR_MS) > now_ms);
            !instances.is_empty()
        });
    }
}

impl Book {
    fn count(&mut self, counts: &Counts, reporter: &Reporter, rate: Rate, now_ms: u64) {
        let minute = now_ms / MINUTE_MS;
        match self.slots.back_mut() {
            // A clock that was set back counts into the newest minute: slots stay in order.
            Some(slot) if slot.minute >= minute => slot.counts.add(counts),
            _ => self.slots.push_back(Slot { minute, counts: counts.clone() }),
        }
        self.rates.retain(|_, rate| rate.until_ms > now_ms);
        if self.rates.len() < MAX_RATES || self.rates.contains_key(reporter) {
            self.rates.insert(reporter.clone(), rate);
        }
    }

    fn edge(&self, key: &CellKey, from_minute: u64, now_ms: u64) -> Option<Edge> {
        let mut slots = self.slots.iter().filter(|slot| slot.minute >= from_minute);
        let mut counts = slots.next()?.counts.clone();
        slots.for_each(|slot| counts.add(&slot.counts));
        let current = self.rates.values().filter(|rate| rate.until_ms > now_ms);
        Some(Edge {
            key: key.clone(),
            rps: current.map(|rate| rate.per_second).sum(),
            p50_ms: quantile_ms(&counts.latency, 0.50),
            p99_ms: quantile_ms(&counts.latency, 0.99),
            counts,
        })
    }
}

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// A report that is late by less than this has not stopped.
const RATE_SLACK_MS: u64 = 1_000;
/// A mesh of 100 services with ten routes each has about this many.
const MAX_EDGES: usize = 10_000;
const MAX_EDGES_PER_IDENTITY: usize = MAX_EDGES / 4;
/// Instances of one identity whose sequence is remembered; beyond that, the longest silent one is forgotten.
const MAX_INSTANCES: usize = 1_000;
/// Instances whose newest rate is kept for one edge.
const MAX_RATES: usize = 256;

#[cfg(test)]
mod tests;
