//! The page of metrics, from the tables that the two programs write their expositions from.

use std::fmt::Write;

use sidegate_control_plane::families as control_plane;
use sidegate_proxy::families as sidecar;

/// One family of either program.
struct Row {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Names, and what they can be.
    labels: Vec<(&'static str, &'static str)>,
}

pub(super) fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         OpenMetrics text at `/metrics` of a sidecar's `admin` port and of the control plane's API port. Each family is\n\
         announced from the start; a counter's labels appear with their first observation.\n\
         [operations.md](../operations.md#metrics) says which of them should wake somebody.\n\n\
         <!-- Generated: sidegate reference metrics > docs/reference/metrics.md -->\n",
    );
    section(&mut page, "Sidecar", &sidecar_rows());
    section(&mut page, "Control plane", &control_plane_rows());
    page
}

fn section(page: &mut String, title: &str, rows: &[Row]) {
    let _ = write!(page, "\n## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for row in rows {
        let names: Vec<_> = row.labels.iter().map(|(name, _)| format!("`{name}`")).collect();
        let _ = writeln!(page, "| `{}` | {} | {} | {} |", row.name, row.kind, names.join(", "), row.help);
    }
    page.push_str("\n| label | of | values |\n|---|---|---|\n");
    for (label, families) in labels(rows) {
        let families: Vec<_> = families.iter().map(|family| format!("`{family}`")).collect();
        let _ = writeln!(page, "| `{}` | {} | {} |", label.0, families.join(", "), label.1);
    }
}

/// Every label with the families that have it, in the order in which they come up.
fn labels(rows: &[Row]) -> Vec<((&'static str, &'static str), Vec<&'static str>)> {
    let mut found: Vec<((&str, &str), Vec<&str>)> = Vec::new();
    for row in rows {
        for label in &row.labels {
            match found.iter_mut().find(|(known, _)| known == label) {
                Some((_, families)) => families.push(row.name),
                None => found.push((*label, vec![row.name])),
            }
        }
    }
    found
}

fn sidecar_rows() -> Vec<Row> {
    let row = |family: &&sidecar::Family| Row {
        name: family.name,
        kind: match family.kind {
            sidecar::Kind::Counter => "counter",
            sidecar::Kind::Gauge => "gauge",
            sidecar::Kind::Histogram => "histogram",
        },
        help: family.help,
        labels: family.labels.iter().map(|label| (label.name, label.values)).collect(),
    };
    sidecar::ALL.iter().map(row).collect()
}

fn control_plane_rows() -> Vec<Row> {
    let row = |family: &&control_plane::Family| Row {
        name: family.name,
        kind: match family.kind {
            control_plane::Kind::Counter => "counter",
            control_plane::Kind::Gauge => "gauge",
        },
        help: family.help,
        labels: family.label.iter().map(|label| (label.name, label.values)).collect(),
    };
    control_plane::ALL.iter().map(row).collect()
}
