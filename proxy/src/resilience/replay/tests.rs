use std::convert::Infallible;

use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};

use super::*;

type Frames = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn body(pieces: &[&'static str]) -> Frames {
    let mut trailers = HeaderMap::new();
    trailers.insert("sum", "1".parse().unwrap());
    let data = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
    let frames: Vec<_> = data.chain([Frame::trailers(trailers)]).map(Ok).collect();
    StreamBody::new(stream::iter(frames))
}

fn held(pieces: &[&'static str], most: usize) -> Held<Frames> {
    Held::new(body(pieces), most)
}

async fn rest(body: &mut Sent<Frames>) -> Result<(String, bool), BoxError> {
    let collected = body.collect().await?;
    let has_trailers = collected.trailers().is_some();
    Ok((String::from_utf8(collected.to_bytes().to_vec()).unwrap(), has_trailers))
}

async fn one(body: &mut Sent<Frames>) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn another_turn_sends_all_of_it_from_the_beginning() {
    let held = held(&["ten ", "euros"], 64);
    let mut first = held.turn();
    assert_eq!(one(&mut first).await, "ten ");
    assert_eq!(rest(&mut held.turn()).await.unwrap(), ("ten euros".to_owned(), true));
    // All of it has come in by now.
    assert_eq!(rest(&mut held.turn()).await.unwrap(), ("ten euros".to_owned(), true));
}

#[tokio::test]
async fn the_turn_before_ends_with_an_error_and_not_like_a_whole_body() {
    let held = held(&["ten ", "euros"], 64);
    let mut first = held.turn();
    one(&mut first).await;
    let mut second = held.turn();
    assert!(!first.is_end_stream());
    assert!(rest(&mut first).await.is_err());
    assert_eq!(rest(&mut second).await.unwrap().0, "ten euros");
}

#[tokio::test]
async fn a_body_over_the_bound_is_passed_on_whole_and_kept_for_no_other_turn() {
    for (most, is_whole) in [(9, true), (8, false)] {
        let held = held(&["ten ", "euros"], most);
        let mut only = held.turn();
        assert_eq!(rest(&mut only).await.unwrap(), ("ten euros".to_owned(), true));
        assert_eq!(held.is_whole(), is_whole, "{most}");
    }
}

#[tokio::test]
async fn many_small_pieces_are_no_way_around_the_bound() {
    let held = held(&vec!["a"; MOST_PIECES + 1], usize::MAX);
    assert_eq!(rest(&mut held.turn()).await.unwrap().0.len(), MOST_PIECES + 1);
    assert!(!held.is_whole());
}

#[tokio::test]
async fn once_an_answer_has_begun_nothing_is_held_any_more() {
    let held = held(&["ten ", "euros"], 64);
    let mut first = held.turn();
    one(&mut first).await;
    let mut second = held.turn();
    let kept = Rc::clone(held.0.as_ref().unwrap());
    drop(held);
    assert_eq!(rest(&mut second).await.unwrap(), ("ten euros".to_owned(), true));
    assert!(kept.pieces.borrow().is_empty());
}

#[tokio::test]
async fn the_length_of_another_turn_is_that_of_the_whole() {
    let held = Held::new(Full::new(Bytes::from_static(b"ten euros")), 64);
    let mut first = held.turn();
    assert_eq!(first.size_hint().exact(), Some(9));
    first.frame().await.unwrap().unwrap();
    assert!(first.is_end_stream() && held.has_ended());
    let second = held.turn();
    assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(9), false));
}

#[test]
fn a_request_without_a_body_costs_no_copy() {
    let held = Held::new(Full::new(Bytes::new()), 64);
    assert!(held.0.is_none() && held.is_whole());
    assert!(held.turn().is_end_stream());
}
