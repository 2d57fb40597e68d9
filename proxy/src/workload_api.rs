//! The SPIFFE Workload API as the source of this sidecar's identity: asks the provider behind a unix socket for X.509-SVIDs
//! and bundles, hands each answer on whole once it is verified, and refuses one that is not in order while the last good
//! one stays. What the provider takes back is out of force at once.

mod answer;

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::UnixTime;
use sidegate_codes::Code;
use sidegate_identity::{TrustBundles, renewal, tls::Credentials};
use sidegate_proto::workload::{
    X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};
use tonic::{
    Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::{
    config::{Config, Identity, Source, WorkloadApi},
    control::jitter,
    snapshot::{Own, Publisher},
    telemetry::Metrics,
};

use answer::{Answer, Refusal, Wanted};

/// Follows a provider.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    wanted: Wanted,
    most_bytes: usize,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    /// What is in force of its answers.
    in_force: Option<(Credentials, Arc<TrustBundles>)>,
}

/// Why there is no answer, or none that can be used.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("{}: {cause}", .socket.display())]
    Connect { socket: PathBuf, cause: tonic::transport::Error },
    #[error("{0}")]
    Status(#[from] Status),
    #[error("no answer within {} s", FIRST_ANSWER.as_secs())]
    Silent,
    #[error("the provider ended the stream")]
    Ended,
}

impl Client {
    /// `None`: the identity has another source.
    pub(crate) fn of(config: &Config, publisher: &Arc<Publisher>, metrics: &Arc<Metrics>) -> Option<Self> {
        let Source::Files(files) = &config.source else { return None };
        let Identity::WorkloadApi(WorkloadApi { socket, hint }) = &files.identity else { return None };
        Some(Self {
            socket: socket.clone(),
            wanted: Wanted {
                identity: config.workload.identity.clone(),
                hint: hint.clone(),
                key_use: config.key_use(),
            },
            most_bytes: config.limits.snapshot_bytes,
            publisher: Arc::clone(publisher),
            metrics: Arc::clone(metrics),
            in_force: None,
        })
    }

    /// For ever: a stream that ends is opened again, at once if it had brought something and else with backoff.
    async fn run(mut self) -> Infallible {
        let mut failures = 0;
        loop {
            let error = self.follow(&mut failures).await;
            failures += 1;
            let code = error.code();
            self.metrics.renewals.add("failed");
            tracing::warn!(%code, %error, failures, "no identity from the Workload API");
            if error.is_redaction() {
                self.withdraw();
            }
            // An answer that no repetition will change is asked for seldom, and not never: providers are upgraded.
            let wait = if error.is_final() { u32::MAX } else { failures };
            sleep(renewal::retry_after(wait, jitter())).await;
        }
    }

    /// Takes answers until there are no more.
    async fn follow(&mut self, failures: &mut u32) -> FollowError {
        let mut answers = match timeout(FIRST_ANSWER, self.open()).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return error,
            Err(_) => return FollowError::Silent,
        };
        // The standard wants the first answer without delay; later ones come when something changes.
        let Ok(mut next) = timeout(FIRST_ANSWER, answers.message()).await else {
            return FollowError::Silent;
        };
        loop {
            match next {
                Ok(Some(message)) => {
                    if self.take(message) {
                        *failures = 0;
                    }
                }
                Ok(None) => return FollowError::Ended,
                Err(status) => return status.into(),
            }
            next = answers.message().await;
        }
    }

    async fn open(&self) -> Result<Streaming<X509svidResponse>, FollowError> {
        let mut client =
            SpiffeWorkloadApiClient::new(self.connect().await?).max_decoding_message_size(self.most_bytes);
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert(HEADER, MetadataValue::from_static("true"));
        Ok(client.fetch_x509svid(request).await?.into_inner())
    }

    /// Without keep-alive pings: the kernel tells when the other end of a unix socket is gone, and a provider of gRPC for Go
    /// ends connections that ping more often than every five minutes.
    async fn connect(&self) -> Result<Channel, FollowError> {
        let socket = self.socket.clone();
        let connect = move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        Endpoint::from_static("http://workload-api.localhost")
            .connect_with_connector(service_fn(connect))
            .await
            .map_err(|cause| FollowError::Connect { socket: self.socket.clone(), cause })
    }

    /// Whether the answer is in force.
    fn take(&mut self, message: X509svidResponse) -> bool {
        match Answer::read(message, &self.wanted, UnixTime::now()) {
            Ok(Answer { trust, credentials }) => {
                self.put_in_force(credentials, Arc::new(trust));
                true
            }
            Err(refusal) => {
                let code = refusal.code();
                self.metrics.renewals.add("failed");
                tracing::error!(%code, error = %refusal, "an answer of the Workload API is refused");
                if matches!(refusal, Refusal::NotGranted { .. }) {
                    self.withdraw();
                }
                false
            }
        }
    }

    fn put_in_force(&mut self, credentials: Credentials, trust: Arc<TrustBundles>) {
        let own = match &self.in_force {
            Some((present, trusted)) if present.chain() == credentials.chain() => {
                if **trusted == *trust {
                    return;
                }
                Own::Kept
            }
            _ => {
                self.metrics.renewals.add("ok");
                tracing::info!(
                    identity = %credentials.svid().id(),
                    not_after = credentials.svid().not_after().as_secs(),
                    "certificate received"
                );
                Own::New(credentials.clone())
            }
        };
        self.publisher.local(Arc::clone(&trust), own, None);
        self.in_force = Some((credentials, trust));
    }

    /// Workload API §5.2.1: what is taken back is used no longer. Without a bundle nobody is trusted either, so what is
    /// open is cut.
    fn withdraw(&mut self) {
        if self.in_force.take().is_some() {
            tracing::error!(
                code = %Code::NoIdentityGranted,
                "the identity was taken back: none is in force, nothing is accepted or sent"
            );
            self.publisher.local(Arc::default(), Own::Withdrawn, None);
        }
    }
}

impl FollowError {
    fn code(&self) -> Code {
        if self.is_redaction() { Code::NoIdentityGranted } else { Code::WorkloadApiUnavailable }
    }

    /// The provider says that this workload has no identity.
    fn is_redaction(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == tonic::Code::PermissionDenied)
    }

    /// What the standard says not to ask again for (Workload Endpoint, appendix A).
    fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Status(status)
                if matches!(status.code(), tonic::Code::InvalidArgument | tonic::Code::Unimplemented)
        )
    }
}

/// Follows the provider, if there is one.
pub(crate) async fn follow(client: Option<Client>) -> Infallible {
    match client {
        Some(client) => client.run().await,
        None => std::future::pending().await,
    }
}

/// Keeps somebody who can make another program send requests from asking in its name (Workload Endpoint §3).
const HEADER: &str = "workload.spiffe.io";
const FIRST_ANSWER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
