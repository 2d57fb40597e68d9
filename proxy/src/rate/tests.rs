use http::HeaderMap;
use proptest::prelude::*;
use tokio::time::{advance, sleep};

use super::*;
use crate::config::{Inbound, Protocol};

fn rate(requests: u32, period: Duration, burst: u32) -> Rate {
    Rate { requests, period, burst }
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.test/ns/shop/sa/{account}")).unwrap()
}

fn limit(name: &str, path: &str, per: Per, rate: Rate) -> RateLimit {
    RateLimit {
        name: name.into(),
        hostnames: Vec::new(),
        matches: vec![crate::config::RouteMatch {
            path: crate::config::PathMatch::Prefix(path.to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        callers: Vec::new(),
        per,
        rate,
    }
}

fn port(limits: Vec<RateLimit>) -> Inbound {
    Inbound {
        listen: ([127, 0, 0, 1], 15106).into(),
        is_captured: false,
        forward: "127.0.0.1:8080".parse().unwrap(),
        protocol: Protocol::Http,
        paths: crate::config::PathMode::Strict,
        upgrades: crate::config::Upgrades::default(),
        rate_limits: limits,
        advertise: None,
    }
}

/// The limits of one port, as a snapshot has them.
fn rates(kept: &mut Kept, limits: Vec<RateLimit>, most: usize) -> PortRates {
    let mut renewal = kept.renew();
    let rates = renewal.port(&port(limits), most);
    *kept = renewal.end();
    rates
}

/// What becomes of a request of `account`.
fn ask(rates: &PortRates, account: &str, path: &str) -> Result<(), Error> {
    let headers = HeaderMap::new();
    let asking = Asking { method: "GET", host: "payments", path, query: None, headers: &headers };
    rates.admit(Some(&id(account)), &asking, &Metrics::default())
}

fn admitted(rates: &PortRates, account: &str, path: &str) -> usize {
    (0..1_000).take_while(|_| ask(rates, account, path).is_ok()).count()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_burst_passes_at_once_and_then_no_more_than_the_rate() {
    let rates = rates(&mut Kept::default(), vec![limit("all", "", Per::Caller, rate(10, SECOND, 5))], 8);
    assert_eq!(admitted(&rates, "orders", "/"), 5);
    advance(Duration::from_millis(99)).await;
    assert_eq!(admitted(&rates, "orders", "/"), 0);
    advance(Duration::from_millis(1)).await;
    assert_eq!(admitted(&rates, "orders", "/"), 1);
    advance(Duration::from_mins(1)).await;
    assert_eq!(admitted(&rates, "orders", "/"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_learns_when_there_is_room_and_there_is() {
    let rates = rates(&mut Kept::default(), vec![limit("all", "", Per::Caller, rate(1, SECOND * 3, 1))], 8);
    ask(&rates, "orders", "/").unwrap();
    advance(Duration::from_millis(500)).await;
    let error = ask(&rates, "orders", "/").unwrap_err();
    assert_eq!((error.code().id(), error.status().as_u16(), error.retry_after()), ("SG0646", 429, Some(3)));
    assert_eq!(error.to_string(), "rate limit 8080/all: 1 requests in 3s have come");
    let Error::RateLimited { wait, .. } = error else { panic!("{error}") };
    sleep(wait).await;
    ask(&rates, "orders", "/").unwrap();
}

#[tokio::test(start_paused = true)]
async fn callers_have_buckets_of_their_own_unless_they_share_one() {
    let own = rates(&mut Kept::default(), vec![limit("own", "", Per::Caller, rate(3, SECOND, 3))], 8);
    assert_eq!([admitted(&own, "orders", "/"), admitted(&own, "carts", "/")], [3, 3]);
    let shared = rates(&mut Kept::default(), vec![limit("all", "", Per::All, rate(3, SECOND, 3))], 8);
    assert_eq!([admitted(&shared, "orders", "/"), admitted(&shared, "carts", "/")], [3, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_counts_what_it_names_and_nothing_else() {
    let mut charges = limit("charges", "/charge", Per::Caller, rate(1, SECOND, 1));
    charges.callers = vec![id("orders")];
    let rates = rates(&mut Kept::default(), vec![charges], 8);
    ask(&rates, "orders", "/charge/17").unwrap();
    ask(&rates, "orders", "/charge").unwrap_err();
    for (caller, path) in [("orders", "/charges"), ("orders", "/"), ("carts", "/charge")] {
        assert_eq!(admitted(&rates, caller, path), 1_000, "{caller} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_one_limit_refuses_costs_nothing_of_the_others() {
    let limits = vec![
        limit("all", "", Per::Caller, rate(3, SECOND, 3)),
        limit("charges", "/charge", Per::Caller, rate(1, SECOND, 1)),
    ];
    let rates = rates(&mut Kept::default(), limits, 8);
    ask(&rates, "orders", "/charge").unwrap();
    for _ in 0..10 {
        ask(&rates, "orders", "/charge").unwrap_err();
    }
    assert_eq!(admitted(&rates, "orders", "/"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_a_place_is_refused_until_another_has_been_silent() {
    let rates = rates(&mut Kept::default(), vec![limit("all", "", Per::Caller, rate(1, SECOND, 2))], 2);
    ask(&rates, "one", "/").unwrap();
    ask(&rates, "two", "/").unwrap();
    let error = ask(&rates, "three", "/").unwrap_err();
    assert_eq!((error.code().id(), error.status().as_u16(), error.retry_after()), ("SG0647", 429, Some(1)));
    // Whoever has a place is none the worse.
    ask(&rates, "one", "/").unwrap();
    ask(&rates, "one", "/").unwrap_err();
    // "two" has all its tokens again, and is forgotten without a loss; "one" has not.
    advance(SECOND).await;
    ask(&rates, "three", "/").unwrap();
    assert_eq!(admitted(&rates, "one", "/"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_snapshot_keeps_the_buckets_of_a_limit_that_is_the_same() {
    let mut kept = Kept::default();
    let all = limit("all", "", Per::Caller, rate(3, SECOND, 3));
    assert_eq!(admitted(&rates(&mut kept, vec![all.clone()], 8), "orders", "/"), 3);
    let with_another = vec![limit("charges", "/charge", Per::All, rate(1, SECOND, 1)), all.clone()];
    assert_eq!(admitted(&rates(&mut kept, with_another, 8), "orders", "/"), 0);
    let mut changed = all;
    changed.rate.burst = 4;
    assert_eq!(admitted(&rates(&mut kept, vec![changed], 8), "orders", "/"), 4);
}

#[test]
fn threads_together_get_no_more_than_one_would() {
    let rates =
        rates(&mut Kept::default(), vec![limit("all", "", Per::Caller, rate(1, SECOND * 3_600, 500))], 8);
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| admitted(&rates, "orders", "/"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(admitted, 500);
}

proptest! {
    /// Whatever is asked when, in no stretch of time pass more than the burst and what the rate brings in it.
    #[test]
    fn in_no_stretch_of_time_passes_more_than_the_burst_and_the_rate(
        requests in 1..50_u32,
        burst in 1..20_u32,
        pauses in proptest::collection::vec(0..200_000_000_u64, 1..200),
    ) {
        let (pace, bucket) = (Pace::of(rate(requests, SECOND, burst)), Bucket::default());
        let mut now = 0;
        let mut passed = Vec::new();
        for pause in pauses {
            now += pause;
            if bucket.take(pace, now).is_ok() {
                passed.push(now);
            }
        }
        for (index, from) in passed.iter().enumerate() {
            for (more, to) in passed[index..].iter().enumerate() {
                let brought = u128::from(to - from) * u128::from(requests) / 1_000_000_000;
                prop_assert!((more as u128) < u128::from(burst) + brought + 1);
            }
        }
    }

    /// It is never emptier than empty: who waits as told passes.
    #[test]
    fn who_waits_as_told_passes(requests in 1..1_000_u32, burst in 1..20_u32, asked in 1..100_usize) {
        let (pace, bucket) = (Pace::of(rate(requests, SECOND, burst)), Bucket::default());
        let mut now = 0;
        for _ in 0..asked {
            if let Err(wait) = bucket.take(pace, now) {
                prop_assert!(wait > Duration::ZERO && wait <= SECOND);
                now += u64::try_from(wait.as_nanos()).unwrap();
                prop_assert!(bucket.take(pace, now).is_ok());
            }
        }
    }
}
