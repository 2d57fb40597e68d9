use super::*;

const OLD: &str = "aa11";
const NEW: &str = "bb22";

fn root(fingerprint: &str) -> Root {
    Root { fingerprint: fingerprint.to_owned(), file: format!("root-{fingerprint}.key") }
}

fn prepared() -> State {
    State::steady(root(OLD)).start(root(NEW), Cause::Operator, 1).unwrap()
}

/// When every wait of this state is over but an urgent one's.
fn after(state: &State) -> Moment {
    Moment { now_ms: state.since_ms + 10_000_000, up: Duration::ZERO, margin: Duration::from_secs(1) }
}

fn next(state: &State) -> State {
    state.advance(&Roll::default(), "", after(state)).unwrap()
}

fn phase(state: &State) -> (&str, &str, Option<&str>) {
    let other = state.other().map(|root| root.fingerprint.as_str());
    (state.phase.name(), &state.signing.fingerprint, other)
}

#[test]
fn the_phases_follow_each_other_and_the_new_root_signs_in_the_end() {
    let prepare = prepared();
    let activate = next(&prepare);
    let retire = next(&activate);
    let destroy = next(&retire);
    let steady = destroy.destroyed(2);
    assert_eq!(phase(&prepare), ("prepare", OLD, Some(NEW)));
    assert_eq!(phase(&activate), ("activate", NEW, Some(OLD)));
    assert_eq!(phase(&retire), ("retire", NEW, Some(OLD)));
    assert_eq!(phase(&destroy), ("destroy", NEW, Some(OLD)));
    assert_eq!(phase(&steady), ("steady", NEW, None));
    assert_eq!(destroy.advance(&Roll::default(), "", after(&destroy)), None, "the key is deleted first");
}

#[test]
fn both_roots_are_trusted_exactly_while_one_of_them_may_be_needed() {
    let (prepare, activate) = (prepared(), next(&prepared()));
    assert_eq!(prepare.also_trusted(), Some(&root(NEW)));
    assert_eq!(activate.also_trusted(), Some(&root(OLD)));
    assert_eq!(next(&activate).also_trusted(), None);
}

#[test]
fn a_phase_lasts_for_as_long_as_a_handshake_of_the_one_before_may() {
    let early = Moment { now_ms: 1_000, ..after(&prepared()) };
    assert_eq!(prepared().advance(&Roll::default(), "", early), None);
}

#[test]
fn a_rotation_under_way_is_not_begun_again() {
    assert_eq!(prepared().start(root("cc"), Cause::Expiry, 2), Err(Refused::Running(1)));
}

#[test]
fn an_abort_goes_back_as_long_as_the_old_root_is_trusted() {
    let prepare = prepared();
    assert_eq!(phase(&prepare.abort(5).unwrap()), ("retire", OLD, Some(NEW)));
    let activate = next(&prepare);
    let back = activate.abort(5).unwrap();
    assert_eq!(phase(&back), ("activate", OLD, Some(NEW)));
    assert_eq!(phase(&next(&back)), ("retire", OLD, Some(NEW)));
    let retire = next(&activate);
    assert_eq!(retire.abort(5), Err(Refused::TooLate));
    assert_eq!(next(&retire).abort(5), Err(Refused::TooLate));
    assert_eq!(State::steady(root(OLD)).abort(5), Err(Refused::NotRunning));
}

#[test]
fn nothing_leads_back_to_a_tainted_root() {
    let tainted = State::steady(root(OLD)).start(root(NEW), Cause::Taint, 1).unwrap();
    assert_eq!(tainted.abort(2), Err(Refused::BackToTainted));
    assert_eq!(next(&tainted).abort(2), Err(Refused::BackToTainted));
    // The other one is known to others, too: the way goes forward, and then again.
    assert_eq!(next(&tainted).taint(Some(NEW), 2), Err(Refused::BackToTainted));
}

#[test]
fn a_taint_hurries_the_root_that_leaves_and_turns_round_for_the_one_that_comes() {
    let Tainted::Now(hurried) = prepared().taint(Some("aa"), 2).unwrap() else { panic!("one comes already") };
    assert_eq!((phase(&hurried), hurried.urgent), (("prepare", OLD, Some(NEW)), true));
    let Tainted::Now(turned) = next(&prepared()).taint(None, 2).unwrap() else {
        panic!("one leaves already")
    };
    assert_eq!((phase(&turned), turned.urgent), (("activate", OLD, Some(NEW)), true));
    assert_eq!(turned.tainted.as_deref(), Some(NEW));
    let retire = next(&next(&prepared()));
    assert_eq!(retire.taint(None, 2), Err(Refused::StillRetiring));
    for unknown in ["", "cc"] {
        assert_eq!(prepared().taint(Some(unknown), 2), Err(Refused::UnknownRoot(unknown.to_owned())));
    }
}

#[test]
fn a_root_is_replaced_in_its_last_fifth_and_not_again_at_once_after_an_abort() {
    let due = |now, held| is_due((0, 1_000_000), Duration::from_mins(1), held, now);
    assert!(!due(799_999, 0) && due(800_000, 0));
    assert!(!due(800_000, 850_000) && due(850_000, 850_000));
    assert!(due(900_000, u64::MAX), "expiry is worse than an operator's surprise");
    // A root that lives for little longer than its leaves is left alone for half of its life.
    assert!(
        !is_due((0, 100), Duration::from_mins(1), 0, 49) && is_due((0, 100), Duration::from_mins(1), 0, 50)
    );
}

#[test]
fn a_state_that_is_not_understood_is_no_state() {
    let text = serde_json::to_string(&prepared()).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), prepared());
    assert!(serde_json::from_str::<State>(&text.replace("prepare", "ponder")).is_err());
    assert!(serde_json::from_str::<State>(&text.replace("\"urgent\"", "\"patient\"")).is_err());
}
