use super::*;
use crate::discovery::hello::Inbound;

fn identity(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.test/ns/shop/sa/{account}")).unwrap()
}

fn subscribe(proxies: &Arc<Proxies>, account: &str, instance: &str, port: u16) -> Subscription {
    let address = SocketAddr::from(([10, 0, 0, 7], port));
    let hello = Hello {
        instance: instance.into(),
        release: "0.1.0".into(),
        inbound: vec![Inbound { address, port: 8080 }],
        services: BTreeSet::new(),
        held: BTreeMap::new(),
    };
    let certificate = Certificate {
        serial: "01".into(),
        issued_at_ms: None,
        not_after: rustls_pki_types::UnixTime::since_unix_epoch(Duration::ZERO),
    };
    let peer = Peer { origin: Origin::Network(address), svid: None, chain: Arc::default() };
    proxies.subscribe(&peer, &identity(account), certificate, Arc::new(hello), None).unwrap()
}

fn ports(proxies: &Proxies, account: &str) -> Vec<u16> {
    let endpoints = proxies.reached().endpoints.clone();
    endpoints
        .get(&identity(account))
        .iter()
        .flat_map(|set| set.iter())
        .map(|endpoint| endpoint.address.port())
        .collect()
}

#[test]
fn an_orderly_end_takes_the_endpoint_away_at_once() {
    let proxies = Proxies::new();
    let subscription = subscribe(&proxies, "payments", "a", 1);
    assert_eq!(ports(&proxies, "payments"), [1]);
    subscription.end();
    assert!(ports(&proxies, "payments").is_empty());
    assert_eq!(proxies.count(), (0, 0));
}

#[test]
fn a_lost_stream_leaves_its_endpoint_for_the_grace_and_no_longer() {
    let proxies = Proxies::new();
    drop(subscribe(&proxies, "payments", "a", 1));
    let lost = Instant::now();
    proxies.sweep(lost + GRACE.checked_sub(Duration::from_secs(1)).unwrap());
    assert_eq!((ports(&proxies, "payments"), proxies.count()), (vec![1], (0, 1)));
    proxies.sweep(lost + GRACE);
    assert!(ports(&proxies, "payments").is_empty());
    assert_eq!(proxies.count(), (0, 1), "still shown");
    proxies.sweep(lost + FORGET);
    assert_eq!(proxies.count(), (0, 0));
}

#[test]
fn a_newer_stream_takes_the_olders_place_and_the_olders_end_changes_nothing() {
    let proxies = Proxies::new();
    let older = subscribe(&proxies, "payments", "a", 1);
    older.sent(7);
    let newer = subscribe(&proxies, "payments", "a", 2);
    assert!(older.superseded.is_cancelled());
    assert_eq!(newer.last_sent(), 7, "versions go on growing");
    older.sent(99);
    older.end();
    assert_eq!((ports(&proxies, "payments"), newer.last_sent()), (vec![2], 7));
}

#[test]
fn one_identity_cannot_take_anothers_instance() {
    let proxies = Proxies::new();
    let payments = subscribe(&proxies, "payments", "a", 1);
    let _orders = subscribe(&proxies, "orders", "a", 2);
    assert!(!payments.superseded.is_cancelled());
    assert_eq!((ports(&proxies, "payments"), ports(&proxies, "orders")), (vec![1], vec![2]));
}

#[test]
fn one_identity_has_a_limit_and_the_lost_make_room() {
    let proxies = Proxies::new();
    let mut held: Vec<_> =
        (0..MAX_PER_IDENTITY).map(|number| subscribe(&proxies, "payments", &number.to_string(), 1)).collect();
    assert_eq!(make_room(&mut proxies.lock(), &identity("payments")), Err(TooMany));
    assert_eq!(make_room(&mut proxies.lock(), &identity("orders")), Ok(()));
    held.pop();
    assert_eq!(make_room(&mut proxies.lock(), &identity("payments")), Ok(()));
}

