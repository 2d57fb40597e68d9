//! Sheds load before memory runs out: looks at what this process holds, off of the data path, and says whether
//! anything new may be taken on. What is in flight goes on, since ending it would cost its callers more than waiting.

use std::{
    convert::Infallible,
    fs, io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::telemetry::Metrics;

/// Looks on and on. `limit` is in bytes; a tenth below what the container may have counts too, if that is less.
pub(crate) async fn watch(limit: usize, metrics: Arc<Metrics>) -> Infallible {
    let ceiling = ceiling(limit as u64, container());
    tracing::info!(bytes = ceiling, "above this much memory nothing new is taken on");
    let mut is_readable = true;
    loop {
        match held() {
            Ok(bytes) => observe(bytes, ceiling, &metrics),
            Err(error) if is_readable => {
                is_readable = false;
                tracing::warn!(%error, "limits.memory is not kept: /proc/self/statm cannot be read");
            }
            Err(_) => {}
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Has the allocator give back to the kernel what has been free for a second. It looks for that only when it takes or gives back a
/// large piece itself: in silence it would keep what the last burst has left.
pub(crate) fn settle() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_PIECE)));
}

/// Above the ceiling nothing new is taken on, until a tenth of it is free: without that it would be on and off.
fn observe(bytes: u64, ceiling: u64, metrics: &Metrics) {
    metrics.memory.store(bytes, Ordering::Relaxed);
    let was = metrics.is_overloaded();
    let is = if was { bytes >= ceiling / 10 * 9 } else { bytes > ceiling };
    if is != was {
        metrics.overloaded.store(is, Ordering::Relaxed);
        let code = sidegate_codes::Code::Overloaded;
        tracing::warn!(%code, bytes, ceiling, overloaded = is, "limits.memory");
    }
}

fn ceiling(limit: u64, container: Option<u64>) -> u64 {
    container.map_or(limit, |most| limit.min(most / 10 * 9))
}

/// Pages of this process alone: its own heap and stacks, and not the program.
fn held() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    parse(&statm, rustix::param::page_size() as u64)
        .ok_or_else(|| io::Error::other("not in the form of proc(5)"))
}

/// proc(5): size, resident, shared, in pages.
fn parse(statm: &str, page: u64) -> Option<u64> {
    let mut pages = statm.split_ascii_whitespace().skip(1).map_while(|pages| pages.parse::<u64>().ok());
    let (resident, shared) = (pages.next()?, pages.next()?);
    resident.saturating_sub(shared).checked_mul(page)
}

/// What the control group may have, version 2 or 1; `None` without a bound.
fn container() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok())?;
    text.trim().parse().ok()
}

/// Of more than the allocator keeps for a thread. No byte of it is touched.
const LARGE_PIECE: usize = 4 * 1024 * 1024;
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_shed_above_the_ceiling_until_a_tenth_of_it_is_free() {
        let metrics = Metrics::default();
        for (bytes, is_overloaded) in [(1_000, false), (1_001, true), (950, true), (899, false), (950, false)]
        {
            observe(bytes, 1_000, &metrics);
            assert_eq!(metrics.is_overloaded(), is_overloaded, "{bytes}");
            assert_eq!(metrics.memory.load(Ordering::Relaxed), bytes);
        }
    }

    #[test]
    fn a_container_that_may_have_less_lowers_the_ceiling() {
        assert_eq!(ceiling(1_000, None), 1_000);
        assert_eq!(ceiling(1_000, Some(500)), 450);
        assert_eq!(ceiling(1_000, Some(u64::MAX)), 1_000);
    }

    #[test]
    fn only_what_is_not_shared_counts() {
        assert_eq!(parse("5000 300 100 20 0 40 0\n", 4_096), Some(200 * 4_096));
        assert_eq!(parse("5000 x", 4_096), None);
        assert!(held().unwrap() > 0);
    }
}
