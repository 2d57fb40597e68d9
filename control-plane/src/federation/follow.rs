//! Asks each bundle endpoint of `mesh.yaml` again and again, one task for each: what comes and can take the place of what is
//! held goes into a file of the state folder, from where it is read like any foreign bundle. What does not come leaves the
//! last good bundle in force, and says so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sidegate_codes::Code;
use sidegate_identity::{TrustBundle, TrustDomain, renewal};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{fetch::fetch, held::Held};
use crate::{
    clock,
    config::{BundleSource, Endpoint},
    mesh::Mesh,
    metrics::Metrics,
};

/// Follows the endpoints of the mesh until `stop`.
pub(crate) async fn run(
    mut mesh: watch::Receiver<Arc<Mesh>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<TrustDomain, (Endpoint, AbortHandle)> = BTreeMap::new();
    loop {
        let config = mesh.borrow_and_update().config.clone();
        let wanted: BTreeMap<_, _> = config
            .federation
            .iter()
            .filter_map(|federated| match &federated.source {
                BundleSource::Endpoint(endpoint) => Some((federated.trust_domain.clone(), endpoint.clone())),
                BundleSource::File(_) => None,
            })
            .collect();
        followed.retain(|trust_domain, (endpoint, task)| {
            let stays = wanted.get(trust_domain) == Some(endpoint);
            if !stays {
                task.abort();
                metrics.federation_ended(trust_domain.as_str());
            }
            stays
        });
        for (trust_domain, endpoint) in wanted {
            followed.entry(trust_domain.clone()).or_insert_with(|| {
                let following = follow(trust_domain, endpoint.clone(), metrics.clone());
                (endpoint, tasks.spawn(following))
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = mesh.changed() => if changed.is_err() { break },
        }
        while tasks.try_join_next().is_some() {}
    }
    tasks.shutdown().await;
}

async fn follow(trust_domain: TrustDomain, endpoint: Endpoint, metrics: Arc<Metrics>) {
    let mut failures = 0;
    loop {
        let wait = match refresh(&trust_domain, &endpoint).await {
            Ok(hint) => {
                failures = 0;
                metrics.federation_refreshed(trust_domain.as_str(), clock::now_ms() / 1000);
                hint.clamp(SHORTEST, LONGEST).min(endpoint.refresh)
            }
            Err(reason) => {
                failures += 1;
                metrics.federation_failed();
                let code = Code::ForeignBundleStale;
                tracing::warn!(%code, %trust_domain, url = %endpoint.url, reason, failures, "no newer bundle");
                renewal::retry_after(failures, jitter()).min(endpoint.refresh)
            }
        };
        sleep(wait).await;
    }
}

/// How soon to look again; or why there is nothing new, which is kept beside what is in force.
async fn refresh(trust_domain: &TrustDomain, endpoint: &Endpoint) -> Result<Duration, String> {
    let (held, first) = Held::load(endpoint)?;
    let fetched = async {
        let in_hand = held.document.as_ref().or(first.as_ref());
        let in_hand = in_hand.map(|text| super::parse(trust_domain, text)).transpose()?;
        let text = fetch(endpoint, in_hand.filter(is_of_some_use)).await?;
        held.take(trust_domain, text)
    };
    let (next, result) = match fetched.await {
        Ok((next, document)) => (next, Ok(document.refresh_hint())),
        Err(reason) => (held.without_news(&reason), Err(reason)),
    };
    if next != held {
        let path = endpoint.kept.clone();
        let saved = tokio::task::spawn_blocking(move || next.save(&path)).await;
        let saved = saved.map_err(|error| error.to_string())?;
        saved.map_err(|error| format!("{}: {error}", endpoint.kept.display()))?;
    }
    result
}

/// A bundle that vouches for nobody cannot verify the server either.
fn is_of_some_use(bundle: &TrustBundle) -> bool {
    !bundle.authorities().is_empty()
}

/// From -1 to 1; 0 if there is no randomness, which only makes attempts punctual.
fn jitter() -> f64 {
    let mut byte = [0];
    getrandom::fill(&mut byte).map_or(0.0, |()| f64::from(byte[0]) / 127.5 - 1.0)
}

/// Whatever a partner hints at: it neither makes this side hammer nor sleep.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(1);
