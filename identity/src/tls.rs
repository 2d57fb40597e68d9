//! TLS between sidecars: TLS 1.3, both sides verified by [`crate::verify`], nothing resumed, nothing early.
//! Receives a key with its chain and the trust bundles, hands on rustls configurations, and refuses a peer with
//! the very error that verification found.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, Error, NoKeyLog, OtherError, ServerConfig,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use sidegate_codes::Code;
use thiserror::Error as ThisError;
use zeroize::{Zeroize, Zeroizing};

use self::verifier::{ClientVerifier, ServerVerifier};
use crate::{SpiffeId, SvidError, SvidLimits, TrustBundles, Usage, VerifiedSvid, verify};

mod verifier;

/// A workload's own key and certificate chain, found usable before they are used. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Verified>);

struct Verified {
    key: Arc<CertifiedKey>,
    /// PKCS#8; only of a key that is handed on.
    bytes: Option<Zeroizing<Vec<u8>>>,
    svid: VerifiedSvid,
}

/// Whether a private key can leave the process again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// Its bytes are overwritten as soon as it is in use.
    Sealed,
    /// Its bytes stay readable, for the workload whose key it is, and are overwritten with the last of the credentials.
    HandedOn,
}

/// Why a key and chain cannot be this workload's credentials.
#[derive(Clone, Debug, PartialEq, ThisError)]
pub enum CredentialsError {
    /// The chain would be refused by our own peers.
    #[error("the certificate does not pass verification: {0}")]
    Svid(#[from] SvidError),
    /// The private key is damaged or of an unknown kind.
    #[error("the private key cannot be used: {0}")]
    Key(Error),
    /// The private key is not the one that the leaf certifies.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The private key is to be handed on, and is not in the one form for that.
    #[error(
        "the private key is not PKCS#8 (`BEGIN PRIVATE KEY`), the only form in which the Workload API hands it on"
    )]
    NotPkcs8,
}

/// What a server asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No handshake without a client's SVID.
    Required,
    /// A client may come without a certificate; one that it presents must be valid all the same.
    Optional,
}

/// Which key exchanges a side takes part in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519MLKEM768 if the other side knows it, and else one that a quantum computer could break later from a
    /// recording.
    #[default]
    PostQuantumFirst,
    /// X25519MLKEM768 or no handshake.
    PostQuantumOnly,
}

/// Which servers a client will talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The server must prove one of these identities; an empty list refuses every server.
    OneOf(Arc<[SpiffeId]>),
}

/// The server's side: TLS 1.3 with a fresh, complete handshake for each connection.
///
/// ALPN is in the order of preference; a client that offers protocols, but none of these, is refused.
pub fn server_config(
    credentials: &Credentials,
    bundles: Arc<TrustBundles>,
    clients: ClientAuth,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    server_config_by(KeyExchange::default(), credentials, bundles, clients, alpn)
}

/// The same by a key exchange of the caller's choice.
pub fn server_config_by(
    key_exchange: KeyExchange,
    credentials: &Credentials,
    bundles: Arc<TrustBundles>,
    clients: ClientAuth,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let verifier = Arc::new(ClientVerifier::new(bundles, clients));
    let mut config = fixed(
        ServerConfig::builder_with_provider(provider_by(key_exchange)).with_protocol_versions(&[&TLS13]),
    )
    .with_client_cert_verifier(verifier)
    .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&credentials.0.key))));
    config.alpn_protocols = owned(alpn);
    // A resumed session does not present a certificate, so it would outlive the certificate it began with.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // Early data can be replayed, and half-RTT data is sent before the client has proved who it is.
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config.key_log = Arc::new(NoKeyLog);
    Arc::new(config)
}

/// The client's side: TLS 1.3 with a fresh, complete handshake for each connection, to an expected server only.
///
/// Without `credentials` the client is anonymous: good for a control plane that attests it by other means. The
/// `ServerName` given to rustls is not sent and not compared; the server is known by its SPIFFE ID.
pub fn client_config(
    credentials: Option<&Credentials>,
    bundles: Arc<TrustBundles>,
    expected: Expected,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    client_config_by(KeyExchange::default(), credentials, bundles, expected, alpn)
}

