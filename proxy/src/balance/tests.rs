use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header::COOKIE};
use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::{
    config::{Balance, Breakers, Failures, HashKey, Outliers, Resilience},
    error::{Breaker, Error},
};

fn addresses(count: u16) -> Vec<SocketAddr> {
    (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
}

fn service(endpoints: &[SocketAddr], rules: Resilience) -> Service {
    let (endpoints, resilience) = (endpoints.into(), Arc::new(rules));
    Service { endpoints, identities: [].into(), tls: None, resilience, routes: None }
}

fn balancer() -> Balancer {
    Balancer::new(7, Arc::default())
}

fn calls(count: u16, rules: Resilience) -> (Balancer, Rc<Calls>) {
    let balancer = balancer();
    let calls = balancer.calls("shop/payments", &service(&addresses(count), rules));
    (balancer, calls)
}

fn by(balance: Balance) -> Resilience {
    Resilience { balance, ..Resilience::default() }
}

fn eager(consecutive: u32, max_ejected_percent: u32) -> Resilience {
    let outliers = Outliers { consecutive, max_ejected_percent, ..Outliers::default() };
    Resilience { outliers, balance: Balance::RoundRobin, ..Resilience::default() }
}

fn pick(calls: &Rc<Calls>) -> Picked {
    calls.pick(Pick::default()).unwrap()
}

fn pick_by(calls: &Rc<Calls>, key: Key) -> SocketAddr {
    calls.pick(Pick { key: Some(key), ..Pick::default() }).unwrap().endpoint()
}

/// Calls until `endpoint` is chosen, and lets that call end so.
fn end_at(calls: &Rc<Calls>, endpoint: SocketAddr, status: StatusCode) {
    for _ in 0..100 {
        let picked = pick(calls);
        if picked.endpoint() == endpoint {
            return picked.answered(status);
        }
        picked.answered(StatusCode::OK);
    }
    panic!("{endpoint} is not chosen");
}

fn shown(balancer: &Balancer) -> Vec<(SocketAddr, &'static str)> {
    let mut shown = Vec::new();
    let show = |_: &str, endpoint, state, workers| {
        assert_eq!(workers, 1);
        shown.push((endpoint, state));
        Ok(())
    };
    balancer.metrics.endpoints.each(show).unwrap();
    shown
}

fn header(value: &[u8]) -> HeaderMap {
    [(http::HeaderName::from_static("x-user"), HeaderValue::from_bytes(value).unwrap())].into_iter().collect()
}

fn user(number: u32) -> Key {
    let by = HashKey::Header(http::HeaderName::from_static("x-user"));
    Key::of(&by, &header(number.to_string().as_bytes()), [127, 0, 0, 1].into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn load_spreads_over_all_endpoints() {
    let (_balancer, calls) = calls(4, Resilience::default());
    let held: Vec<Picked> = (0..400).map(|_| pick(&calls)).collect();
    for endpoint in addresses(4) {
        let share = held.iter().filter(|picked| picked.endpoint() == endpoint).count();
        assert!((80..=120).contains(&share), "{endpoint}: {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_gets_less_and_its_share_back_when_it_is_quick_again() {
    let (_balancer, calls) = calls(3, Resilience::default());
    let slow = addresses(1)[0];
    let mut share = [0, 0, 0];
    for (phase, share) in share.iter_mut().enumerate() {
        for _ in 0..1_000 {
            let picked = pick(&calls);
            let is_slow = picked.endpoint() == slow;
            *share += u32::from(is_slow);
            advance(Duration::from_millis(if is_slow && phase == 0 { 200 } else { 10 })).await;
            picked.answered(StatusCode::OK);
        }
        // What it was slow by is forgotten in the meantime.
        advance(Duration::from_secs(30 * u64::from(phase == 1))).await;
    }
    assert!(share[0] < 60, "slow: {share:?}");
    assert!((200..500).contains(&share[2]), "quick again: {share:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_quickly_is_not_preferred_for_it() {
    let rules = Resilience {
        outliers: Outliers { consecutive: 1_000, ..Outliers::default() },
        ..Resilience::default()
    };
    let (_balancer, calls) = calls(2, rules);
    let failing = addresses(1)[0];
    let mut share = 0;
    for _ in 0..1_000 {
        let picked = pick(&calls);
        if picked.endpoint() == failing {
            share += 1;
            picked.answered(StatusCode::SERVICE_UNAVAILABLE);
        } else {
            advance(Duration::from_millis(10)).await;
            picked.answered(StatusCode::OK);
        }
    }
    assert!(share < 100, "{share} of 1000");
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_is_assumed_to_be_as_quick_as_the_others() {
    let (balancer, calls) = calls(2, Resilience::default());
    for _ in 0..500 {
        let picked = pick(&calls);
        advance(Duration::from_millis(2)).await;
        picked.answered(StatusCode::OK);
    }
    let calls = balancer.calls("shop/payments", &service(&addresses(3), Resilience::default()));
    let held: Vec<Picked> = (0..300).map(|_| pick(&calls)).collect();
    let share = held.iter().filter(|picked| picked.endpoint() == addresses(3)[2]).count();
    assert!((70..=130).contains(&share), "{share} of 300");
}

#[tokio::test(start_paused = true)]
async fn round_robin_gives_each_endpoint_its_turn() {
    let (_balancer, calls) = calls(3, by(Balance::RoundRobin));
    let turns: Vec<u16> = (0..7).map(|_| pick(&calls).endpoint().port()).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3, 1]);
    let tried = &addresses(3)[1..2];
    let turns: Vec<u16> =
        (0..4).map(|_| calls.pick(Pick { tried, ..Pick::default() }).unwrap().endpoint().port()).collect();
    assert_eq!(turns, [3, 1, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_is_not_picked_again() {
    for balance in [Balance::Latency, Balance::RoundRobin, Balance::Hash(HashKey::Source)] {
        let (_balancer, calls) = calls(2, by(balance));
        let endpoints = addresses(2);
        let key = Some(Key::source([127, 0, 0, 1].into()));
        for _ in 0..20 {
            let picked = calls.pick(Pick { key, tried: &endpoints[..1], ..Pick::default() }).unwrap();
            assert_eq!(picked.endpoint(), endpoints[1]);
        }
        let nowhere = calls.pick(Pick { key, tried: &endpoints, ..Pick::default() }).unwrap_err();
        assert!(matches!(nowhere, Error::NoEndpoints(_)), "{nowhere}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_the_caller_has_chosen_is_the_only_one() {
    for balance in [Balance::Latency, Balance::RoundRobin, Balance::Hash(HashKey::Source)] {
        let (_balancer, calls) = calls(3, by(balance));
        let (endpoints, key) = (addresses(4), Some(Key::source([127, 0, 0, 1].into())));
        let at = |only, tried| calls.pick(Pick { key, tried, only: Some(only), ..Pick::default() });
        for _ in 0..20 {
            assert_eq!(at(endpoints[1], &[]).unwrap().endpoint(), endpoints[1]);
        }
        assert!(matches!(at(endpoints[1], &endpoints[1..2]), Err(Error::NoEndpoints(_))));
        assert!(matches!(at(endpoints[3], &[]), Err(Error::NoEndpoints(_))), "it is none of the service's");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_without_endpoints_is_refused() {
    let (_balancer, calls) = calls(0, Resilience::default());
    assert!(matches!(calls.pick(Pick::default()), Err(Error::NoEndpoints(_))));
}

#[tokio::test(start_paused = true)]
async fn equal_keys_go_to_the_same_endpoint_in_every_worker() {
    let (_one, calls_of_one) = calls(5, by(Balance::Hash(HashKey::Source)));
    let other = Balancer::new(99, Arc::default());
    let mut reversed = addresses(5);
    reversed.reverse();
    let calls_of_other =
        other.calls("shop/payments", &service(&reversed, by(Balance::Hash(HashKey::Source))));
    for number in 0..200 {
        assert_eq!(pick_by(&calls_of_one, user(number)), pick_by(&calls_of_other, user(number)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_popular_key_spills_over_instead_of_drowning_its_endpoint() {
    let (_balancer, calls) = calls(4, by(Balance::Hash(HashKey::Source)));
    let held: Vec<Picked> =
        (0..400).map(|_| calls.pick(Pick { key: Some(user(1)), ..Pick::default() }).unwrap()).collect();
    for endpoint in addresses(4) {
        let share = held.iter().filter(|picked| picked.endpoint() == endpoint).count();
        assert!(share <= 126, "{endpoint}: {share}");
    }
}

#[test]
fn keys_are_headers_cookies_or_sources_and_nothing_else() {
    let source = [10, 0, 0, 1].into();
    let by_header = HashKey::Header(http::HeaderName::from_static("x-user"));
    assert_eq!(Key::of(&by_header, &HeaderMap::new(), source), None);
    assert_eq!(Key::of(&by_header, &header(b"a"), source), Key::of(&by_header, &header(b"a"), source));
    assert_ne!(Key::of(&by_header, &header(b"a"), source), Key::of(&by_header, &header(b"b"), source));

    let by_cookie = HashKey::Cookie("session".to_owned());
    let mut crumbs = HeaderMap::new();
    crumbs.append(COOKIE, HeaderValue::from_static("xsession=1; a=b"));
    assert_eq!(Key::of(&by_cookie, &crumbs, source), None);
    crumbs.append(COOKIE, HeaderValue::from_static("c=d;  session=s1"));
    let mut joined = HeaderMap::new();
    joined.insert(COOKIE, HeaderValue::from_static("session=s1"));
    let key = Key::of(&by_cookie, &crumbs, source);
    assert!(key.is_some());
    assert_eq!(key, Key::of(&by_cookie, &joined, source));

    let mapped = "::ffff:10.0.0.1".parse().unwrap();
    assert_eq!(Key::source(source), Key::source(mapped));
    assert_ne!(Key::source(source), Key::source([10, 0, 0, 2].into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn an_endpoint_that_leaves_moves_its_own_keys_alone(count in 2_u16..20, leaves in 0_usize..20) {
        let endpoints = addresses(count);
        let leaving = endpoints[leaves % endpoints.len()];
        let rules = by(Balance::Hash(HashKey::Source));
        let balancer = balancer();
        let calls = balancer.calls("shop/payments", &service(&endpoints, rules.clone()));
        let before: Vec<SocketAddr> = (0..2_000).map(|number| pick_by(&calls, user(number))).collect();
        let left: Vec<SocketAddr> =
            endpoints.iter().copied().filter(|endpoint| *endpoint != leaving).collect();
        let calls = balancer.calls("shop/payments", &service(&left, rules));
        for (number, before) in (0..).zip(&before) {
            let after = pick_by(&calls, user(number));
            prop_assert!(after == *before || *before == leaving);
            prop_assert_ne!(after, leaving);
        }
        // And its own were no more than its share, with a third of leeway for chance.
        let own = before.iter().filter(|endpoint| **endpoint == leaving).count();
        let share = 2_000 / usize::from(count);
        prop_assert!(own <= share + share / 3 + 20, "{own} of {share}");
    }

    #[test]
    fn every_balancer_keeps_to_what_it_may_choose(
        count in 1_u16..12,
        tried in proptest::collection::vec(1_u16..12, 0..6),
        kind in 0_usize..3,
        seed in any::<u64>(),
    ) {
        let balance = [Balance::Latency, Balance::RoundRobin, Balance::Hash(HashKey::Source)][kind].clone();
        let balancer = Balancer::new(seed, Arc::default());
        let calls = balancer.calls("shop/payments", &service(&addresses(count), by(balance)));
        let tried: Vec<SocketAddr> =
            tried.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let has_more = addresses(count).iter().any(|endpoint| !tried.contains(endpoint));
        let picked = calls.pick(Pick { key: Some(user(1)), tried: &tried, ..Pick::default() });
        prop_assert_eq!(picked.is_ok(), has_more);
        if let Ok(picked) = picked {
            prop_assert!(addresses(count).contains(&picked.endpoint()));
            prop_assert!(!tried.contains(&picked.endpoint()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_eject_an_endpoint_and_a_success_between_them_does_not() {
    let (balancer, calls) = calls(2, eager(3, 50));
    let bad = addresses(2)[0];
    for status in [503, 502, 200, 504, 503] {
        end_at(&calls, bad, StatusCode::from_u16(status).unwrap());
    }
    assert!(shown(&balancer).contains(&(bad, "in")));
    end_at(&calls, bad, StatusCode::BAD_GATEWAY);
    assert!(shown(&balancer).contains(&(bad, "ejected")));
    for _ in 0..20 {
        assert_ne!(pick(&calls).endpoint(), bad);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_break_off_are_failures_in_a_row_and_whole_ones_between_them_end_it() {
    for (between, standing) in [(None, "ejected"), (Some(StatusCode::OK), "in")] {
        let (balancer, calls) = calls(2, eager(3, 50));
        let bad = addresses(2)[0];
        for _ in 0..3 {
            let picked = calls.pick(Pick { only: Some(bad), ..Pick::default() }).unwrap();
            picked.answered(StatusCode::OK);
            picked.broke_off();
            // It breaks off once.
            picked.broke_off();
            if let Some(status) = between {
                end_at(&calls, bad, status);
            }
        }
        assert!(shown(&balancer).contains(&(bad, standing)), "{between:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_500_is_the_applications_own_answer_unless_the_rules_say_otherwise() {
    for (failures, state) in [(Failures::Gateway, "in"), (Failures::ServerErrors, "ejected")] {
        let mut rules = eager(1, 50);
        rules.outliers.failures = failures;
        let (balancer, calls) = calls(2, rules);
        end_at(&calls, addresses(2)[0], StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(shown(&balancer)[0], (addresses(2)[0], state));
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_ejects_where_the_rules_name_one() {
    for (failure_percent, state) in [(Some(30), "ejected"), (None, "in")] {
        let mut rules = eager(1_000, 50);
        rules.outliers.failure_percent = failure_percent;
        let (balancer, calls) = calls(2, rules);
        let bad = addresses(2)[0];
        // Two of five fail; 19 calls say nothing yet.
        for number in 0..25 {
            let status = if number % 5 < 2 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
            if number < 19 {
                assert!(shown(&balancer).contains(&(bad, "in")), "{number}");
            }
            if shown(&balancer).contains(&(bad, "in")) {
                end_at(&calls, bad, status);
            }
        }
        assert!(shown(&balancer).contains(&(bad, state)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_call_finds_out_whether_an_ejected_endpoint_is_back() {
    let (balancer, calls) = calls(2, eager(1, 50));
    let bad = addresses(2)[0];
    end_at(&calls, bad, StatusCode::BAD_GATEWAY);
    advance(Duration::from_secs(9)).await;
    assert_ne!(pick(&calls).endpoint(), bad, "not before its time");
    // Ten seconds, and a quarter of jitter at most.
    advance(Duration::from_millis(3_501)).await;
    let probe = pick(&calls);
    assert_eq!(probe.endpoint(), bad);
    for _ in 0..10 {
        assert_ne!(pick(&calls).endpoint(), bad, "one probe and no more");
    }
    assert!(shown(&balancer).contains(&(bad, "probing")));
    probe.answered(StatusCode::OK);
    drop(probe);
    assert!(shown(&balancer).contains(&(bad, "in")));
    let ports: Vec<u16> = (0..4).map(|_| pick(&calls).endpoint().port()).collect();
    assert_eq!(ports.iter().filter(|port| **port == bad.port()).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_ejects_for_longer() {
    let (balancer, calls) = calls(2, eager(1, 50));
    let bad = addresses(2)[0];
    end_at(&calls, bad, StatusCode::BAD_GATEWAY);
    advance(Duration::from_millis(12_501)).await;
    let probe = pick(&calls);
    assert_eq!(probe.endpoint(), bad);
    probe.ended(Outcome::Failed);
    drop(probe);
    advance(Duration::from_millis(19_900)).await;
    assert_ne!(pick(&calls).endpoint(), bad);
    assert!(shown(&balancer).contains(&(bad, "ejected")));
    advance(Duration::from_millis(5_200)).await;
    assert_eq!(pick(&calls).endpoint(), bad);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_left_says_nothing_and_the_next_call_is_another() {
    let (_balancer, calls) = calls(2, eager(1, 50));
    let bad = addresses(2)[0];
    end_at(&calls, bad, StatusCode::BAD_GATEWAY);
    advance(Duration::from_millis(12_501)).await;
    assert_eq!(pick(&calls).endpoint(), bad);
    assert_eq!(pick(&calls).endpoint(), bad);
}

#[tokio::test(start_paused = true)]
async fn no_more_endpoints_are_ejected_than_may_be() {
    let (balancer, calls) = calls(4, eager(1, 50));
    for endpoint in addresses(4) {
        for _ in 0..3 {
            if shown(&balancer).contains(&(endpoint, "in")) {
                end_at(&calls, endpoint, StatusCode::BAD_GATEWAY);
            }
        }
    }
    let out = shown(&balancer).iter().filter(|(_, state)| *state == "ejected").count();
    assert_eq!(out, 2);
}

#[tokio::test(start_paused = true)]
async fn the_only_endpoint_is_never_ejected() {
    let (balancer, calls) = calls(1, eager(1, 99));
    for _ in 0..10 {
        end_at(&calls, addresses(1)[0], StatusCode::BAD_GATEWAY);
    }
    assert_eq!(shown(&balancer), [(addresses(1)[0], "in")]);
}

#[tokio::test(start_paused = true)]
async fn ejections_are_ignored_when_the_others_have_left() {
    let (balancer, calls) = calls(2, eager(1, 50));
    let bad = addresses(2)[0];
    end_at(&calls, bad, StatusCode::BAD_GATEWAY);
    let calls = balancer.calls("shop/payments", &service(&[bad], eager(1, 50)));
    let picked = pick(&calls);
    assert_eq!(picked.endpoint(), bad);
    // And if that helps, it is back.
    picked.answered(StatusCode::OK);
    assert_eq!(shown(&balancer), [(bad, "in")]);
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_is_better_than_none_that_can_be_reached() {
    let endpoints = addresses(2);
    for (most, found) in [(50, Some(endpoints[0])), (100, None)] {
        let (_balancer, calls) = calls(2, eager(1, most));
        end_at(&calls, endpoints[0], StatusCode::BAD_GATEWAY);
        let elsewhere = Pick { tried: &endpoints[1..], ..Pick::default() };
        assert!(calls.pick(elsewhere).is_err(), "it is ejected");
        let picked = calls.pick(Pick { ejected_too: true, ..elsewhere }).ok();
        assert_eq!(picked.map(|picked| picked.endpoint()), found, "maxEjectedPercent: {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_may_be_ejected_only_where_the_rules_say_so() {
    let (_balancer, calls) = calls(2, eager(1, 100));
    for endpoint in addresses(2) {
        end_at(&calls, endpoint, StatusCode::BAD_GATEWAY);
    }
    let refused = calls.pick(Pick::default()).unwrap_err();
    assert!(matches!(refused, Error::AllEjected(_)), "{refused}");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn calls_over_a_breaker_are_refused_and_those_under_it_are_not() {
    let breakers = Breakers { requests: 3, endpoint_requests: 2, ..Breakers::default() };
    let (_balancer, of_service) =
        calls(2, Resilience { breakers: breakers.clone(), ..Resilience::default() });
    let mut held: Vec<Picked> = (0..3).map(|_| pick(&of_service)).collect();
    let refused = of_service.pick(Pick::default()).unwrap_err();
    assert!(matches!(refused, Error::BreakerOpen { breaker: Breaker::Requests, .. }), "{refused}");
    held.pop();
    pick(&of_service);

    let (_balancer, of_endpoint) = calls(1, Resilience { breakers, ..Resilience::default() });
    let _held = [pick(&of_endpoint), pick(&of_endpoint)];
    let refused = of_endpoint.pick(Pick::default()).unwrap_err();
    assert!(matches!(refused, Error::BreakerOpen { breaker: Breaker::EndpointRequests, .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn connections_and_waits_have_breakers_of_their_own() {
    let breakers = Breakers { connections: 2, endpoint_connections: 1, pending: 1, ..Breakers::default() };
    let rules = Resilience { breakers, balance: Balance::RoundRobin, ..Resilience::default() };
    let (_balancer, calls) = calls(3, rules);
    let [one, two, three] = [pick(&calls), pick(&calls), pick(&calls)];
    let open = one.connection().unwrap();
    let refused = one.connection().unwrap_err();
    assert!(matches!(refused, Error::BreakerOpen { breaker: Breaker::EndpointConnections, .. }));
    let _open = two.connection().unwrap();
    let refused = three.connection().unwrap_err();
    assert!(matches!(refused, Error::BreakerOpen { breaker: Breaker::Connections, .. }));
    drop(open);
    assert!(three.connection().is_ok());

    let waits = one.pending().unwrap();
    let refused = two.pending().unwrap_err();
    assert!(matches!(refused, Error::BreakerOpen { breaker: Breaker::Pending, .. }));
    drop(waits);
    assert!(two.pending().is_ok());
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_leave_and_services_that_are_gone_are_forgotten() {
    let (balancer, calls) = calls(3, Resilience::default());
    let held = pick(&calls);
    drop(calls);
    balancer.calls("shop/payments", &service(&addresses(1), Resilience::default()));
    drop(held);
    assert_eq!(shown(&balancer), [(addresses(1)[0], "in")]);
    balancer.prune(&Services::default());
    assert!(shown(&balancer).is_empty());
    assert!(balancer.services.borrow().is_empty());
}
