//! This workload's certificate: a new key for each, requested at half of the lifetime of the last, verified as peers
//! will verify it, and only then put in force. A failure keeps the certificate there is and tries again.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use sidegate_codes::Code;
use sidegate_identity::{
    TrustBundles, renewal,
    tls::{Credentials, CredentialsError},
};
use sidegate_proto::v1::{self, identity_client::IdentityClient};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::Status;
use zeroize::Zeroizing;

use super::{Client, Renewal, channel::ConnectError, is_alive, jitter, resources};

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
enum IssueError {
    #[error("the control plane cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    /// It was reached, and did not say no: a matter of time.
    #[error("the control plane does not issue now: {0}")]
    NotNow(String),
    #[error("no certificate and no join token: `controlPlane.joinToken` is not configured")]
    NoToken,
    #[error("the join token cannot be read: {0}")]
    Token(std::io::Error),
    #[error("no key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("refused: {}", .0.message())]
    Refused(Status),
    #[error("the answer's trust bundles: {0}")]
    Bundles(String),
    #[error("the issued certificate: {0}")]
    Credentials(#[from] CredentialsError),
    #[error("the issued certificate is for {0}")]
    WrongIdentity(String),
}

/// Keeps the certificate fresh for ever; each new one goes to the publisher, the cache and `renewed`.
pub(super) async fn run(client: &Client, renewed: watch::Sender<Option<Credentials>>) -> Infallible {
    let mut failures = 0;
    let mut attests_anew = false;
    let resumed = renewed.borrow().clone();
    if let Some(own) = resumed {
        // Whatever is left of its life counts.
        rest(client, &own).await;
    }
    loop {
        let current = renewed.borrow().clone().filter(|own| !attests_anew && is_alive(own));
        match issue(client, current.as_ref()).await {
            Ok(credentials) => {
                (failures, attests_anew) = (0, false);
                client.metrics.renewals.add("ok");
                tracing::info!(
                    identity = %credentials.svid().id(),
                    not_after = credentials.svid().not_after().as_secs(),
                    "certificate issued"
                );
                renewed.send_replace(Some(credentials.clone()));
                rest(client, &credentials).await;
            }
            Err(error) => {
                failures += 1;
                let code = error.code();
                client.metrics.renewals.add("failed");
                tracing::warn!(%code, %error, failures, "no new certificate");
                if error.is_of_the_proof() {
                    // An identity that may not renew can still prove itself as it did at first.
                    attests_anew = current.is_some();
                }
                sleep(renewal::retry_after(failures, jitter())).await;
            }
        }
    }
}

/// Until this certificate is to be renewed.
async fn rest(client: &Client, own: &Credentials) {
    tokio::select! {
        () = pass(renewal::renew_after(left(own), jitter()), SystemTime::now) => {}
        () = client.reissue.notified() => {}
        () = told(client, own) => {}
    }
}

/// Until the control plane wants this certificate to be renewed, and the time that was drawn has passed. What it wants of
/// another certificate is done already.
async fn told(client: &Client, own: &Credentials) {
    let serial = hex(own.svid().serial());
    let mut renew = client.renew.subscribe();
    let is_meant = |renew: &Option<Renewal>| renew.as_ref().is_some_and(|renew| renew.serial == serial);
    let wanted = renew.wait_for(is_meant).await.map(|renew| renew.clone());
    let Ok(Some(Renewal { within, .. })) = wanted else {
        return std::future::pending().await;
    };
    tracing::info!(?within, "the control plane asks for an early renewal");
    sleep(within.mul_f64(f64::midpoint(jitter(), 1.0))).await;
}

/// Returns when `wait` has passed by the wall clock or by the machine's own, whichever says so first: the one goes on
/// while a machine is suspended, the other is not set back.
async fn pass(wait: Duration, wall_clock: impl Fn() -> SystemTime) {
    let (begun, begun_by_wall) = (Instant::now(), wall_clock());
    loop {
        let by_wall = wall_clock().duration_since(begun_by_wall).unwrap_or_default();
        let left = wait.saturating_sub(begun.elapsed().max(by_wall));
        if left.is_zero() {
            return;
        }
        sleep(left.min(LONGEST_SLEEP)).await;
    }
}

async fn issue(client: &Client, current: Option<&Credentials>) -> Result<Credentials, IssueError> {
    let join_token = match (current, &client.join_token) {
        (Some(_), _) => String::new(),
        (None, Some(path)) => {
            tokio::fs::read_to_string(path).await.map_err(IssueError::Token)?.trim().to_owned()
        }
        // Its user is the proof.
        (None, None) if client.connector.is_local() => String::new(),
        (None, None) => return Err(IssueError::NoToken),
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
    let channel = client.connector.connect(current).await?;
    let mut request = tonic::Request::new(v1::IssueRequest { csr, join_token });
    request.set_timeout(TIMEOUT);
    // The limit of the request is the server's to keep; this one holds whatever it does.
    let issued = timeout(TIMEOUT, IdentityClient::new(channel).issue(request))
        .await
        .map_err(|_| IssueError::NotNow("no answer in time".to_owned()))??
        .into_inner();
    take_into_use(client, issued, &key, current.is_none())
}

fn take_into_use(
    client: &Client,
    issued: v1::IssueResponse,
    key: &KeyPair,
    a_beginning: bool,
) -> Result<Credentials, IssueError> {
    let trust: TrustBundles = issued
        .trust_bundles
        .into_iter()
        .map(|bundle| resources::bundle(&bundle))
        .collect::<Result<_, _>>()
        .map_err(|refusal| IssueError::Bundles(refusal.message))?;
    let chain: Vec<CertificateDer<'static>> =
        issued.certificate_chain.into_iter().map(CertificateDer::from).collect();
    let pkcs8 = Zeroizing::new(key.serialize_der());
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    let credentials = Credentials::for_use(client.config.key_use(), chain, private, &trust, UnixTime::now())?;
    if credentials.svid().id() != &client.config.workload.identity {
        return Err(IssueError::WrongIdentity(credentials.svid().id().to_string()));
    }
    client.publisher.credentials(credentials.clone(), &trust, a_beginning);
    if let Some(cache) = &client.cache
        && let Err(error) = cache.save_credentials(&credentials, &pkcs8)
    {
        tracing::warn!(code = %Code::CacheUnusable, %error, "the certificate is not in the cache");
    }
    Ok(credentials)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn left(credentials: &Credentials) -> Duration {
    Duration::from_secs(credentials.svid().not_after().as_secs())
        .saturating_sub(Duration::from_secs(UnixTime::now().as_secs()))
}

impl IssueError {
    /// Whether another proof of who this is may help.
    fn is_of_the_proof(&self) -> bool {
        match self {
            Self::Refused(status) => {
                matches!(status.code(), tonic::Code::Unauthenticated | tonic::Code::PermissionDenied)
            }
            Self::Connect(error) => matches!(error, ConnectError::OtherRoot { .. }),
            Self::NoToken | Self::Token(_) => true,
            Self::NotNow(_)
            | Self::Key(_)
            | Self::Bundles(_)
            | Self::Credentials(_)
            | Self::WrongIdentity(_) => false,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Connect(_) | Self::NotNow(_) => Code::ControlPlaneUnreachable,
            Self::NoToken | Self::Token(_) => Code::NoCredentials,
            Self::Refused(_) => Code::IssuanceRefused,
            Self::Credentials(error) => error.code(),
            Self::Key(_) | Self::Bundles(_) | Self::WrongIdentity(_) => Code::BadCredentials,
        }
    }
}

/// What `identity.proto` calls a refusal is one; every other status is of the connection or of the moment.
impl From<Status> for IssueError {
    fn from(status: Status) -> Self {
        match status.code() {
            tonic::Code::Unauthenticated
            | tonic::Code::PermissionDenied
            | tonic::Code::InvalidArgument
            | tonic::Code::ResourceExhausted => Self::Refused(status),
            _ => Self::NotNow(status.message().to_owned()),
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// A machine that wakes up looks at the clock within this.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_soon_after_the_wall_clock_says_so() {
        let wall = Cell::new(SystemTime::UNIX_EPOCH);
        let begun = Instant::now();
        let suspended = async {
            sleep(Duration::from_secs(10)).await;
            wall.set(wall.get() + Duration::from_hours(5));
        };
        tokio::join!(pass(Duration::from_hours(3), || wall.get()), suspended);
        assert!(begun.elapsed() <= LONGEST_SLEEP, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_back_does_not_prolong_a_wait() {
        let begun = Instant::now();
        let wall = Cell::new(SystemTime::UNIX_EPOCH + Duration::from_hours(1_000));
        let set_back = async { wall.set(SystemTime::UNIX_EPOCH) };
        tokio::join!(pass(Duration::from_hours(3), || wall.get()), set_back);
        assert_eq!(begun.elapsed(), Duration::from_hours(3));
    }

    #[test]
    fn only_a_refused_proof_is_replaced_by_the_join_token() {
        for (status, expected) in [
            (tonic::Code::Unauthenticated, (true, Code::IssuanceRefused)),
            (tonic::Code::PermissionDenied, (true, Code::IssuanceRefused)),
            (tonic::Code::ResourceExhausted, (false, Code::IssuanceRefused)),
            (tonic::Code::Unavailable, (false, Code::ControlPlaneUnreachable)),
            (tonic::Code::Unknown, (false, Code::ControlPlaneUnreachable)),
        ] {
            let error = IssueError::from(Status::new(status, ""));
            assert_eq!((error.is_of_the_proof(), error.code()), expected, "{status:?}");
        }
    }
}
