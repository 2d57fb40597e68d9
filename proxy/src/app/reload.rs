//! Follows the configuration file and, without a control plane, the files that it names: what is good is put in force,
//! what is refused is said once and shown as stale.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use rustls::pki_types::UnixTime;
use sidegate_codes::Code;
use sidegate_identity::renewal::{self, Standing};

use crate::{
    config::{Config, Source},
    files::{self, InForce, Renewal},
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
    /// What was said last of the own certificate's age.
    pub(super) told: Option<(Box<[u8]>, Standing)>,
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
            self.tell_of_a_late_renewal();
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
        match applied.renewal {
            None => {}
            Some(Renewal::InForce) => self.metrics.renewals.add("ok"),
            Some(Renewal::Refused) => self.metrics.renewals.add("failed"),
        }
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

    /// Wherever the certificate comes from: whoever should have brought its successor may not know that it did not.
    fn tell_of_a_late_renewal(&mut self) {
        let snapshot = self.publisher.reader().snapshot();
        let Some(secured) = &snapshot.secured else { return };
        let own = secured.credentials.svid();
        let standing = renewal::standing(own.not_before(), own.not_after(), UnixTime::now());
        let now_told = Some((own.serial().into(), standing));
        if self.told == now_told {
            return;
        }
        self.told = now_told;
        let not_after = own.not_after().as_secs();
        match standing {
            Standing::InTime => {}
            Standing::Late => tracing::warn!(
                code = %Code::RenewalFailed,
                not_after,
                "the own certificate is in the last quarter of its life and has no successor"
            ),
            Standing::Ended => tracing::error!(
                code = %Code::NoCredentials,
                not_after,
                "the own certificate has ended: nothing is accepted or sent until there is another"
            ),
        }
    }
}

const LAST_GOOD: &str = "refused; the last good state stays";
const WITHDRAWN: &str =
    "the trust bundle does not vouch for the own certificate: none is in force, nothing is accepted or sent";
