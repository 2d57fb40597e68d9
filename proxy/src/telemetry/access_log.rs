//! One JSON line per request or opaque connection, on standard output. Lines go through a bounded queue to a thread
//! of their own: a slow reader costs lines, which are counted, and never traffic. Denials stay in the edge cells.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::SystemTime,
};

use serde::{Serialize, Serializer, ser::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// One line; the names are its keys, which docs/reference/access-log.md explains. Absent values are left out.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    #[serde(serialize_with = "rfc3339")]
    pub(crate) time: SystemTime,
    pub(crate) direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) src: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dst: Option<String>,
    pub(crate) tls: &'static str,
    pub(crate) protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    pub(crate) verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nearest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    pub(crate) peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<Arc<str>>,
}

/// The writing end.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    queue: Option<SyncSender<Line>>,
    lost: Arc<AtomicU64>,
}

/// The thread that writes; ends when every `AccessLog` is gone.
#[derive(Debug)]
pub(crate) struct Writer(JoinHandle<()>);

impl AccessLog {
    /// Lines go nowhere.
    pub(crate) fn off() -> Self {
        Self { queue: None, lost: Arc::default() }
    }

    /// Lines go to `out`.
    pub(crate) fn to(out: impl Write + Send + 'static) -> io::Result<(Self, Writer)> {
        let (queue, lines) = sync_channel(QUEUE);
        let thread =
            std::thread::Builder::new().name("access-log".into()).spawn(move || write(&lines, out))?;
        Ok((Self { queue: Some(queue), lost: Arc::default() }, Writer(thread)))
    }

    /// Whether anybody reads: what costs an allocation is made only then.
    pub(crate) fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues one line, or counts it as lost.
    pub(crate) fn write(&self, line: Line) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(line) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost because nobody read fast enough.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Writer {
    /// Waits until all lines are out. Every `AccessLog` must have been dropped before.
    pub(crate) fn finish(self) {
        if self.0.join().is_err() {
            tracing::error!("the access log ended early");
        }
    }
}

/// Flushes when the queue runs empty: prompt when quiet, batched under load.
fn write(lines: &Receiver<Line>, out: impl Write) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, out);
    while let Ok(line) = lines.recv() {
        if put(&mut out, &line).is_err() {
            return;
        }
        while let Ok(line) = lines.try_recv() {
            if put(&mut out, &line).is_err() {
                return;
            }
        }
        if out.flush().is_err() {
            return;
        }
    }
}

fn put(out: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// On the writer's thread, not on a worker's.
fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let text = OffsetDateTime::from(*time).format(&Rfc3339).map_err(S::Error::custom)?;
    serializer.serialize_str(&text)
}

/// Lines that wait for the writer at most.
const QUEUE: usize = 16_384;

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError, mpsc};

    use super::*;

    /// Takes nothing before its gate is open, or gone.
    struct Slow {
        gate: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.recv();
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line() -> Line {
        Line {
            time: SystemTime::UNIX_EPOCH,
            direction: "inbound",
            src: None,
            dst: None,
            tls: "mutual",
            protocol: "http1",
            method: None,
            path: None,
            status: Some(200),
            verdict: "allowed",
            code: None,
            policy: None,
            rule: None,
            nearest: None,
            detail: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration_ms: 1.0,
            request_id: None,
            peer: String::new(),
            upstream: None,
            attempts: None,
            route: None,
        }
    }

    #[test]
    fn a_slow_reader_of_the_log_costs_lines_which_are_counted_and_no_time() {
        let (open, gate) = mpsc::channel();
        let taken = Arc::default();
        let (log, writer) = AccessLog::to(Slow { gate, taken: Arc::clone(&taken) }).unwrap();
        let sent = 2 * QUEUE;
        for _ in 0..sent {
            log.write(line());
        }
        let lost = usize::try_from(log.lost()).unwrap();
        assert!((1..=QUEUE).contains(&lost), "{lost} of {sent}");
        drop((open, log));
        writer.finish();
        let taken = taken.lock().unwrap();
        let written = taken.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        assert_eq!(written + lost, sent);
    }
}
