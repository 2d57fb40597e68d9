//! Real TLS handshakes, in memory: what our two sides accept of each other and of strangers.

use std::sync::Arc;

use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error,
    HandshakeKind, NamedGroup, PeerIncompatible, ProtocolVersion, ServerConfig, ServerConnection,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sidegate_codes::Code;
use sidegate_identity::{
    SvidError, SvidLimits, TrustBundles, Usage,
    tls::{
        ClientAuth, Credentials, CredentialsError, Expected, KeyExchange, client_config, client_config_by,
        peer_error, provider, server_config, server_config_by,
    },
    verify,
};

use crate::authority::{Authority, Issued, id, moment, now};

const ORDERS: &str = "spiffe://shop.test/ns/shop/sa/orders";
const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

/// Both ends of a handshake that has come to its end, one way or the other.
struct Ended {
    client: Connection,
    client_error: Option<Error>,
    server: Connection,
    server_error: Option<Error>,
}

impl Ended {
    fn succeeded(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }

    /// Why the server refused its client.
    fn server_refusal(&self) -> &SvidError {
        assert!(
            matches!(self.client_error, Some(Error::AlertReceived(_))),
            "the client is told, but not why"
        );
        peer_error(self.server_error.as_ref().expect("the server refused")).expect("for its certificate")
    }

    /// Why the client refused its server.
    fn client_refusal(&self) -> &SvidError {
        assert!(
            !self.succeeded() && self.server.is_handshaking(),
            "the server never gets to application bytes"
        );
        peer_error(self.client_error.as_ref().expect("the client refused")).expect("for its certificate")
    }
}

fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Ended {
    let name = ServerName::try_from("any.name").unwrap();
    let mut ended = Ended {
        client: ClientConnection::new(Arc::clone(client), name).unwrap().into(),
        client_error: None,
        server: ServerConnection::new(Arc::clone(server)).unwrap().into(),
        server_error: None,
    };
    loop {
        let sent = carry(&mut ended.client, &mut ended.server, &mut ended.server_error);
        let answered = carry(&mut ended.server, &mut ended.client, &mut ended.client_error);
        if !sent && !answered {
            return ended;
        }
    }
}

/// Moves what `from` has to say to `to`; whether there was anything.
fn carry(from: &mut Connection, to: &mut Connection, error: &mut Option<Error>) -> bool {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut unread = bytes.as_slice();
    while !unread.is_empty() && error.is_none() {
        to.read_tls(&mut unread).unwrap();
        *error = to.process_new_packets().err();
    }
    !bytes.is_empty()
}

fn credentials(issued: &Issued, root: &Authority) -> Credentials {
    Credentials::new(issued.chain.clone(), issued.key(), &root.bundles(), now()).unwrap()
}

fn one_of(ids: &[&str]) -> Expected {
    Expected::OneOf(ids.iter().map(|text| id(text)).collect())
}

/// A server that is `payments`, and trusts `bundles`.
fn payments(root: &Authority, bundles: TrustBundles) -> Arc<ServerConfig> {
    server_config(&credentials(&root.issue(PAYMENTS), root), Arc::new(bundles), ClientAuth::Required, &[])
}

/// A client with an SVID of its own that calls `payments`.
fn caller(issued: &Issued, root: &Authority, bundles: TrustBundles) -> Arc<ClientConfig> {
    client_config(Some(&credentials(issued, root)), Arc::new(bundles), one_of(&[PAYMENTS]), &[])
}

/// A stock rustls client: it presents any chain, and accepts ours as any other client of ours does.
fn forger(chain: &Issued, trusted: &Authority) -> Arc<ClientConfig> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&chain.key()).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain.chain.clone(), key);
    let ours = client_config(None, Arc::new(trusted.bundles()), one_of(&[PAYMENTS]), &[]);
    let mut config = ClientConfig::clone(&ours);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    Arc::new(config)
}

/// Our server's configuration with any chain in it, as a server of somebody else would have.
fn impostor(chain: &Issued, trusted: &Authority) -> Arc<ServerConfig> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&chain.key()).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain.chain.clone(), key);
    let mut config = ServerConfig::clone(&payments(trusted, trusted.bundles()));
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    Arc::new(config)
}

