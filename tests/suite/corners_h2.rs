//! Corner cases of HTTP/2 and of gRPC on it, through a pair of sidecars.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Frame, client::conn::http2::SendRequest};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};

use crate::mesh::{
    App, Authority, Body, Connection, Http, PATIENCE, Port, Service, Sidecar, body, client_h2, pieces,
};

const OPEN: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

fn pair(app: SocketAddr, protocol: &str) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let inbound = format!("protocol: {protocol}");
    let payments = Sidecar::start("payments", &authority, OPEN, &[Port::Inbound(app, &inbound)]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: auto")];
    let orders = Sidecar::start("orders", &authority, OPEN, &to_payments);
    (orders, payments)
}

async fn client(orders: &Sidecar) -> SendRequest<Body> {
    client_h2(TcpStream::connect(orders.outbound()).await.unwrap()).await
}

fn call(body: Body) -> Request<Body> {
    let request = Request::post("http://payments/shop.v1.Ledger/Watch").header("te", "trailers");
    request.header("content-type", "application/grpc").body(body).unwrap()
}

/// A gRPC server: sends back each message as it comes, and ends with trailers that count them. An `x-only` field asks for
/// trailers only.
async fn ledger() -> (Service, mpsc::UnboundedReceiver<&'static str>) {
    let (told, ends) = mpsc::unbounded_channel();
    let service = Service::start(move |request: Request<hyper::body::Incoming>| {
        let told = told.clone();
        async move {
            let grpc = Response::builder().header("content-type", "application/grpc");
            if request.headers().contains_key("x-only") {
                return grpc.header("grpc-status", "5").header("grpc-message", "no").body(body("")).unwrap();
            }
            assert_eq!(request.headers()["te"], "trailers");
            let mut calls = request.into_body();
            let (answers, answer) = pieces();
            tokio::spawn(async move {
                let mut count = 0;
                loop {
                    match calls.frame().await {
                        Some(Ok(frame)) => {
                            let message = frame.into_data().unwrap();
                            // The end of a stream may come in a frame of its own.
                            count += usize::from(!message.is_empty());
                            let _ = answers.send(Frame::data(message)).await;
                        }
                        Some(Err(_)) => {
                            let _ = told.send("broken");
                            return;
                        }
                        None => break,
                    }
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("x-count", count.to_string().parse().unwrap());
                let _ = answers.send(Frame::trailers(trailers)).await;
                let _ = told.send("complete");
            });
            grpc.body(answer).unwrap()
        }
    })
    .await;
    (service, ends)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_grpc_pass_one_by_one_both_ways_and_end_with_trailers() {
    let (app, mut ends) = ledger().await;
    let (orders, _payments) = pair(app.address, "http2");
    let mut client = client(&orders).await;
    // Unary and server streaming are one message up, client streaming is many: here are several, each answered at once.
    for messages in [1, 5] {
        let (calls, sent) = pieces();
        let answer = tokio::spawn(client.send_request(call(sent)));
        calls.send(Frame::data(Bytes::from_static(b"message"))).await.unwrap();
        let mut answers = timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap().into_body();
        for number in 0..messages {
            let frame =
                timeout(PATIENCE, answers.frame()).await.expect("an answer to each").unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "message");
            if number + 1 < messages {
                calls.send(Frame::data(Bytes::from_static(b"message"))).await.unwrap();
            }
        }
        drop(calls);
        let trailers =
            timeout(PATIENCE, answers.frame()).await.unwrap().unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-count"]),
            (&"0".parse().unwrap(), &messages.to_string().parse().unwrap())
        );
        assert_eq!(ends.recv().await, Some("complete"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_trailers_only_stays_one() {
    let (app, _ends) = ledger().await;
    let (orders, _payments) = pair(app.address, "http2");
    let mut request = call(body(""));
    request.headers_mut().insert("x-only", "1".parse().unwrap());
    let answer = client(&orders).await.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"5".parse().unwrap()));
    assert!(hyper::body::Body::is_end_stream(answer.body()), "no frame follows the head");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_its_client_cancels_is_cancelled_at_the_server() {
    let (app, mut ends) = ledger().await;
    let (orders, _payments) = pair(app.address, "http2");
    let mut client = client(&orders).await;
    let (calls, sent) = pieces();
    let answer = tokio::spawn(client.send_request(call(sent)));
    calls.send(Frame::data(Bytes::from_static(b"message"))).await.unwrap();
    let mut answers = timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap().into_body();
    timeout(PATIENCE, answers.frame()).await.unwrap().unwrap().unwrap();
    // Both halves go: the stream is reset, and the connection stays.
    drop((answers, calls));
    let end = timeout(PATIENCE, ends.recv()).await.expect("the server is told").unwrap();
    assert!(matches!(end, "broken" | "complete"), "{end}");
    let mut request = call(body(""));
    request.headers_mut().insert("x-only", "1".parse().unwrap());
    assert_eq!(client.send_request(request).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_of_grpc_bounds_the_sidecars_own_wait() {
    let app = Service::start(|_| std::future::pending()).await;
    let (orders, payments) = pair(app.address, "http2");
    let mut request = call(body(""));
    request.headers_mut().insert("grpc-timeout", "1S".parse().unwrap());
    let start = Instant::now();
    let answer =
        timeout(PATIENCE, client(&orders).await.send_request(request)).await.expect("an answer").unwrap();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(answer.headers()["grpc-status"], "4", "DEADLINE_EXCEEDED");
    orders.accessed(|line| line["code"] == "SG0602");
    drop(payments);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_takes_fewer_streams_makes_no_call_wait_behind_a_long_one() {
    let app = Service::with_streams(2, |_| async {
        let (held, answer) = pieces();
        // For as long as the client listens.
        tokio::spawn(async move { held.closed().await });
        Response::new(answer)
    })
    .await;
    let (orders, _payments) = pair(app.address, "http2");
    let mut client = client(&orders).await;
    let mut open = Vec::new();
    for number in 0..9 {
        let request = Request::get("http://payments/").body(body("")).unwrap();
        let answer = timeout(PATIENCE, client.send_request(request)).await;
        open.push(answer.unwrap_or_else(|_| unreachable!("call {number} waits")).unwrap());
    }
    assert!(open.iter().all(|answer| answer.status() == 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_and_large_messages_share_one_connection() {
    let app = App::start().await;
    let (orders, _payments) = pair(app.address, "http2");
    let client = client(&orders).await;
    let message = Bytes::from(vec![7; 1 << 20]);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (mut client, message) = (client.clone(), message.clone());
        calls.spawn(async move {
            let request = Request::post("http://payments/").body(body(message)).unwrap();
            let answer = client.send_request(request).await.unwrap();
            answer.into_body().collect().await.unwrap().to_bytes().len()
        });
    }
    let sizes = timeout(PATIENCE * 3, calls.join_all()).await.expect("an end of all");
    assert_eq!(sizes, vec![message.len(); 64]);
}

#[tokio::test]
async fn an_application_speaks_h2c_with_prior_knowledge_to_any_port_of_http() {
    let app = App::start().await;
    let authority = Authority::new();
    let payments =
        Sidecar::start("payments", &authority, OPEN, &[Port::Inbound(app.address, "protocol: http")]);
    for protocol in ["auto", "http", "http2"] {
        let fields = format!("protocol: {protocol}");
        let to_payments = [Port::Outbound("payments", payments.inbound(), &fields)];
        let orders = Sidecar::start("orders", &authority, OPEN, &to_payments);
        let mut client = Connection::plain(orders.outbound(), Http::Two).await;
        let request =
            Request::get("http://payments/").body(http_body_util::Full::from("get with a body")).unwrap();
        let reply = client.send(request).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, "get with a body"), "{protocol}");
    }
}