/// The same by a key exchange of the caller's choice.
pub fn client_config_by(
    key_exchange: KeyExchange,
    credentials: Option<&Credentials>,
    bundles: Arc<TrustBundles>,
    expected: Expected,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let verifier = Arc::new(ServerVerifier::new(bundles, expected));
    let builder = fixed(
        ClientConfig::builder_with_provider(provider_by(key_exchange)).with_protocol_versions(&[&TLS13]),
    )
    .dangerous()
    .with_custom_certificate_verifier(verifier);
    let mut config = match credentials {
        Some(own) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.0.key))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = owned(alpn);
    // As on the server's side: no resumption, no early data.
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // A server name in the clear tells the network who is called.
    config.enable_sni = false;
    config.key_log = Arc::new(NoKeyLog);
    Arc::new(config)
}

/// aws-lc-rs with the key exchanges and cipher suites of the mesh; X25519MLKEM768 is the client's first offer.
///
/// The lists are written out, so that no cargo feature of another crate changes them.
pub fn provider() -> Arc<CryptoProvider> {
    provider_by(KeyExchange::default())
}

fn provider_by(key_exchange: KeyExchange) -> Arc<CryptoProvider> {
    let kx_groups = match key_exchange {
        KeyExchange::PostQuantumFirst => {
            vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1]
        }
        KeyExchange::PostQuantumOnly => vec![kx_group::X25519MLKEM768],
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups,
        ..aws_lc_rs::default_provider()
    })
}

/// Why this side refused the peer's certificate, if that is what `error` is about.
///
/// `None` for every other failure, also when it was the peer that refused us.
pub fn peer_error(error: &Error) -> Option<&SvidError> {
    match error {
        Error::NoCertificatesPresented => Some(&SvidError::NoCertificate),
        Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
        _ => None,
    }
}

impl Credentials {
    /// Takes a key and its chain (leaf first) into use, if peers that trust `bundles` would accept them in both
    /// directions at `now`. The key's bytes are overwritten, whether it is used or refused.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        bundles: &TrustBundles,
        now: UnixTime,
    ) -> Result<Self, CredentialsError> {
        Self::for_use(KeyUse::Sealed, chain, key, bundles, now)
    }

    /// The same; what becomes of the key's bytes once it is in use is the caller's to say.
    pub fn for_use(
        key_use: KeyUse,
        chain: Vec<CertificateDer<'static>>,
        mut key: PrivateKeyDer<'static>,
        bundles: &TrustBundles,
        now: UnixTime,
    ) -> Result<Self, CredentialsError> {
        let signing_key = aws_lc_rs::sign::any_supported_type(&key);
        let bytes = match (key_use, &key) {
            (KeyUse::Sealed, _) => Ok(None),
            (KeyUse::HandedOn, PrivateKeyDer::Pkcs8(der)) => {
                Ok(Some(Zeroizing::new(der.secret_pkcs8_der().to_vec())))
            }
            (KeyUse::HandedOn, _) => Err(CredentialsError::NotPkcs8),
        };
        key.zeroize();
        let bytes = bytes?;
        let limits = SvidLimits::default();
        verify(&chain, Usage::Client, bundles, &limits, now)?;
        let svid = verify(&chain, Usage::Server, bundles, &limits, now)?;
        let key = CertifiedKey::new(chain, signing_key.map_err(CredentialsError::Key)?);
        key.keys_match().map_err(|_| CredentialsError::KeyMismatch)?;
        Ok(Self(Arc::new(Verified { key: Arc::new(key), bytes, svid })))
    }

    /// Our own identity and its terms.
    pub fn svid(&self) -> &VerifiedSvid {
        &self.0.svid
    }

    /// Our own chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.key.cert
    }

    /// The private key in PKCS#8. `None` unless it was taken to be handed on.
    pub fn pkcs8(&self) -> Option<&[u8]> {
        self.0.bytes.as_ref().map(|bytes| bytes.as_slice())
    }
}

impl fmt::Debug for Credentials {
    /// Names the identity; the key has no representation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("id", self.0.svid.id()).finish_non_exhaustive()
    }
}

impl CredentialsError {
    /// The code that people see. A certificate whose time is not now may be in order, and the clock wrong.
    pub fn code(&self) -> Code {
        match self {
            Self::Svid(SvidError::NotValidNow) => Code::CertificateNotValidNow,
            _ => Code::BadCredentials,
        }
    }
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

#[expect(
    clippy::expect_used,
    reason = "rustls checks constants: no peer, file or caller can change the outcome"
)]
fn fixed<B>(builder: Result<B, Error>) -> B {
    builder.expect("the provider has TLS 1.3 suites and a key exchange for them")
}
