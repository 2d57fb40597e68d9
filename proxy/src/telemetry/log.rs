//! The process's own log: JSON lines on standard error. `--log-level` sets it, nothing else.

use tracing_subscriber::{EnvFilter, fmt};

/// Installs the log for the whole process. A second call changes nothing.
pub(crate) fn install(level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|error| format!("--log-level {level:?}: {error}"))?;
    // An embedding program may have a log of its own already; it stays.
    let _ = fmt()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .try_init();
    Ok(())
}
