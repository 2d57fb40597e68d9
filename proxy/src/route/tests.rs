mod documentation;

use std::pin::pin;

use super::*;
use crate::config::HeaderChanges;

fn backends(weights: &[u32]) -> Vec<Backend> {
    let named = weights.iter().enumerate().map(|(index, weight)| Backend {
        service: format!("shop/{index}").parse().unwrap(),
        weight: *weight,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
    });
    named.collect()
}

#[test]
fn backends_get_their_share_and_weight_zero_gets_nothing() {
    let (backends, chance) = (backends(&[90, 0, 10]), Chance::new(7));
    let mut counts = [0_u32; 3];
    for _ in 0..20_000 {
        let name = &weighted(&backends, &chance).unwrap().service;
        counts[backends.iter().position(|backend| backend.service == *name).unwrap()] += 1;
    }
    // Six standard deviations of a binomial of 20,000 at 0.1 are 255.
    assert!((1_745..=2_255).contains(&counts[2]), "{counts:?}");
    assert_eq!(counts[1], 0);
}

#[test]
fn where_nobody_has_a_weight_nobody_is_chosen() {
    assert!(weighted(&backends(&[0, 0]), &Chance::new(7)).is_none());
}

#[test]
fn a_share_of_none_never_happens_and_a_share_of_all_always_does() {
    let chance = Chance::new(7);
    let of = |numerator, denominator| crate::config::Share { numerator, denominator };
    assert!((0..1_000).all(|_| chance.is_in(of(100, 100)) && !chance.is_in(of(0, 100))));
    let hits = (0..20_000).filter(|_| chance.is_in(of(1, 4))).count();
    // Six standard deviations of a binomial of 20,000 at 0.25 are 367.
    assert!((4_633..=5_367).contains(&hits), "{hits}");
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_the_rule_allows_is_given_up() {
    let slow = pin!(async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    });
    let error = within(Some(Duration::from_secs(1)), slow).await.unwrap_err();
    assert_eq!((error.code(), error.status().as_u16()), (Code::RouteTimeout, 504));
    assert!(within(Some(Duration::from_secs(1)), pin!(async { Ok(()) })).await.is_ok());
}
