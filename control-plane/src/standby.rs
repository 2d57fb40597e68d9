//! Waits until the registry that several control planes share is this one's, and opens the authority on it. Meanwhile nothing
//! listens for sidecars, so that they find the control plane whose turn it is; the API says that this one waits, and for whom.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, time::sleep};

use crate::{
    api,
    app::StartError,
    ca::Authority,
    config::{Config, Postgresql},
    registry::{Claim, Claimed, Place},
    state::{StateError, StateFolder},
};

/// Returns when it is this control plane's turn; dropping it gives up waiting. A database that does not answer is asked again; a
/// state folder or a registry that must not be used is an error.
pub(crate) async fn until_its_turn(config: &Config, database: &Postgresql) -> Result<Authority, StartError> {
    let claim = Arc::new(Claim::new(database.clone(), config.grpc)?);
    let config = Arc::new(config.clone());
    let (why, waits_for) = watch::channel(String::new());
    if let Some(authority) = attempt(&config, &claim, &why).await? {
        return Ok(authority);
    }
    let listener = TcpListener::bind(config.api)
        .await
        .map_err(|source| StartError::Listen { address: config.api, source })?;
    let waiting = async {
        loop {
            sleep(claim.pause()).await;
            if let Some(authority) = attempt(&config, &claim, &why).await? {
                return Ok(authority);
            }
        }
    };
    tokio::select! {
        authority = waiting => authority,
        () = api::standby(listener, waits_for) => Err(StartError::Listen {
            address: config.api,
            source: std::io::ErrorKind::BrokenPipe.into(),
        }),
    }
}

/// `None`: not yet. `told` is what the log and the API say already.
async fn attempt(
    config: &Arc<Config>,
    claim: &Arc<Claim>,
    told: &watch::Sender<String>,
) -> Result<Option<Authority>, StartError> {
    let (with, by) = (config.clone(), claim.clone());
    let taken = tokio::task::spawn_blocking(move || take(&with, &by)).await;
    let taken = taken.map_err(|error| StartError::Credentials { reason: error.to_string() })?;
    let news = match taken {
        Ok(Taken::Ours(authority)) => return Ok(Some(*authority)),
        Ok(Taken::Others(holder)) => holder,
        Err(error @ StateError::RegistryUnreachable { .. }) => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    if *told.borrow() != news {
        tracing::warn!(
            why = news,
            retry_ms = millis(claim.pause()),
            "standing by: the registry is not ours yet"
        );
        told.send_replace(news);
    }
    Ok(None)
}

enum Taken {
    Ours(Box<Authority>),
    Others(String),
}

fn take(config: &Config, claim: &Claim) -> Result<Taken, StateError> {
    // The lease takes the place of the folder's lock, which holds on one host only.
    let folder = StateFolder::open_beside(&config.state)?;
    match claim.take(&folder)? {
        Claimed::By(holder) => Ok(Taken::Others(format!("{holder} has it"))),
        Claimed::Now(database) => {
            let authority = Authority::open(
                folder,
                &config.trust_domain,
                config.root_life,
                (Place::Database(database), config.retention),
                config.trust_bundle.clone(),
            )?;
            Ok(Taken::Ours(Box::new(authority)))
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
