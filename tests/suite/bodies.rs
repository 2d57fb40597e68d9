//! Bodies through a pair of sidecars: their trailers between all versions, and as many bytes as anybody likes in memory that
//! stays the same.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::net::TcpStream;

use crate::mesh::{Authority, Body, Http, Port, Service, Sidecar, client_h1, client_h2, pieces, stream_of};

const OPEN: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// In front of an application that speaks `version`.
fn pair(app: SocketAddr, version: Http) -> (Sidecar, Sidecar) {
    let authority = Authority::new();
    let inbound = if version == Http::Two { "protocol: http2" } else { "protocol: http" };
    let payments = Sidecar::start("payments", &authority, OPEN, &[Port::Inbound(app, inbound)]);
    let to_payments = [Port::Outbound("payments", payments.inbound(), "protocol: auto")];
    let orders = Sidecar::start("orders", &authority, OPEN, &to_payments);
    (orders, payments)
}

/// `POST /` with `body`, whose trailers HTTP/1.1 wants to know in advance.
async fn post(orders: &Sidecar, version: Http, body: Body) -> Response<Incoming> {
    let tcp = TcpStream::connect(orders.outbound()).await.unwrap();
    let request = Request::post(if version == Http::Two { "http://payments/" } else { "/" });
    let request = request.header("te", "trailers").header("trailer", "x-sum");
    match version {
        Http::One => {
            let request = request.header("host", "payments").header("connection", "te").body(body).unwrap();
            client_h1(tcp).await.send_request(request).await.unwrap()
        }
        Http::Two => client_h2(tcp).await.send_request(request.body(body).unwrap()).await.unwrap(),
    }
}

fn with_trailers(bytes: &'static str, fields: &[(&'static str, &str)]) -> Body {
    let trailers: HeaderMap =
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    stream_of(tokio_stream::iter([
        Frame::data(Bytes::from_static(bytes.as_bytes())),
        Frame::trailers(trailers),
    ]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_both_ways_between_all_versions_without_what_claims_an_identity() {
    let sent = [("x-sum", "42"), ("x-sidegate-peer", "admin"), ("authorization", "Bearer x")];
    for to in [Http::One, Http::Two] {
        // It answers with the trailers that it got.
        let app = Service::start(|request: Request<Incoming>| async move {
            let got = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
            assert_eq!(got.keys().collect::<Vec<_>>(), ["x-sum"], "{got:?}");
            let sum = got["x-sum"].to_str().unwrap().to_owned();
            let answer = with_trailers("answer", &[("x-sum", &sum), ("x-forwarded-client-cert", "forged")]);
            Response::builder().header("trailer", "x-sum").body(answer).unwrap()
        })
        .await;
        let (orders, _payments) = pair(app.address, to);
        for from in [Http::One, Http::Two] {
            let answer = post(&orders, from, with_trailers("question", &sent)).await;
            let versions = format!("from {from:?} to {to:?}");
            assert_eq!(answer.status(), 200, "{versions}");
            let answer = answer.into_body().collect().await.unwrap();
            let trailers = answer.trailers().expect(&versions).clone();
            assert_eq!(trailers.get("x-sum"), Some(&HeaderValue::from_static("42")), "{versions}");
            assert_eq!(trailers.len(), 1, "{versions}: {trailers:?}");
            assert_eq!(answer.to_bytes(), "answer", "{versions}");
        }
    }
}

/// Both at once, and each far more than the sidecars may hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_any_length_pass_both_ways_in_constant_memory() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 800;
    const MOST_GROWTH: u64 = 16 << 20;
    for (from, to) in [(Http::One, Http::One), (Http::Two, Http::Two)] {
        // What comes in goes out.
        let app = Service::start(|request: Request<Incoming>| async move {
            let frames = http_body_util::BodyStream::new(request.into_body());
            Response::new(stream_of(tokio_stream::StreamExt::map_while(frames, Result::ok)))
        })
        .await;
        let (orders, payments) = pair(app.address, to);
        let (upload, body) = pieces();
        let mut answer = post(&orders, from, body).await.into_body();
        let mut begun = [0; 2];
        let sending = tokio::spawn(async move {
            for _ in 0..PIECES {
                upload.send(Frame::data(Bytes::from(vec![7; PIECE]))).await.unwrap();
            }
        });
        let mut bytes = 0;
        while let Some(frame) = answer.frame().await {
            bytes += frame.unwrap().into_data().map_or(0, |bytes| bytes.len());
            if begun[0] == 0 && bytes > 100 * PIECE {
                begun = [orders.resident_bytes(), payments.resident_bytes()];
            }
        }
        sending.await.unwrap();
        assert_eq!(bytes, PIECES * PIECE);
        for (sidecar, begun) in [&orders, &payments].into_iter().zip(begun) {
            let grown = sidecar.resident_bytes().saturating_sub(begun);
            assert!(grown < MOST_GROWTH, "from {from:?} to {to:?}: {grown} bytes more");
        }
    }
}
