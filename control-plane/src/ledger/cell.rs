//! One cell of a report, checked: every enum is known, every text has its limit, and the reporter was part of the edge.

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;
use sidegate_proto::v1::{self, EdgeCell};

use super::latency::Histogram;

/// What tells one cell from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CellKey {
    pub(crate) direction: Direction,
    /// `None`: the peer proved no identity.
    pub(crate) source: Option<SpiffeId>,
    /// `None`: it was never learnt.
    pub(crate) destination: Option<SpiffeId>,
    pub(crate) port: u16,
    pub(crate) protocol: &'static str,
    pub(crate) route: String,
    pub(crate) tls: &'static str,
    pub(crate) verdict: &'static str,
    pub(crate) code: Option<Code>,
    pub(crate) policy: String,
    pub(crate) rule: String,
    pub(crate) shadow: Option<&'static str>,
}

/// Who saw the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// The destination's sidecar.
    Inbound,
    /// The source's sidecar.
    Outbound,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) latency: Histogram,
    pub(crate) first_seen_ms: u64,
    pub(crate) last_seen_ms: u64,
}

/// A checked cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) key: CellKey,
    pub(crate) counts: Counts,
}

/// A cell that cannot be counted; it refuses its batch. The reporter's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCell {
    #[error("{0} is unspecified or unknown")]
    Unknown(&'static str),
    #[error("{0} is not a SPIFFE ID")]
    Identity(&'static str),
    #[error("{0} is out of its range")]
    Range(&'static str),
    /// The one that is an attack rather than a fault.
    #[error("the reporter is not the side of the edge that it reports")]
    Foreign,
}

impl Cell {
    /// `now_ms` bounds the times that the sidecar's clock says.
    pub(crate) fn check(cell: EdgeCell, reporter: &SpiffeId, now_ms: u64) -> Result<Self, BadCell> {
        let counts = counts(&cell, now_ms)?;
        let key = key(cell)?;
        if key.reporter() == Some(reporter) { Ok(Self { key, counts }) } else { Err(BadCell::Foreign) }
    }
}

impl CellKey {
    /// The side of the edge that saw it.
    pub(crate) fn reporter(&self) -> Option<&SpiffeId> {
        match self.direction {
            Direction::Inbound => self.destination.as_ref(),
            Direction::Outbound => self.source.as_ref(),
        }
    }
}

impl Direction {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl Counts {
    /// Never overflows: a reporter may say any number.
    pub(crate) fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.errors = self.errors.saturating_add(other.errors);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        for (sum, more) in self.latency.iter_mut().zip(other.latency) {
            *sum = sum.saturating_add(more);
        }
        self.first_seen_ms = self.first_seen_ms.min(other.first_seen_ms);
        self.last_seen_ms = self.last_seen_ms.max(other.last_seen_ms);
    }
}

fn key(cell: EdgeCell) -> Result<CellKey, BadCell> {
    Ok(CellKey {
        direction: direction(cell.direction)?,
        source: identity(&cell.source, "source")?,
        destination: identity(&cell.destination, "destination")?,
        port: u16::try_from(cell.port).map_err(|_| BadCell::Range("port"))?,
        protocol: protocol(&cell.protocol)?,
        route: bounded(cell.route, "route")?,
        tls: tls(cell.tls)?,
        verdict: verdict(cell.verdict)?.ok_or(BadCell::Unknown("verdict"))?,
        code: code(&cell.code)?,
        policy: bounded(cell.policy, "policy")?,
        rule: bounded(cell.rule, "rule")?,
        shadow: verdict(cell.shadow)?,
    })
}

fn counts(cell: &EdgeCell, now_ms: u64) -> Result<Counts, BadCell> {
    let latency = match cell.latency.as_slice() {
        [] => Histogram::default(),
        buckets => buckets.try_into().map_err(|_| BadCell::Range("latency"))?,
    };
    let moment = |ms: i64, name| u64::try_from(ms).map(|ms| ms.min(now_ms)).map_err(|_| BadCell::Range(name));
    let first_seen_ms = moment(cell.first_seen_ms, "first_seen_ms")?;
    let last_seen_ms = moment(cell.last_seen_ms, "last_seen_ms")?;
    if first_seen_ms > last_seen_ms {
        return Err(BadCell::Range("last_seen_ms"));
    }
    Ok(Counts {
        count: cell.count,
        errors: cell.errors,
        bytes_received: cell.bytes_received,
        bytes_sent: cell.bytes_sent,
        latency,
        first_seen_ms,
        last_seen_ms,
    })
}

fn direction(number: i32) -> Result<Direction, BadCell> {
    match v1::Direction::try_from(number) {
        Ok(v1::Direction::Inbound) => Ok(Direction::Inbound),
        Ok(v1::Direction::Outbound) => Ok(Direction::Outbound),
        Ok(v1::Direction::Unspecified) | Err(_) => Err(BadCell::Unknown("direction")),
    }
}

fn tls(number: i32) -> Result<&'static str, BadCell> {
    match v1::TlsState::try_from(number) {
        Ok(v1::TlsState::Mutual) => Ok("mutual"),
        Ok(v1::TlsState::Plaintext) => Ok("plaintext"),
        Ok(v1::TlsState::Failed) => Ok("failed"),
        Ok(v1::TlsState::Unspecified) | Err(_) => Err(BadCell::Unknown("tls")),
    }
}

/// `None`: unspecified, which a shadow verdict may be.
fn verdict(number: i32) -> Result<Option<&'static str>, BadCell> {
    match v1::Verdict::try_from(number) {
        Ok(v1::Verdict::Unspecified) => Ok(None),
        Ok(v1::Verdict::Allowed) => Ok(Some("allowed")),
        Ok(v1::Verdict::Denied) => Ok(Some("denied")),
        Ok(v1::Verdict::WouldDeny) => Ok(Some("would_deny")),
        Ok(v1::Verdict::Failed) => Ok(Some("failed")),
        Err(_) => Err(BadCell::Unknown("verdict")),
    }
}

/// Empty where the connection ended before its protocol was known.
fn protocol(text: &str) -> Result<&'static str, BadCell> {
    ["http1", "http2", "tcp", ""].into_iter().find(|known| *known == text).ok_or(BadCell::Unknown("protocol"))
}

fn identity(text: &str, name: &'static str) -> Result<Option<SpiffeId>, BadCell> {
    if text.is_empty() {
        return Ok(None);
    }
    SpiffeId::parse(text).map(Some).map_err(|_| BadCell::Identity(name))
}

fn code(text: &str) -> Result<Option<Code>, BadCell> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| BadCell::Unknown("code"))
}

fn bounded(text: String, name: &'static str) -> Result<String, BadCell> {
    if text.len() <= MAX_TEXT_BYTES { Ok(text) } else { Err(BadCell::Range(name)) }
}

const MAX_TEXT_BYTES: usize = 1_024;
