//! Follows the configuration file and, without a control plane, the files that it names: what is good is put in force,
//! what is refused is said once and shown as stale.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use sidegate_codes::Code;

use crate::{
    config::{Config, Source},
    files::{self, InForce},
    route::warn_of_faults,
    snapshot::Publisher,
    telemetry::Metrics,
    watch::Changes,
};

/// Follows the configuration file and, without a control plane, the files that it names.
pub(super) struct Reload {
    pub(super) config: Config,
    /// `None`: the configuration is no file, so it stays as it is.
    pub(super) path: Option<PathBuf>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) in_force: InForce,
}

/// Why the newest files are not in force.
struct Refused {
    code: Code,
    message: String,
    effect: &'static str,
}

impl Reload {
    /// For as long as it is polled.
    pub(super) async fn run(mut self) -> Infallible {
        let mut paths = Vec::from_iter(self.path.clone());
        if let Source::Files(files) = &self.config.source {
            paths.extend(files::paths(files));
        }
        let mut changes = Changes::of(paths);
        let mut last_error = None;
        loop {
            let result = self.apply();
            self.metrics.files_refused.store(result.is_err(), Ordering::Relaxed);
            match result {
                Ok(()) if last_error.take().is_some() => {
                    tracing::info!("the newest files are in force again");
                }
                Ok(()) => {}
                // Said once, not at each look.
                Err(refused) if last_error.as_ref() == Some(&refused.message) => {}
                Err(refused) => {
                    tracing::error!(code = %refused.code, error = %refused.message, "{}", refused.effect);
                    self.metrics.policies_refused.add(refused.code);
                    last_error = Some(refused.message);
                }
            }
            changes.next().await;
        }
    }

    /// A configuration that is refused holds up nothing but itself: a root that is taken out goes all the same.
    fn apply(&mut self) -> Result<(), Refused> {
        let config = self.apply_config();
        let files = self.apply_files();
        files.and(config)
    }

    fn apply_config(&mut self) -> Result<(), Refused> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let next = Config::load(path).map_err(|error| Refused {
            code: error.code(),
            message: error.to_string(),
            effect: LAST_GOOD,
        })?;
        if next == self.config {
            return Ok(());
        }
        if let Some(field) = self.config.needs_restart(&next) {
            let message = format!("{}: {field} has changed, which needs a restart", path.display());
            return Err(Refused { code: Code::ConfigStale, message, effect: LAST_GOOD });
        }
        self.publisher.config(next.clone());
        tracing::info!("configuration applied");
        warn_of_faults(&next);
        self.config = next;
        self.in_force.reread_policies();
        Ok(())
    }

    fn apply_files(&mut self) -> Result<(), Refused> {
        let Source::Files(files) = &self.config.source else {
            return Ok(());
        };
        let applied = self.in_force.apply(&self.config, files, &self.publisher);
        if let Some(error) = applied.refused {
            return Err(Refused {
                code: error.code(),
                message: error.to_string(),
                effect: if applied.is_withdrawn { WITHDRAWN } else { LAST_GOOD },
            });
        }
        if applied.has_changed {
            tracing::info!("identity and policies applied");
        }
        Ok(())
    }
}

const LAST_GOOD: &str = "refused; the last good state stays";
const WITHDRAWN: &str =
    "the trust bundle does not vouch for the own certificate: none is in force, nothing is accepted or sent";