#[test]
fn two_workloads_of_one_trust_domain_know_each_other_after_the_handshake() {
    let root = Authority::root("shop.test");
    let ended =
        handshake(&caller(&root.issue(ORDERS), &root, root.bundles()), &payments(&root, root.bundles()));
    assert!(ended.succeeded(), "{:?} {:?}", ended.client_error, ended.server_error);
    let chain = ended.server.peer_certificates().unwrap();
    let peer = verify(chain, Usage::Client, &root.bundles(), &SvidLimits::default(), now()).unwrap();
    assert_eq!(peer.id(), &id(ORDERS));
}

#[test]
fn a_handshake_is_tls_1_3_with_a_post_quantum_key_exchange() {
    let root = Authority::root("shop.test");
    let ended =
        handshake(&caller(&root.issue(ORDERS), &root, root.bundles()), &payments(&root, root.bundles()));
    for side in [&ended.client, &ended.server] {
        assert_eq!(side.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(side.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(side.negotiated_cipher_suite().unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}

/// The first offer is the one that costs no further round trip.
#[test]
fn a_client_offers_the_post_quantum_key_exchange_first() {
    let groups = |key_exchange| {
        let client = calling(key_exchange, &Authority::root("shop.test"));
        client.crypto_provider().kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>()
    };
    let first = groups(KeyExchange::PostQuantumFirst);
    assert_eq!(first[0], NamedGroup::X25519MLKEM768);
    assert_eq!(first[1..], [NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1]);
    assert_eq!(groups(KeyExchange::PostQuantumOnly), [NamedGroup::X25519MLKEM768]);
    let hello = hello_of(&Arc::new(calling(KeyExchange::PostQuantumFirst, &Authority::root("shop.test"))));
    // key_share: one entry for the hybrid of 1216 bytes, named before any other.
    let share = [0x11, 0xec, 0x04, 0xc0];
    assert!(hello.windows(4).any(|window| window == share), "its share is in the first flight");
}

#[test]
fn a_side_that_requires_post_quantum_refuses_every_other_key_exchange() {
    use KeyExchange::{PostQuantumFirst, PostQuantumOnly};
    let root = Authority::root("shop.test");
    // Somebody who knows everything but the hybrid.
    let mut classical = CryptoProvider::clone(&provider());
    classical.kx_groups.retain(|group| group.name() != NamedGroup::X25519MLKEM768);
    let classical = Arc::new(classical);
    for strict in [PostQuantumOnly, PostQuantumFirst] {
        let is_refused = strict == PostQuantumOnly;
        let (own, trust) = (credentials(&root.issue(PAYMENTS), &root), Arc::new(root.bundles()));
        let server = server_config_by(strict, &own, Arc::clone(&trust), ClientAuth::Required, &[]);
        let client = calling(strict, &root);

        let old_client = rebuilt_client(Arc::clone(&classical), &root);
        let ended = handshake(&old_client, &server);
        assert_eq!(ended.succeeded(), !is_refused);
        if is_refused {
            let why = PeerIncompatible::NoKxGroupsInCommon;
            assert_eq!(ended.server_error, Some(Error::PeerIncompatible(why)));
        }
        let old_server = rebuilt_server(Arc::clone(&classical), &root);
        assert_eq!(handshake(&Arc::new(client), &old_server).succeeded(), !is_refused);

        let ended = handshake(&Arc::new(calling(strict, &root)), &server);
        assert!(ended.succeeded(), "two of one mind");
        let group = ended.server.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
    }
}

/// A client of somebody else with an SVID in order, and `provider`.
fn rebuilt_client(provider: Arc<CryptoProvider>, root: &Authority) -> Arc<ClientConfig> {
    let issued = root.issue(ORDERS);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_client_auth_cert(issued.chain.clone(), issued.key())
        .unwrap();
    Arc::new(config)
}

/// A server of somebody else.
fn rebuilt_server(provider: Arc<CryptoProvider>, root: &Authority) -> Arc<ServerConfig> {
    let issued = root.issue(PAYMENTS);
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.chain.clone(), issued.key())
        .unwrap();
    Arc::new(config)
}

/// Believes every server.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn calling(key_exchange: KeyExchange, root: &Authority) -> ClientConfig {
    let own = credentials(&root.issue(ORDERS), root);
    let trust = Arc::new(root.bundles());
    ClientConfig::clone(&client_config_by(key_exchange, Some(&own), trust, one_of(&[PAYMENTS]), &[]))
}

fn hello_of(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("payments.shop.internal").unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    hello
}

#[test]
fn workloads_of_two_federated_trust_domains_know_each_other() {
    let (shop, bank) = (Authority::root("shop.test"), Authority::root("bank.test"));
    let both: TrustBundles = [shop.bundle(), bank.bundle()].into_iter().collect();
    let client = caller(&bank.issue("spiffe://bank.test/teller"), &bank, both.clone());
    assert!(handshake(&client, &payments(&shop, both)).succeeded());
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let root = Authority::root("shop.test");
    let anonymous = client_config(None, Arc::new(root.bundles()), one_of(&[PAYMENTS]), &[]);
    let ended = handshake(&anonymous, &payments(&root, root.bundles()));
    assert_eq!(ended.server_refusal(), &SvidError::NoCertificate);
    assert_eq!(ended.client_error, Some(Error::AlertReceived(AlertDescription::CertificateRequired)));
}

#[test]
fn where_certificates_are_optional_none_is_accepted_but_a_bad_one_is_not() {
    let (root, foreign) = (Authority::root("shop.test"), Authority::root("shop.test"));
    let own = credentials(&root.issue(PAYMENTS), &root);
    let server = server_config(&own, Arc::new(root.bundles()), ClientAuth::Optional, &[]);
    let anonymous = client_config(None, Arc::new(root.bundles()), one_of(&[PAYMENTS]), &[]);
    let ended = handshake(&anonymous, &server);
    assert!(ended.succeeded() && ended.server.peer_certificates().is_none());
    assert!(handshake(&caller(&root.issue(ORDERS), &root, root.bundles()), &server).succeeded());
    let ended = handshake(&forger(&foreign.issue(ORDERS), &root), &server);
    assert!(matches!(ended.server_refusal(), SvidError::Untrusted { .. }));
}

#[test]
fn the_same_identity_under_a_foreign_authority_is_refused() {
    let (root, foreign) = (Authority::root("shop.test"), Authority::root("shop.test"));
    let ended = handshake(&forger(&foreign.issue(ORDERS), &root), &payments(&root, root.bundles()));
    assert!(matches!(ended.server_refusal(), SvidError::Untrusted { .. }));
    assert_eq!(ended.server_refusal().code(), Code::UntrustedCertificate);
}

#[test]
fn an_identity_of_a_trust_domain_that_is_not_trusted_is_refused() {
    let (root, stranger) = (Authority::root("shop.test"), Authority::root("evil.test"));
    let ended =
        handshake(&forger(&stranger.issue("spiffe://evil.test/a"), &root), &payments(&root, root.bundles()));
    assert!(matches!(ended.server_refusal(), SvidError::UnknownTrustDomain(_)));
}

#[test]
fn the_root_of_another_trusted_domain_cannot_vouch_for_ours_in_either_direction() {
    let (shop, bank) = (Authority::root("shop.test"), Authority::root("bank.test"));
    let both: TrustBundles = [shop.bundle(), bank.bundle()].into_iter().collect();
    let ended = handshake(&forger(&bank.issue(ORDERS), &shop), &payments(&shop, both.clone()));
    assert!(matches!(ended.server_refusal(), SvidError::Untrusted { .. }));
    let ended = handshake(&caller(&shop.issue(ORDERS), &shop, both), &impostor(&bank.issue(PAYMENTS), &shop));
    assert!(matches!(ended.client_refusal(), SvidError::Untrusted { .. }));
}

#[test]
fn a_server_of_another_identity_is_refused_by_its_client() {
    let root = Authority::root("shop.test");
    let client = caller(&root.issue(ORDERS), &root, root.bundles());
    let ended = handshake(&client, &impostor(&root.issue("spiffe://shop.test/ns/shop/sa/intruder"), &root));
    let wrong = id("spiffe://shop.test/ns/shop/sa/intruder");
    assert_eq!(ended.client_refusal(), &SvidError::UnexpectedServerIdentity(wrong));
    assert_eq!(ended.client_refusal().code(), Code::UnexpectedServerIdentity);
}

#[test]
fn a_client_that_expects_nobody_refuses_every_server() {
    let root = Authority::root("shop.test");
    let own = credentials(&root.issue(ORDERS), &root);
    let client = client_config(Some(&own), Arc::new(root.bundles()), one_of(&[]), &[]);
    let ended = handshake(&client, &payments(&root, root.bundles()));
    assert_eq!(ended.client_refusal(), &SvidError::UnexpectedServerIdentity(id(PAYMENTS)));
}

#[test]
fn expired_certificates_are_refused_in_both_directions() {
    let root = Authority::root("shop.test");
    let expired = |who| root.issue_with(who, |leaf| leaf.not_after = moment(-1));
    let ended = handshake(&forger(&expired(ORDERS), &root), &payments(&root, root.bundles()));
    assert_eq!(ended.server_refusal(), &SvidError::NotValidNow);
    let client = caller(&root.issue(ORDERS), &root, root.bundles());
    let ended = handshake(&client, &impostor(&expired(PAYMENTS), &root));
    assert_eq!(ended.client_refusal(), &SvidError::NotValidNow);
}

/// A certificate is public: without its key it proves nothing.
#[test]
fn a_stolen_certificate_without_its_key_is_refused() {
    let root = Authority::root("shop.test");
    let (victim, thief) = (root.issue(ORDERS), root.issue("spiffe://shop.test/ns/shop/sa/thief"));
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&thief.key()).unwrap();
    let mut config = ClientConfig::clone(&forger(&victim, &root));
    let stolen = rustls::sign::CertifiedKey::new(victim.chain, key);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    let ended = handshake(&Arc::new(config), &payments(&root, root.bundles()));
    assert!(matches!(ended.server_error, Some(Error::InvalidCertificate(_))), "{:?}", ended.server_error);
}

/// A session that resumed would not present its certificate again, and so outlive it.
#[test]
fn a_second_connection_with_the_same_configurations_is_a_full_handshake() {
    let root = Authority::root("shop.test");
    let client = caller(&root.issue(ORDERS), &root, root.bundles());
    let server = payments(&root, root.bundles());
    for _ in 0..3 {
        let ended = handshake(&client, &server);
        assert!(ended.succeeded());
        assert_eq!(ended.client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(ended.server.handshake_kind(), Some(HandshakeKind::Full));
        let Connection::Client(client) = &ended.client else { unreachable!("it is the client") };
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

/// A client that wants to resume (rustls' default) gets no ticket from our server to do it with.
#[test]
fn a_client_that_would_resume_is_given_no_ticket() {
    let root = Authority::root("shop.test");
    let mut config = ClientConfig::clone(&caller(&root.issue(ORDERS), &root, root.bundles()));
    config.resumption = rustls::client::Resumption::default();
    let (client, server) = (Arc::new(config), payments(&root, root.bundles()));
    for _ in 0..2 {
        assert_eq!(handshake(&client, &server).server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

/// Early data can be replayed: a client that would send some has no session to send it in, and ours never asks.
#[test]
fn no_byte_is_sent_or_taken_before_the_handshake_is_over() {
    let root = Authority::root("shop.test");
    let server = payments(&root, root.bundles());
    assert_eq!((server.max_early_data_size, server.send_half_rtt_data), (0, false));
    assert_eq!((server.send_tls13_tickets, server.session_storage.can_cache()), (0, false));
    let ours = caller(&root.issue(ORDERS), &root, root.bundles());
    assert!(!ours.enable_early_data);
    let mut eager = ClientConfig::clone(&ours);
    eager.enable_early_data = true;
    eager.resumption = rustls::client::Resumption::default();
    let eager = Arc::new(eager);
    assert!(handshake(&eager, &server).succeeded(), "so that it has whatever it could keep");
    let name = ServerName::try_from("unused.test").unwrap();
    let mut again = ClientConnection::new(eager, name).unwrap();
    assert!(again.early_data().is_none(), "there is no session to send it in");
}

#[test]
fn a_tls_1_2_client_is_refused() {
    let root = Authority::root("shop.test");
    let mut server = ServerConnection::new(payments(&root, root.bundles())).unwrap();
    server.read_tls(&mut tls12_client_hello().as_slice()).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert!(matches!(error, Error::PeerIncompatible(_)), "{error}");
    let mut answer = Vec::new();
    server.write_tls(&mut answer).unwrap();
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 70], "a fatal alert: protocol_version");
}

#[test]
fn a_client_hello_names_no_server_and_offers_nothing_but_tls_1_3() {
    let root = Authority::root("shop.test");
    let config = caller(&root.issue(ORDERS), &root, root.bundles());
    let name = ServerName::try_from("payments.shop.internal").unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let contains = |needle: &[u8]| hello.windows(needle.len()).any(|window| window == needle);
    assert!(!contains(b"payments.shop.internal"));
    assert!(contains(&[0, 43, 0, 3, 2, 3, 4]), "supported_versions holds 1.3 alone");
}

#[test]
fn no_common_application_protocol_ends_the_handshake() {
    let root = Authority::root("shop.test");
    let own = credentials(&root.issue(PAYMENTS), &root);
    let bundles = Arc::new(root.bundles());
    let server = server_config(&own, Arc::clone(&bundles), ClientAuth::Required, &[b"h2", b"http/1.1"]);
    let calling = |alpn| client_config(Some(&own), Arc::clone(&bundles), one_of(&[PAYMENTS]), alpn);
    let ended = handshake(&calling(&[b"http/1.1", b"h2"]), &server);
    assert_eq!(ended.server.alpn_protocol(), Some(b"h2".as_slice()), "the server's order counts");
    let ended = handshake(&calling(&[b"smtp"]), &server);
    assert_eq!(ended.server_error, Some(Error::NoApplicationProtocol));
}

#[test]
fn credentials_that_peers_would_refuse_are_not_taken_into_use() {
    let (root, foreign) = (Authority::root("shop.test"), Authority::root("shop.test"));
    let take = |issued: Issued| {
        let key = issued.key();
        Credentials::new(issued.chain, key, &root.bundles(), now()).map(|_| ()).unwrap_err()
    };
    assert!(matches!(take(foreign.issue(ORDERS)), CredentialsError::Svid(SvidError::Untrusted { .. })));
    let expired = root.issue_with(ORDERS, |leaf| leaf.not_after = moment(-1));
    assert_eq!(take(expired), CredentialsError::Svid(SvidError::NotValidNow));
}

#[test]
fn a_key_that_is_not_the_leafs_is_refused() {
    let root = Authority::root("shop.test");
    let (ours, other) = (root.issue(ORDERS), root.issue(ORDERS));
    let error = Credentials::new(ours.chain.clone(), other.key(), &root.bundles(), now()).unwrap_err();
    assert_eq!(error, CredentialsError::KeyMismatch);
    assert_eq!(error.code(), Code::BadCredentials);
}

#[test]
fn credentials_show_whose_they_are_and_nothing_of_the_key() {
    let root = Authority::root("shop.test");
    let own = credentials(&root.issue(ORDERS), &root);
    assert_eq!(format!("{own:?}"), format!("Credentials {{ id: {ORDERS}, .. }}"));
    assert_eq!(own.svid().id(), &id(ORDERS));
    assert_eq!(own.chain().len(), 1);
}

#[test]
fn an_error_that_is_not_about_the_peers_certificate_has_no_peer_error() {
    assert_eq!(peer_error(&Error::AlertReceived(AlertDescription::CertificateUnknown)), None);
    assert_eq!(peer_error(&Error::NoApplicationProtocol), None);
}

/// The hello of a client that knows TLS 1.2 and nothing newer, byte by byte, so that no TLS 1.2 code is compiled in.
fn tls12_client_hello() -> Vec<u8> {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 29][..], // supported_groups: x25519
        &[0, 11, 0, 2, 1, 0],            // ec_point_formats: uncompressed
        &[0, 13, 0, 4, 0, 2, 4, 3],      // signature_algorithms: ecdsa_secp256r1_sha256
        &[0, 23, 0, 0],                  // extended_master_secret
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.push(0); // no session
    body.extend([0, 2, 0xc0, 0x2b]); // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    body.extend([1, 0]); // no compression
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let message = [&[1, 0][..], &length(&body), &body].concat();
    [&[0x16, 3, 1][..], &length(&message), &message].concat()
}
