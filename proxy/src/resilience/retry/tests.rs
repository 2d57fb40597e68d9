use super::*;
use crate::{balance::Balancer, snapshot::Service};

const TIME: Time = Time { request: Duration::from_secs(1), per_try: Some(Duration::from_millis(400)) };

fn calls(endpoints: u16) -> Rc<Calls> {
    calls_by(7, endpoints)
}

/// The same with chances of its own.
fn calls_by(seed: u64, endpoints: u16) -> Rc<Calls> {
    let endpoints = (1..=endpoints).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let service = Service {
        endpoints,
        identities: Arc::default(),
        tls: None,
        resilience: Arc::default(),
        routes: None,
    };
    Balancer::new(seed, Arc::default()).calls("shop/payments", &service)
}

fn begin<'a>(calls: &Rc<Calls>, rules: &'a Retries, method: &Method) -> (Tries<'a>, SocketAddr) {
    let mut tries = Tries::begin(Rc::clone(calls), rules, TIME, method);
    let first = tries.first(None).unwrap().endpoint();
    (tries, first)
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_processed_is_repeated_only_where_twice_is_once() {
    use Fault::{Broken, Full, Goodbye, Late, Own, Refused, Reset, Unsent};
    let (calls, rules) = (calls(1), Retries::default());
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "CONNECT", "BUY"] {
        let is_idempotent = !matches!(method, "POST" | "PATCH" | "CONNECT" | "BUY");
        let (tries, _) = begin(&calls, &rules, &method.parse().unwrap());
        for fault in [Full, Unsent, Refused, Goodbye] {
            assert!(tries.after_fault(fault).is_some(), "{method} {fault:?}");
        }
        for fault in [Reset, Late] {
            assert_eq!(tries.after_fault(fault).is_some(), is_idempotent, "{method} {fault:?}");
        }
        for fault in [Broken, Own] {
            assert_eq!(tries.after_fault(fault), None, "{method} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_goes_elsewhere_at_once_and_the_rest_waits_at_random_below_a_bound() {
    let rules = Retries { attempts: 10, ..Retries::default() };
    let mut longest = Duration::ZERO;
    for seed in 1..50 {
        let calls = calls_by(seed << 32, 4);
        let (mut tries, first) = begin(&calls, &rules, &Method::GET);
        let before = Instant::now();
        let second = tries.again(Reason::Unreachable, first, None).await.unwrap().endpoint();
        assert_ne!(second, first);
        assert_eq!(before.elapsed(), Duration::ZERO);
        let third = tries.again(Reason::Unreachable, second, None).await.unwrap().endpoint();
        assert!(third != first && third != second);
        let waited = before.elapsed();
        // The clock of the runtime has steps of a millisecond.
        assert!(waited <= rules.backoff * 2 + Duration::from_millis(1), "{waited:?}");
        longest = longest.max(waited);
    }
    assert!(longest > rules.backoff, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_not_now_is_not_asked_again_at_once() {
    let rules = Retries::default();
    let mut waited = Duration::ZERO;
    for seed in 1..20 {
        let calls = calls_by(seed << 32, 2);
        let (mut tries, first) = begin(&calls, &rules, &Method::GET);
        let before = Instant::now();
        tries.again(Reason::Status, first, None).await.unwrap();
        waited += before.elapsed();
    }
    assert!(waited > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_try_has_its_time_and_none_begins_after_that_of_the_request() {
    let (calls, rules) = (calls(2), Retries::default());
    let (mut tries, first) = begin(&calls, &rules, &Method::GET);
    assert_eq!(tries.deadline() - Instant::now(), Duration::from_millis(400));
    tokio::time::advance(Duration::from_millis(800)).await;
    assert_eq!(tries.deadline() - Instant::now(), Duration::from_millis(200));
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(tries.again(Reason::Unreachable, first, None).await.unwrap_err(), Stop::Time);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_reached_is_not_tried_at_the_same_place() {
    let (calls, rules) = (calls(1), Retries::default());
    let (mut tries, first) = begin(&calls, &rules, &Method::GET);
    assert_eq!(tries.again(Reason::Unreachable, first, None).await.unwrap_err(), Stop::Exhausted);
    assert_eq!(tries.again(Reason::RefusedStream, first, None).await.unwrap().endpoint(), first);
}

#[tokio::test(start_paused = true)]
async fn tries_end_with_their_number_and_with_the_budget() {
    let rules = Retries { attempts: 2, ..Retries::default() };
    let calls = calls(2);
    let (mut tries, first) = begin(&calls, &rules, &Method::GET);
    let second = tries.again(Reason::Reset, first, None).await.unwrap().endpoint();
    assert_eq!(tries.again(Reason::Reset, second, None).await.unwrap_err(), Stop::Exhausted);

    let none = Retries { budget_percent: 0, budget_per_second: 0, ..rules };
    let (mut tries, first) = begin(&calls, &none, &Method::GET);
    assert_eq!(tries.again(Reason::Reset, first, None).await.unwrap_err(), Stop::Budget);
}
