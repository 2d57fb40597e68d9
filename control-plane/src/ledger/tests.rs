use sidegate_proto::v1::{self, EdgeCell, ReportRequest};

use super::{cell::BadCell, report::BadReport, *};

const NOW: u64 = 1_800_000_000_000;
const ORDERS: &str = "spiffe://shop.test/ns/shop/sa/orders";
const PAYMENTS: &str = "spiffe://shop.test/ns/shop/sa/payments";

fn cell() -> EdgeCell {
    EdgeCell {
        direction: v1::Direction::Inbound.into(),
        source: ORDERS.into(),
        destination: PAYMENTS.into(),
        port: 8080,
        protocol: "http1".into(),
        tls: v1::TlsState::Mutual.into(),
        verdict: v1::Verdict::Allowed.into(),
        count: 10,
        latency: vec![0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        first_seen_ms: i64::try_from(NOW).unwrap() - 1000,
        last_seen_ms: i64::try_from(NOW).unwrap(),
        ..EdgeCell::default()
    }
}

fn request(sequence: u64, cells: Vec<EdgeCell>) -> ReportRequest {
    ReportRequest { instance: "0".repeat(32), sequence, covers_ms: 5000, cells, dropped: 0 }
}

fn report_at(sequence: u64, cells: Vec<EdgeCell>, now_ms: u64) -> Report {
    let reporter = SpiffeId::parse(PAYMENTS).unwrap();
    Report::check(request(sequence, cells), &reporter, now_ms).unwrap()
}

fn fault(change: impl FnOnce(&mut EdgeCell)) -> BadCell {
    let mut cell = cell();
    change(&mut cell);
    let reporter = SpiffeId::parse(PAYMENTS).unwrap();
    match Report::check(request(1, vec![self::cell(), cell]), &reporter, NOW).unwrap_err() {
        BadReport::Cell { position: 1, fault } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn counts_of_one_edge_add_up_and_its_latency_has_quantiles() {
    let ledger = Ledger::default();
    ledger.add(report_at(1, vec![cell()], NOW), NOW);
    ledger.add(report_at(2, vec![cell()], NOW + 5000), NOW + 5000);
    let edges = ledger.edges(HOUR_MS, NOW + 5000);
    let [edge] = edges.as_slice() else { panic!("{edges:?}") };
    assert_eq!(edge.counts.count, 20);
    assert!((edge.rps - 2.0).abs() < f64::EPSILON, "by the newest report: {}", edge.rps);
    assert!(edge.p50_ms.is_some_and(|p50| (1.0..=2.5).contains(&p50)));
    assert_eq!(edge.counts.first_seen_ms, NOW - 1000);
}

#[test]
fn a_batch_that_comes_twice_is_counted_once() {
    let ledger = Ledger::default();
    assert!(ledger.add(report_at(1, vec![cell()], NOW), NOW));
    assert!(!ledger.add(report_at(1, vec![cell()], NOW), NOW));
    assert_eq!(ledger.edges(HOUR_MS, NOW)[0].counts.count, 10);
}

#[test]
fn one_identity_does_not_spend_anothers_sequence() {
    let ledger = Ledger::default();
    ledger.add(report_at(9, vec![cell()], NOW), NOW);
    let orders = SpiffeId::parse(ORDERS).unwrap();
    let outbound = EdgeCell { direction: v1::Direction::Outbound.into(), ..cell() };
    assert!(ledger.add(Report::check(request(1, vec![outbound]), &orders, NOW).unwrap(), NOW));
}

#[test]
fn a_window_holds_its_minutes_and_the_hour_forgets() {
    let ledger = Ledger::default();
    ledger.add(report_at(1, vec![cell()], NOW), NOW);
    let later = NOW + 10 * MINUTE_MS;
    assert!(ledger.edges(MINUTE_MS, later).is_empty());
    assert_eq!(ledger.edges(HOUR_MS, later).len(), 1);
    assert!(ledger.edges(HOUR_MS, later)[0].rps.abs() < f64::EPSILON, "an old report says no rate");
    let much_later = NOW + HOUR_MS + 2 * MINUTE_MS;
    ledger.add(report_at(2, vec![], much_later), much_later);
    assert_eq!(ledger.size(), (0, 0));
}

#[test]
fn one_identity_that_invents_edges_leaves_room_for_others_and_the_rest_is_counted() {
    let ledger = Ledger::default();
    let invented = |number| EdgeCell { rule: format!("rule-{number}"), ..cell() };
    let cells = (0..=MAX_EDGES_PER_IDENTITY).map(invented).collect();
    ledger.add(report_at(1, cells, NOW), NOW);
    assert_eq!(ledger.size(), (MAX_EDGES_PER_IDENTITY, 10));
    let orders = SpiffeId::parse(ORDERS).unwrap();
    let outbound = EdgeCell { direction: v1::Direction::Outbound.into(), ..cell() };
    ledger.add(Report::check(request(1, vec![outbound]), &orders, NOW).unwrap(), NOW);
    assert_eq!(ledger.size(), (MAX_EDGES_PER_IDENTITY + 1, 10));
}

#[test]
fn an_edge_that_is_forgotten_gives_its_room_back() {
    let ledger = Ledger::default();
    let invented = |number| EdgeCell { rule: format!("rule-{number}"), ..cell() };
    let cells: Vec<_> = (0..MAX_EDGES_PER_IDENTITY).map(invented).collect();
    ledger.add(report_at(1, cells.clone(), NOW), NOW);
    let later = NOW + HOUR_MS + 2 * MINUTE_MS;
    let others = cells.into_iter().map(|cell| EdgeCell { port: 1, ..cell }).collect();
    ledger.add(report_at(2, others, later), later);
    assert_eq!(ledger.size(), (MAX_EDGES_PER_IDENTITY, 0));
}

#[test]
fn a_reporter_that_is_not_its_own_side_of_the_edge_is_refused() {
    assert_eq!(fault(|cell| cell.destination = ORDERS.into()), BadCell::Foreign);
    assert_eq!(fault(|cell| cell.destination = String::new()), BadCell::Foreign);
    assert_eq!(fault(|cell| cell.direction = v1::Direction::Outbound.into()), BadCell::Foreign);
}

#[test]
fn unknown_words_and_values_out_of_range_refuse_the_batch() {
    assert_eq!(fault(|cell| cell.direction = 0), BadCell::Unknown("direction"));
    assert_eq!(fault(|cell| cell.tls = 9), BadCell::Unknown("tls"));
    assert_eq!(fault(|cell| cell.verdict = 0), BadCell::Unknown("verdict"));
    assert_eq!(fault(|cell| cell.protocol = "gopher".into()), BadCell::Unknown("protocol"));
    assert_eq!(fault(|cell| cell.code = "SG9999".into()), BadCell::Unknown("code"));
    assert_eq!(fault(|cell| cell.source = "orders".into()), BadCell::Identity("source"));
    assert_eq!(fault(|cell| cell.port = 65_536), BadCell::Range("port"));
    assert_eq!(fault(|cell| cell.latency = vec![1; 3]), BadCell::Range("latency"));
    assert_eq!(fault(|cell| cell.first_seen_ms = -1), BadCell::Range("first_seen_ms"));
    assert_eq!(fault(|cell| cell.rule = "r".repeat(2000)), BadCell::Range("rule"));
}

#[test]
fn a_sidecars_clock_that_is_ahead_is_not_believed() {
    let ahead = EdgeCell { last_seen_ms: i64::MAX, ..cell() };
    let report = report_at(1, vec![ahead], NOW);
    assert_eq!(report.cells[0].counts.last_seen_ms, NOW);
}

#[test]
fn a_batch_out_of_form_is_refused() {
    let reporter = SpiffeId::parse(PAYMENTS).unwrap();
    let refusal = |change: fn(&mut ReportRequest)| {
        let mut request = request(1, vec![]);
        change(&mut request);
        Report::check(request, &reporter, NOW).unwrap_err()
    };
    assert_eq!(refusal(|request| request.instance = "x".into()), BadReport::Instance);
    assert_eq!(refusal(|request| request.sequence = 0), BadReport::Sequence);
    assert_eq!(refusal(|request| request.covers_ms = 0), BadReport::Covers);
    assert_eq!(refusal(|request| request.cells = vec![EdgeCell::default(); 10_001]), BadReport::TooManyCells);
}
