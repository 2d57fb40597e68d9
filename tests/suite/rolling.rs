//! Restarts one after the other, under load: not one request is lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use tokio::{sync::watch, task::JoinSet};
use tokio_stream::{StreamExt, wrappers::IntervalStream};

use crate::mesh::{Authority, Connection, Http, Port, Service, Sidecar, stream_of};

const OPEN: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// How much a stream of this test says, in about a third of a second.
const TICKS: usize = 30;

/// Answers `/stream` with ticks, everything else at once.
async fn app() -> Service {
    Service::start(|request| async move {
        if request.uri().path() != "/stream" {
            return Response::new(crate::mesh::body("ok"));
        }
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(10)));
        Response::new(stream_of(ticks.take(TICKS).map(|_| Frame::data(Bytes::from_static(b".")))))
    })
    .await
}

/// Calls again and again until told to stop, on connections that are kept for as long as the sidecar keeps them.
async fn calls(
    to: SocketAddr,
    version: Http,
    path: &'static str,
    want: usize,
    stop: Arc<AtomicBool>,
    done: Arc<watch::Sender<usize>>,
) {
    while !stop.load(Ordering::Relaxed) {
        let mut client = Connection::plain(to, version).await;
        for _ in 0..50 {
            let uri = format!("http://payments{path}");
            let request = Request::get(uri).header("host", "payments").body(Full::default()).unwrap();
            let answer = client.open(request).await.expect("an answer");
            let (head, body) = answer.into_parts();
            let body = body.collect().await.expect("a whole answer").to_bytes();
            assert_eq!(head.status, 200, "{path}: {:?}: {}", head.headers, body.escape_ascii());
            assert_eq!(body.len(), want, "{path}");
            done.send_modify(|done| *done += 1);
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_restarted_one_after_the_other_lose_no_request() {
    let (app, authority) = (app().await, Authority::new());
    let ports = [Port::Inbound(app.address, "protocol: auto")];
    let mut payments: Vec<Sidecar> =
        (0..2).map(|_| Sidecar::start("payments", &authority, OPEN, &ports)).collect();
    let (one, two) = (payments[0].inbound(), payments[1].inbound());
    let to_payments = [Port::Outbound("payments", one, "protocol: auto")];
    let orders = Sidecar::start("orders", &authority, OPEN, &to_payments);
    orders.configure(|text| text.replace(&format!("['{one}']"), &format!("['{one}', '{two}']")));
    orders.logged(|line| line["message"] == "configuration applied");

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(watch::Sender::new(0)));
    let mut load = JoinSet::new();
    for (version, path, want) in [
        (Http::One, "/", 2),
        (Http::Two, "/", 2),
        (Http::One, "/stream", TICKS),
        (Http::Two, "/stream", TICKS),
    ] {
        for _ in 0..3 {
            load.spawn(calls(orders.outbound(), version, path, want, Arc::clone(&stop), Arc::clone(&done)));
        }
    }
    for index in [0, 1, 0, 1] {
        at_least(&done, 200, &mut load).await;
        let (folder, address) = (payments[index].copy(), payments[index].inbound());
        let file = folder.path().join("proxy.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        // The place that it comes back to; the admin port, which stands before it, may change.
        let (head, rest) = text.split_at(text.find("inbound:").unwrap());
        std::fs::write(&file, format!("{head}{}", rest.replacen("127.0.0.1:0", &address.to_string(), 1)))
            .unwrap();
        payments[index].terminate();
        let ended = tokio::task::block_in_place(|| payments[index].wait());
        assert!(ended.success());
        payments[index] = tokio::task::block_in_place(|| Sidecar::start_in(folder, &ports));
        tokio::task::block_in_place(|| payments[index].applied(1));
    }
    at_least(&done, 200, &mut load).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.expect("no call was lost");
    }
}

/// Lets the load go on for so many calls more; one that is lost is told at once.
async fn at_least(done: &watch::Sender<usize>, more: usize, load: &mut JoinSet<()>) {
    let mut done = done.subscribe();
    let enough = *done.borrow() + more;
    tokio::select! {
        calls = tokio::time::timeout(crate::mesh::PATIENCE * 3, done.wait_for(|done| *done >= enough)) => {
            calls.expect("the load goes on").expect("it is counted");
        }
        Some(ended) = load.join_next() => {
            ended.expect("no call was lost");
            unreachable!("the load goes on until it is told to stop");
        }
    }
}
