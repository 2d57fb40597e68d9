//! Requests that stay open: judged again when policy changes, cut with a reason, and the cut reaches both ends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::IntervalStream};

use crate::mesh::{
    Authority, Body, PATIENCE, Port, Service, Sidecar, body, client_h1, client_h2, id, pieces, stream_of, tls,
};

const PATHS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules:
  - {name: watch, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/watch]}]}
  - {name: kept, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/kept]}]}
";

fn without_watch() -> String {
    PATHS.replace("[/watch]", "[/other]")
}

/// Answers that tick without end.
pub(crate) async fn ticking() -> Service {
    Service::start(|_| async {
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(10)));
        Response::new(stream_of(ticks.map(|_| Frame::data(Bytes::from_static(b"tick")))))
    })
    .await
}

fn get(target: &str) -> Request<Body> {
    let uri = format!("http://payments{target}");
    Request::builder().uri(uri).header("host", "payments").body(body("")).unwrap()
}

/// Whether the answer breaks off, and how long that took.
pub(crate) async fn breaks_off(mut answer: hyper::body::Incoming) -> Duration {
    let start = Instant::now();
    loop {
        match timeout(PATIENCE, answer.frame()).await.expect("a frame or an end") {
            Some(Ok(_)) => assert!(start.elapsed() < PATIENCE, "still open"),
            end => {
                assert!(end.is_some(), "a cut must not look like an end");
                return start.elapsed();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_is_cut_when_policy_no_longer_permits_it_and_its_neighbour_lives() {
    let (app, authority) = (ticking().await, Authority::new());
    let ports = [Port::Inbound(app.address, "protocol: http2")];
    let sidecar = Sidecar::start("payments", &authority, PATHS, &ports);
    let svid = authority.svid(&id("orders"));
    let stream = tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), b"h2").await.unwrap();
    let mut client = client_h2(stream).await;
    let watch = client.send_request(get("/watch")).await.unwrap().into_body();
    let mut kept = client.send_request(get("/kept")).await.unwrap().into_body();

    sidecar.replace("policies.yaml", &without_watch());
    let took = breaks_off(watch).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let line = sidecar.accessed(|line| line["path"] == "/watch");
    assert_eq!(
        (&line["code"], &line["verdict"], &line["status"]),
        (&"SG0207".into(), &"denied".into(), &200.into())
    );
    for _ in 0..20 {
        timeout(PATIENCE, kept.frame()).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_http1_answer_is_broken_off_through_both_sidecars() {
    let (app, authority) = (ticking().await, Authority::new());
    let ports = [Port::Inbound(app.address, "protocol: http")];
    let payments = Sidecar::start("payments", &authority, PATHS, &ports);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: http")];
    let orders = Sidecar::start("orders", &authority, PATHS, &to_payments);
    let mut client = client_h1(TcpStream::connect(orders.outbound()).await.unwrap()).await;
    let request = Request::builder().uri("/watch").header("host", "payments").body(body("")).unwrap();
    let watch = client.send_request(request).await.unwrap().into_body();

    payments.replace("policies.yaml", &without_watch());
    let took = breaks_off(watch).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    payments.accessed(|line| line["path"] == "/watch" && line["code"] == "SG0207");
    orders.accessed(|line| line["path"] == "/watch" && line["code"] == "SG0617");
}

/// Both halves end: the caller is answered, and the application sees its upload break off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_without_answer_is_refused_when_policy_no_longer_permits_it() {
    for (version, alpn) in [("http", &b"http/1.1"[..]), ("http2", b"h2")] {
        let (seen, mut ends) = mpsc::unbounded_channel();
        let app = Service::start(move |request| {
            let seen = seen.clone();
            async move {
                let mut upload = request.into_body();
                let _ = seen.send("begun");
                let end = loop {
                    match upload.frame().await {
                        Some(Ok(_)) => {}
                        Some(Err(_)) => break "broken",
                        None => break "complete",
                    }
                };
                let _ = seen.send(end);
                Response::new(body(""))
            }
        })
        .await;
        let authority = Authority::new();
        let ports = [Port::Inbound(app.address, &format!("protocol: {version}"))];
        let sidecar = Sidecar::start("payments", &authority, PATHS, &ports);
        let svid = authority.svid(&id("orders"));
        let link = tls(sidecar.inbound(), &authority, Some(&svid), &id("payments"), alpn).await.unwrap();
        let (upload, sent) = pieces();
        let request = Request::post("http://payments/watch").header("host", "payments").body(sent).unwrap();
        let answer = if version == "http2" {
            let mut link = client_h2(link).await;
            tokio::spawn(async move { link.send_request(request).await })
        } else {
            let mut link = client_h1(link).await;
            tokio::spawn(async move { link.send_request(request).await })
        };
        upload.send(Frame::data(Bytes::from_static(b"some"))).await.unwrap();
        assert_eq!(timeout(PATIENCE, ends.recv()).await.unwrap(), Some("begun"));

        sidecar.replace("policies.yaml", &without_watch());
        let answer = timeout(Duration::from_secs(1), answer).await.expect("an answer within a second");
        assert_eq!(answer.unwrap().unwrap().status(), 403, "{version}");
        // An application of HTTP/1.1 whose connection breaks may be stopped before it can say so.
        if version == "http2" {
            assert_eq!(timeout(PATIENCE, ends.recv()).await.unwrap(), Some("broken"));
        }
        sidecar.accessed(|line| line["path"] == "/watch" && line["code"] == "SG0207");
    }
}