#[test]
fn a_nack_is_shown_until_a_later_version_is_acknowledged() {
    let proxies = Proxies::new();
    let subscription = subscribe(&proxies, "payments", "a", 1);
    subscription.nacked(Nack { version: 1, path: "p".into(), code: "SG0405".into(), message: "m".into() });
    assert_eq!(proxies.list()[0].nack.as_ref().unwrap().code, "SG0405");
    subscription.acked(2, Some("digest".into()));
    assert_eq!((proxies.list()[0].acked, proxies.list()[0].nack.clone()), (2, None));
}

#[test]
fn a_stream_that_ended_does_not_mark_the_next_one_of_its_instance_as_lost() {
    let proxies = Proxies::new();
    let before = subscribe(&proxies, "payments", "a", 1);
    let token = before.superseded.clone();
    before.end();
    assert!(token.is_cancelled(), "from here on it changes nothing any more");
    let _next = subscribe(&proxies, "payments", "a", 1);
    assert_eq!((ports(&proxies, "payments"), proxies.count()), (vec![1], (1, 1)));
}

#[test]
fn one_identitys_lost_sidecars_do_not_end_anothers_grace() {
    let proxies = Proxies::new();
    drop(subscribe(&proxies, "payments", "lost a moment ago", 1));
    for n in 0..=MAX_PER_IDENTITY {
        drop(subscribe(&proxies, "orders", &n.to_string(), 2));
    }
    assert_eq!(ports(&proxies, "payments"), [1]);
}

#[test]
fn who_was_left_out_to_make_room_is_no_endpoint_after_the_next_sweep() {
    let proxies = Proxies::new();
    drop(subscribe(&proxies, "payments", "lost", 1));
    let _stays = subscribe(&proxies, "payments", "connected", 2);
    proxies.lock().retain(Entry::is_connected);
    assert_eq!((ports(&proxies, "payments"), proxies.count()), (vec![1, 2], (1, 1)));
    proxies.sweep(Instant::now());
    assert_eq!(ports(&proxies, "payments"), [2]);
}

#[test]
fn everybody_is_counted_and_listed_once_by_identity_and_instance() {
    let proxies = Proxies::new();
    let held = [("payments", "b"), ("orders", "a"), ("payments", "a"), ("payments", "b")]
        .map(|(account, instance)| subscribe(&proxies, account, instance, 1));
    let listed: Vec<_> = proxies.list().into_iter().map(|entry| entry.hello.instance.clone()).collect();
    assert_eq!((listed, proxies.count()), (vec!["a".into(), "a".into(), "b".into()], (3, 3)));
    held.into_iter().for_each(Subscription::end);
    assert_eq!((proxies.list().len(), proxies.count()), (0, (0, 0)));
}

#[tokio::test]
async fn whoever_calls_an_identity_is_woken_by_its_endpoints_and_by_no_others() {
    let proxies = Proxies::new();
    let watched = proxies.watch([identity("payments")].into());
    // It is asked once before the time counts.
    let now = tokio::time::Instant::now();
    let is_woken = async || tokio::time::timeout(Duration::ZERO, watched.changed(now)).await.is_ok();
    let _orders = subscribe(&proxies, "orders", "a", 1);
    assert!(!is_woken().await, "orders is not called");
    let payments = subscribe(&proxies, "payments", "a", 1);
    assert!(is_woken().await);
    assert_eq!(watched.endpoints().len(), 1);
    let again = subscribe(&proxies, "payments", "a", 1);
    assert!(!is_woken().await, "it is where it was");
    drop((payments, again));
    proxies.sweep(Instant::now() + GRACE);
    assert!(is_woken().await);
    assert!(watched.endpoints().is_empty());
}

#[tokio::test]
async fn changes_are_gathered_until_their_moment_and_none_is_lost() {
    let proxies = Proxies::new();
    let watched = proxies.watch([identity("payments")].into());
    let now = tokio::time::Instant::now();
    let is_woken = async |moment| tokio::time::timeout(Duration::ZERO, watched.changed(moment)).await.is_ok();
    let _held = ["a", "b"].map(|instance| subscribe(&proxies, "payments", instance, 1));
    assert!(!is_woken(now + GRACE).await);
    assert!(is_woken(now).await);
    assert!(!is_woken(now).await, "both were told at once");
}
