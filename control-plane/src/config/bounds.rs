//! The durations of `mesh.yaml`: what each is when absent, and how far it may go.

use std::time::Duration;

use schemars::Schema;

/// An outage of the control plane is survived for at least half of it.
pub(super) const LEAF_LIFE: Bounds = Bounds {
    default: Duration::from_hours(6),
    least: Duration::from_secs(2),
    most: Duration::from_hours(24),
};
pub(super) const ROOT_LIFE: Bounds = Bounds {
    default: Duration::from_hours(24 * 1825),
    least: Duration::from_hours(1),
    most: Duration::from_hours(24 * 3653),
};
/// Counted from the end of a certificate: long enough to ask who could have been somebody when it is found out late.
pub(super) const RETENTION: Bounds = Bounds {
    default: Duration::from_hours(24 * 90),
    least: Duration::from_hours(1),
    most: Duration::from_hours(24 * 3653),
};
/// Another control plane takes over after it; a network that stalls for less changes nothing.
pub(super) const LEASE: Bounds =
    Bounds { default: Duration::from_secs(10), least: Duration::from_secs(1), most: Duration::from_mins(2) };
/// A new authority is published long before it signs, so that minutes do no harm.
pub(super) const BUNDLE_REFRESH: Bounds =
    Bounds { default: Duration::from_mins(5), least: Duration::from_secs(1), most: Duration::from_hours(24) };
pub(super) const REPORT_INTERVAL: Bounds = Bounds {
    default: Duration::from_secs(5),
    least: Duration::from_millis(100),
    most: Duration::from_mins(5),
};

/// A duration that may be absent, and must be within bounds if it is not.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// In force when absent.
    pub(super) default: Duration,
    least: Duration,
    most: Duration,
}

impl Bounds {
    /// JSON Schema has no word for the bounds of a duration; `x-` marks our own.
    pub(super) fn describe(self, schema: &mut Schema) {
        for (keyword, duration) in
            [("default", self.default), ("x-minimum", self.least), ("x-maximum", self.most)]
        {
            schema.insert(keyword.to_owned(), written(duration).into());
        }
    }

    /// Reads a duration within the bounds.
    pub(super) fn duration(self, text: &str) -> Result<Duration, String> {
        let duration = humantime::parse_duration(text)
            .map_err(|error| format!("{text:?} is not a duration: {error}"))?;
        if (self.least..=self.most).contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (written(self.least), written(self.most));
        Err(format!("{text} is not between {least} and {most}"))
    }
}

/// In the largest unit that it is a whole number of; months and years are not exact enough for bounds.
fn written(duration: Duration) -> String {
    let millis = duration.as_millis();
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
        .into_iter()
        .find(|(_, length)| millis.is_multiple_of(*length))
        .map_or_else(|| format!("{millis}ms"), |(unit, length)| format!("{}{unit}", millis / length))
}
