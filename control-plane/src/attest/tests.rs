use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use sha2::{Digest, Sha256};
use sidegate_identity::{Quarantine, Refused};

use super::*;
use crate::{
    config::Config,
    hex,
    quarantine::LoadedQuarantine,
    resource,
    server::LocalProcess,
    state::StateFolder,
    tokens::{Secret, State, Terms},
};

const ORDERS: &str = "spiffe://shop.test/ns/shop/sa/orders";
const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

/// A mesh of orders and payments, their tokens in the configuration and a store beside it.
struct World {
    attestor: Attestor,
    tokens: Arc<Tokens>,
    start: Instant,
    _state: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&parent.path().join("state")).unwrap();
        let tokens = Arc::new(Tokens::open_in(&state).unwrap());
        Self { attestor: Attestor::new(tokens.clone()), tokens, start: Instant::now(), _state: parent }
    }

    fn at(&self, ms: u64) -> Moment {
        Moment { ms, instant: self.start + Duration::from_millis(ms) }
    }

    fn token(&self, identity: &str, uses: Option<u32>) -> Secret {
        let secret = Secret::generate().unwrap();
        let life = Duration::from_mins(1);
        self.tokens
            .add(&secret, &Terms { identity: SpiffeId::parse(identity).unwrap(), life, uses }, 0)
            .unwrap();
        secret
    }

    fn attest(&self, token: &str, mesh: &Mesh, ms: u64) -> Result<Attested, Refusal> {
        let origin = Origin::Network(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        self.attest_from(origin, token, mesh, ms)
    }

    fn attest_from(&self, origin: Origin, token: &str, mesh: &Mesh, ms: u64) -> Result<Attested, Refusal> {
        let presented = Presented { join_token: token, svid: None, origin };
        self.attestor.attest(&presented, mesh, self.at(ms)).map_err(refusal)
    }

    fn join(&self, token: &str) -> Result<String, Refusal> {
        self.attest(token, &mesh(&[]), 0).map(|attested| attested.identity.to_string())
    }

    fn take(&self, attested: &Attested, source: &str) -> Result<Taken, Refusal> {
        let source = Source::Address(source.parse().unwrap());
        self.attestor.take(attested, source, self.at(0)).map_err(refusal)
    }
}

fn refusal(error: AttestError) -> Refusal {
    match error {
        AttestError::Refused(refusal, _) => refusal,
        AttestError::Tokens(error) => panic!("{error}"),
    }
}

fn config() -> Config {
    let text = format!(
        r#"{{apiVersion: sidegate.dev/v1alpha1, kind: Mesh, trustDomain: shop.test, policies: p, state: s,
        listen: {{grpc: "127.0.0.1:0", api: "127.0.0.1:0", socket: local.sock}}, services: [
        {{namespace: shop, name: orders, joinTokens: ["{}"], localUsers: [{{uid: 1001}}]}},
        {{namespace: shop, name: payments, joinTokens: ["{}", "{}"], localUsers: [{{uid: 1002, gid: 50}}]}}]}}"#,
        digest("for-orders"),
        digest("old"),
        digest("new"),
    );
    Config::parse(Path::new("mesh.yaml"), &text).unwrap()
}

fn digest(token: &str) -> String {
    format!("sha256:{}", hex::encode(&Sha256::digest(token)))
}

fn mesh(quarantined: &[&str]) -> Mesh {
    let entries = quarantined.iter().map(|id| (SpiffeId::parse(id).unwrap(), Refused::All));
    let quarantine: Quarantine = entries.collect();
    Mesh {
        config: Arc::new(config()),
        selected: Arc::default(),
        policies: None,
        quarantine: Arc::new(LoadedQuarantine {
            resource: Arc::new(resource::quarantine(&quarantine)),
            quarantine,
        }),
        trust: Arc::default(),
        foreign: Vec::new(),
        config_problems: Vec::new(),
        policy_problems: Vec::new(),
    }
}

