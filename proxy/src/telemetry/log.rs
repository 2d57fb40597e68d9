//! The process's own log: JSON lines on standard error. `--log-level` sets it, nothing else.

use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Installs the log for the whole process. A second call changes nothing.
pub(crate) fn install(level: &str) -> Result<(), String> {
    let filter: Targets = level.parse().map_err(|error| format!("--log-level {level:?}: {error}"))?;
    let lines = fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_filter(filter);
    // An embedding program may have a log of its own already; it stays.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    Ok(())
}
