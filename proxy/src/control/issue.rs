//! This workload's certificate: a new key for each, requested at half of the lifetime of the last, verified as peers
//! will verify it, and only then put in force. A failure keeps the certificate there is and tries again.

use std::{sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use sidegate_codes::Code;
use sidegate_identity::{
    TrustBundles, renewal,
    tls::{Credentials, CredentialsError},
};
use sidegate_proto::v1::{self, identity_client::IdentityClient};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{Client, channel::ConnectError, jitter, resources};

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
enum IssueError {
    #[error("the control plane cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("no certificate and no join token: `controlPlane.joinToken` is not configured")]
    NoToken,
    #[error("the join token cannot be read: {0}")]
    Token(std::io::Error),
    #[error("no key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("refused: {}", .0.message())]
    Refused(tonic::Status),
    #[error("the answer's trust bundles: {0}")]
    Bundles(String),
    #[error("the issued certificate: {0}")]
    Credentials(#[from] CredentialsError),
    #[error("the issued certificate is for {0}")]
    WrongIdentity(String),
}

/// Keeps the certificate fresh for ever; each new one goes to the publisher, the cache and `renewed`.
pub(super) async fn run(client: &Client, renewed: watch::Sender<Option<Credentials>>) {
    let mut failures = 0;
    let mut attests_by_token = false;
    let resumed = renewed.borrow().as_ref().map(left);
    if let Some(life) = resumed {
        // Whatever is left of its life counts.
        tokio::time::sleep(renewal::renew_after(life, jitter())).await;
    }
    loop {
        let current = renewed
            .borrow()
            .clone()
            .filter(|own| !attests_by_token && !left(own).is_zero());
        match issue(client, current.as_ref()).await {
            Ok(credentials) => {
                (failures, attests_by_token) = (0, false);
                client.metrics.renewals.add("ok");
                tracing::info!(
                    identity = %credentials.svid().id(),
                    not_after = credentials.svid().not_after().as_secs(),
                    "certificate issued"
                );
                let life = left(&credentials);
                renewed.send_replace(Some(credentials));
                tokio::time::sleep(renewal::renew_after(life, jitter())).await;
            }
            Err(error) => {
                failures += 1;
                let code = error.code();
                client.metrics.renewals.add("failed");
                tracing::warn!(%code, %error, failures, "no new certificate");
                // An identity that may not renew can still prove itself as it did at first.
                attests_by_token = matches!(error, IssueError::Refused(_)) && current.is_some();
                tokio::time::sleep(renewal::retry_after(failures, jitter())).await;
            }
        }
    }
}

async fn issue(client: &Client, current: Option<&Credentials>) -> Result<Credentials, IssueError> {
    let join_token = match (current, &client.join_token) {
        (Some(_), _) => String::new(),
        (None, Some(path)) => tokio::fs::read_to_string(path)
            .await
            .map_err(IssueError::Token)?
            .trim()
            .to_owned(),
        (None, None) => return Err(IssueError::NoToken),
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr = CertificateParams::default()
        .serialize_request(&key)?
        .der()
        .to_vec();
    let channel = client.connector.connect(current).await?;
    let mut request = tonic::Request::new(v1::IssueRequest { csr, join_token });
    request.set_timeout(TIMEOUT);
    let issued = IdentityClient::new(channel)
        .issue(request)
        .await
        .map_err(IssueError::Refused)?
        .into_inner();
    take_into_use(client, issued, &key)
}

fn take_into_use(
    client: &Client,
    issued: v1::IssueResponse,
    key: &KeyPair,
) -> Result<Credentials, IssueError> {
    let trust: TrustBundles = issued
        .trust_bundles
        .into_iter()
        .map(|bundle| resources::bundle(&bundle))
        .collect::<Result<_, _>>()
        .map_err(|refusal| IssueError::Bundles(refusal.message))?;
    let chain: Vec<CertificateDer<'static>> = issued
        .certificate_chain
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let pkcs8 = Zeroizing::new(key.serialize_der());
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    let credentials = Credentials::new(chain, private, &trust, UnixTime::now())?;
    if credentials.svid().id() != &client.config.workload.identity {
        return Err(IssueError::WrongIdentity(credentials.svid().id().to_string()));
    }
    client.publisher.credentials(credentials.clone(), Arc::new(trust));
    if let Some(cache) = &client.cache
        && let Err(error) = cache.save_credentials(&credentials, &pkcs8)
    {
        tracing::warn!(code = %Code::CacheUnusable, %error, "the certificate is not in the cache");
    }
    Ok(credentials)
}

fn left(credentials: &Credentials) -> Duration {
    Duration::from_secs(credentials.svid().not_after().as_secs())
        .saturating_sub(Duration::from_secs(UnixTime::now().as_secs()))
}

impl IssueError {
    fn code(&self) -> Code {
        match self {
            Self::Connect(_) => Code::ControlPlaneUnreachable,
            Self::NoToken | Self::Token(_) => Code::NoCredentials,
            Self::Refused(_) => Code::IssuanceRefused,
            Self::Key(_) | Self::Bundles(_) | Self::Credentials(_) | Self::WrongIdentity(_) => {
                Code::BadCredentials
            }
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