#[test]
fn an_identity_in_quarantine_is_attested_by_nothing() {
    let (world, mesh) = (World::new(), mesh(&[PAYMENTS]));
    let stored = world.token(PAYMENTS, None);
    for token in ["old", "new", stored.as_str()] {
        assert_eq!(world.attest(token, &mesh, 0).unwrap_err(), Refusal::Quarantined);
    }
    assert_eq!(world.attest("for-orders", &mesh, 0).unwrap().identity.as_str(), ORDERS);
}

#[test]
fn a_token_attests_its_service_and_no_other() {
    let world = World::new();
    assert_eq!(world.join("for-orders").unwrap(), ORDERS);
    assert_eq!(world.join("old").unwrap(), PAYMENTS, "two tokens hold during a rotation");
    assert_eq!(world.join(" new\n").unwrap(), PAYMENTS, "a file ends in a newline");
    assert_eq!(world.join(world.token(ORDERS, None).as_str()).unwrap(), ORDERS);
}

#[test]
fn a_token_of_an_identity_that_left_the_mesh_attests_nobody() {
    let world = World::new();
    let token = world.token("spiffe://shop.test/ns/shop/sa/gone", None);
    assert_eq!(world.join(token.as_str()), Err(Refusal::NotEntitled));
}

#[test]
fn a_wrong_token_and_none_are_refused() {
    let world = World::new();
    assert_eq!(world.join("wrong"), Err(Refusal::UnknownToken));
    assert_eq!(world.join(""), Err(Refusal::Nothing));
    assert_eq!(world.join(&digest("old")), Err(Refusal::UnknownToken), "a digest is no token");
}

#[test]
fn a_token_is_refused_from_the_moment_it_ends() {
    let world = World::new();
    let token = world.token(PAYMENTS, None);
    assert!(world.attest(token.as_str(), &mesh(&[]), 59_999).is_ok());
    assert_eq!(
        world.attest(token.as_str(), &mesh(&[]), 60_000).unwrap_err(),
        Refusal::TokenEnded(State::Expired)
    );
}

#[test]
fn a_token_for_one_use_is_taken_once_also_by_two_who_were_attested_together() {
    let world = World::new();
    let token = world.token(PAYMENTS, Some(1));
    let first = world.attest(token.as_str(), &mesh(&[]), 0).unwrap();
    let second = world.attest(token.as_str(), &mesh(&[]), 0).unwrap();
    assert_eq!(world.take(&first, "10.0.0.1"), Ok(Taken::Known));
    assert_eq!(world.take(&second, "10.0.0.1"), Err(Refusal::TokenEnded(State::UsedUp)));
    assert_eq!(world.join(token.as_str()), Err(Refusal::TokenEnded(State::UsedUp)), "a replay");
}

#[test]
fn a_use_of_which_nothing_came_is_given_back() {
    let world = World::new();
    let token = world.token(PAYMENTS, Some(1));
    let attested = world.attest(token.as_str(), &mesh(&[]), 0).unwrap();
    world.take(&attested, "10.0.0.1").unwrap();
    world.attestor.give_back(&attested);
    assert_eq!(world.take(&attested, "10.0.0.1"), Ok(Taken::Known));
}

#[test]
fn a_second_address_is_told_once_and_the_first_is_not() {
    let world = World::new();
    let token = world.token(PAYMENTS, None);
    let attested = world.attest(token.as_str(), &mesh(&[]), 0).unwrap();
    let uses = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"].map(|source| world.take(&attested, source));
    assert_eq!(uses, [Ok(Taken::Known), Ok(Taken::Known), Ok(Taken::NewSource), Ok(Taken::Known)]);
}

#[test]
fn a_source_that_keeps_failing_is_not_compared_any_more() {
    let world = World::new();
    while world.join("wrong") == Err(Refusal::UnknownToken) {}
    assert_eq!(world.join("wrong"), Err(Refusal::TooManyFailures));
    assert_eq!(world.join("new"), Err(Refusal::TooManyFailures));
}

