//! Quantiles of a latency histogram whose bounds the wire fixes.

/// Upper bounds of the buckets in milliseconds; one more bucket reaches to infinity (`EdgeCell.latency`).
pub(crate) const BOUNDS_MS: [f64; 12] =
    [0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 5000.0];

/// Counts in the buckets.
pub(crate) type Histogram = [u64; BOUNDS_MS.len() + 1];

/// The quantile, interpolated within its bucket; what lies in the last bucket is given as its lower bound, for
/// nothing more is known of it. `None` if nothing was measured.
#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^52 do not move a quantile")]
pub(crate) fn quantile_ms(histogram: &Histogram, quantile: f64) -> Option<f64> {
    let total: f64 = histogram.iter().map(|count| *count as f64).sum();
    if total == 0.0 {
        return None;
    }
    let rank = total * quantile;
    let mut below = 0.0;
    let mut lower = 0.0;
    for (count, upper) in histogram.iter().zip(BOUNDS_MS) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            return Some(lower + (upper - lower) * (rank - below) / count);
        }
        below += count;
        lower = upper;
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(usize, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (bucket, count) in buckets {
            histogram[*bucket] = *count;
        }
        histogram
    }

    #[test]
    fn nothing_measured_has_no_quantile() {
        assert_eq!(quantile_ms(&Histogram::default(), 0.5), None);
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_rank() {
        let histogram = histogram(&[(2, 50), (5, 49), (8, 1)]);
        let within = |quantile, low, high| {
            let value = quantile_ms(&histogram, quantile).unwrap();
            assert!((low..=high).contains(&value), "{value}");
        };
        within(0.50, 1.0, 2.5);
        within(0.99, 10.0, 25.0);
        within(1.0, 100.0, 250.0);
    }

    #[test]
    fn beyond_the_last_bound_the_bound_is_given() {
        assert_eq!(quantile_ms(&histogram(&[(12, 3)]), 0.5), Some(5000.0));
    }
}
