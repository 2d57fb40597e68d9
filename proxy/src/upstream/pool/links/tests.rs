use std::rc::Rc;

use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::{
    config::Limits,
    mux::{self, Side},
};

/// A link that nobody drives, and its terms.
fn link(retires_in: Option<Duration>) -> (mux::Link<DuplexStream>, Terms) {
    let (near, _) = duplex(64);
    let bounds = mux::Bounds::of(&Limits::default(), Duration::from_secs(30));
    let terms = Terms::until(retires_in.map(|left| Instant::now() + left));
    (mux::Link::new(near, Side::Client, bounds), terms)
}

#[test]
fn few_at_once_have_connections_of_their_own_and_more_share_links() {
    let links = Links::new(true);
    let mut lent: Vec<_> = (0..4).map(|_| links.lend()).collect();
    assert!(!links.are_better());
    lent.push(links.lend());
    assert!(links.are_better());
    lent.pop();
    assert!(!links.are_better());
}

#[test]
fn a_peer_that_takes_no_links_is_not_asked_again() {
    let links = Links::new(true);
    let _lent: Vec<_> = (0..9).map(|_| links.lend()).collect();
    links.refused();
    assert!(!links.are_better());
    assert!(!Links::new(false).are_taken(), "nor is whoever is no sidecar");
}

#[tokio::test(start_paused = true)]
async fn streams_over_what_one_link_carries_go_over_another() {
    let (links, now) = (Links::new(true), Instant::now());
    let (first, terms) = link(None);
    links.add(first.opener(), terms);
    let open: Vec<_> = std::iter::from_fn(|| links.open(Until::Retired, now)).collect();
    assert_eq!(open.len(), 32);
    let (second, terms) = link(None);
    links.add(second.opener(), terms);
    assert!(links.open(Until::Retired, now).is_some());
    drop(open);
    assert!(links.open(Until::Retired, now).is_some());
    assert_eq!((first.opener().count(), second.opener().count()), (0, 0), "none is kept");
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_with_a_certificate_has_most_of_its_life_before_it() {
    let links = Links::new(true);
    let (driven, terms) = link(Some(Duration::from_secs(40)));
    links.add(driven.opener(), terms);
    let opens = |until| links.open(until, Instant::now()).is_some();
    assert!(opens(Until::Old));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(!opens(Until::Old));
    assert!(opens(Until::Retired), "what ends between two requests goes on");
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(!opens(Until::Retired));
    assert!(!driven.opener().is_open(), "the link ends with its last stream");
}

#[tokio::test(start_paused = true)]
async fn a_link_is_kept_while_somebody_may_want_it_and_no_longer() {
    let links = Links::new(true);
    assert!(links.is_empty());
    let (driven, terms) = link(None);
    links.add(driven.opener(), terms);
    assert!(!links.is_empty());
    drop(driven);
    links.prune(Instant::now());
    assert!(links.is_empty(), "it is over");

    let lent = links.lend();
    assert!(!links.is_empty(), "whoever is counted is counted to the end");
    drop(lent);
    let (driven, terms) = link(None);
    links.add(driven.opener(), terms);
    Rc::clone(&links).close();
    assert!(!driven.opener().is_open());
}