#[test]
fn a_token_that_is_used_without_end_is_slowed_down_and_others_are_not() {
    let world = World::new();
    let token = world.token(PAYMENTS, None);
    assert!((0..100).all(|_| world.join(token.as_str()).is_ok()));
    assert_eq!(world.join(token.as_str()), Err(Refusal::TokenRate));
    assert!(world.join("new").is_ok(), "another token of the same identity");
    assert!(world.attest(token.as_str(), &mesh(&[]), 1_000).is_ok());
}

#[test]
fn the_evidence_is_not_the_token() {
    let world = World::new();
    let stored = world.token(PAYMENTS, None);
    for token in ["new", stored.as_str()] {
        let attested = world.attest(token, &mesh(&[]), 0).unwrap();
        assert_eq!(attested.evidence.len(), 16);
        assert!(!token.contains(&attested.evidence));
    }
}

fn process(uid: u32, gid: u32) -> Origin {
    Origin::Local(LocalProcess { uid, gid, pid: Some(7) })
}

#[test]
fn a_process_is_the_one_service_of_its_user_and_nobody_else() {
    let (world, mesh) = (World::new(), mesh(&[]));
    let attest = |uid, gid| {
        let attested = world.attest_from(process(uid, gid), "", &mesh, 0);
        attested.map(|attested| (attested.identity.to_string(), attested.attestor, attested.evidence))
    };
    assert_eq!(attest(1001, 1), Ok((ORDERS.to_owned(), "unix", "uid 1001, gid 1".to_owned())));
    assert_eq!(attest(1002, 50), Ok((PAYMENTS.to_owned(), "unix", "uid 1002, gid 50".to_owned())));
    // Another group; root; somebody else; whom the kernel shows for a user of another namespace.
    for (uid, gid) in [(1002, 51), (0, 0), (0, 50), (1003, 50), (65_534, 65_534), (u32::MAX, u32::MAX)] {
        assert_eq!(attest(uid, gid), Err(Refusal::UnknownUser), "{uid}, {gid}");
    }
}

#[test]
fn what_a_process_presents_is_judged_alone() {
    let (world, mesh) = (World::new(), mesh(&[]));
    let attest = |token: &str| {
        world.attest_from(process(1001, 1), token, &mesh, 0).map(|attested| attested.identity.to_string())
    };
    assert_eq!(attest("new"), Ok(PAYMENTS.to_owned()), "another's token, which proves the other");
    assert_eq!(attest("wrong"), Err(Refusal::UnknownToken), "its user makes up for nothing");
}

#[test]
fn a_process_in_quarantine_is_attested_neither_by_its_user() {
    let (world, mesh) = (World::new(), mesh(&[ORDERS]));
    assert_eq!(world.attest_from(process(1001, 1), "", &mesh, 0).unwrap_err(), Refusal::Quarantined);
    assert_eq!(world.attest_from(process(1002, 50), "", &mesh, 0).unwrap().identity.as_str(), PAYMENTS);
}

#[test]
fn a_user_that_asks_without_end_is_slowed_down_and_others_are_not() {
    let (world, mesh) = (World::new(), mesh(&[]));
    let attest = |uid, ms| world.attest_from(process(uid, 50), "", &mesh, ms).map(|_| ());
    assert!((0..100).all(|_| attest(1001, 0).is_ok()));
    assert_eq!(attest(1001, 0), Err(Refusal::UserRate));
    assert_eq!(attest(1002, 0), Ok(()));
    assert_eq!(attest(1001, 1_000), Ok(()));
}

#[test]
fn the_failures_of_one_user_are_not_those_of_another() {
    let (world, mesh) = (World::new(), mesh(&[]));
    let attest =
        |uid, token: &str| world.attest_from(process(uid, 1), token, &mesh, 0).map(|_| ()).unwrap_err();
    while attest(1001, "wrong") == Refusal::UnknownToken {}
    assert_eq!(attest(1001, "new"), Refusal::TooManyFailures);
    assert_eq!(attest(1002, "wrong"), Refusal::UnknownToken);
}
