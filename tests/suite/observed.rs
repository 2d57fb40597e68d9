//! `enforcement: Observe` together with somebody who decides beside policy: what is asked, what is recorded, and that what was let
//! in by it alone ends when enforcement begins.

use std::{net::SocketAddr, time::Instant};

use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::time::timeout;

use crate::mesh::{App, Connection, ControlPlane, Decider, Http, Member, PATIENCE, Says, endless, no, ok};

const POLICY: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  selector: {app: payments}
  action: Allow
  rules: [{name: charge, from: [{serviceAccounts: [shop/orders]}], to: [{paths: [/charge]}]}]
";

const OBSERVE: &str = "enforcement: Observe\n";

/// `orders`' call of `payments`, whose sidecar asks a decider.
struct Stage {
    control_plane: ControlPlane,
    _payments: Member,
    orders: Member,
}

impl Stage {
    async fn new(app: SocketAddr, protocol: &str, decider: &Decider, policies: &str) -> Self {
        let control_plane = ControlPlane::start("100ms", policies);
        let inbound = format!(
            "inbound: [{{listen: '127.0.0.1:0', forward: '{app}', protocol: {protocol}}}]\nworkers: 1\n\
             externalAuthorization: {{address: '{}', timeout: 10s, setHeaders: [x-user], breaker: {{failures: 99}}}}",
            decider.address
        );
        let payments = Member::start("payments", &control_plane, &inbound);
        let outbound =
            format!("outbound: [{{listen: '127.0.0.1:0', service: shop/payments, protocol: {protocol}}}]");
        let orders = Member::start("orders", &control_plane, &outbound);
        control_plane.serves_both().await;
        Self { control_plane, _payments: payments, orders }
    }

    async fn client(&self, version: Http) -> Connection {
        Connection::plain(self.orders.address("outbound"), version).await
    }

    /// Until a request for `path` is answered so.
    async fn until(&self, version: Http, path: &str, status: u16) {
        let mut client = self.client(version).await;
        let deadline = Instant::now() + PATIENCE;
        while open(&mut client, path).await.status() != status {
            assert!(Instant::now() < deadline, "{path} is never answered with {status}");
        }
    }

    /// The ledger has it as admitted, with the code that would have refused it.
    async fn recorded(&self, code: &str) {
        let is_it = |edge: &serde_json::Value| {
            edge["direction"] == "inbound" && edge["verdict"] == "would_deny" && edge["code"] == code
        };
        self.control_plane.edge(is_it).await;
    }
}

/// With a field of the decider's that the caller has made up.
async fn open(client: &mut Connection, path: &str) -> http::Response<hyper::body::Incoming> {
    let request = Request::get(format!("http://payments{path}")).header("host", "payments");
    client.open(request.header("x-user", "root").body(Full::default()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn under_observe_it_is_asked_about_what_policy_permits_and_its_word_is_recorded_and_not_applied() {
    let app = App::start().await;
    let decider = Decider::start(Says::Answer(ok(&[("x-user", "anna")], &[]))).await;
    let stage = Stage::new(app.address, "http", &decider, POLICY).await;
    stage.control_plane.extend(OBSERVE);
    stage.until(Http::One, "/refund", 200).await;
    assert!(decider.asked().is_empty(), "nobody is asked about what policy would not permit");
    stage.recorded("SG0202").await;

    let mut client = stage.client(Http::One).await;
    for (says, code) in [
        (Says::Answer(ok(&[("x-user", "anna")], &[])), None),
        (Says::Answer(no(7, 0)), Some("SG0250")),
        (Says::Fails(14), Some("SG0251")),
        (Says::Answer(ok(&[(":path", "/refund")], &[])), Some("SG0252")),
    ] {
        let asked = decider.asked().len();
        decider.says(says);
        assert_eq!(client.status("GET", "/charge").await, 200, "{code:?}");
        assert_eq!(decider.asked().len(), asked + 1, "{code:?}");
        if let Some(code) = code {
            stage.recorded(code).await;
        }
    }
    // What it sets is its own, whether or not it was asked and whatever it has said.
    let users: Vec<_> = app.seen().iter().filter_map(|seen| seen.headers.get("x-user").cloned()).collect();
    assert_eq!(users, ["anna"]);

    stage.control_plane.extend("");
    stage.until(Http::One, "/refund", 403).await;
    assert_eq!(client.status("GET", "/charge").await, 503);
    decider.says(Says::Answer(no(7, 0)));
    assert_eq!(client.status("GET", "/charge").await, 403);
    decider.says(Says::Answer(ok(&[], &[])));
    assert_eq!(client.status("GET", "/charge").await, 200);
}

#[tokio::test]
async fn what_is_open_over_an_objection_is_cut_when_enforcement_begins() {
    let app = endless().await;
    let decider = Decider::start(Says::Answer(no(7, 0))).await;
    let stage = Stage::new(app.address, "http2", &decider, POLICY).await;
    stage.control_plane.extend(OBSERVE);
    stage.until(Http::Two, "/charge", 200).await;
    let open = open(&mut stage.client(Http::Two).await, "/charge").await;
    assert_eq!(open.status(), 200);
    stage.control_plane.extend("");
    assert_cut(open).await;
}

/// Policy has come to permit it by then, so that nobody but the one who was never asked could object.
#[tokio::test]
async fn what_is_open_and_was_never_asked_about_is_cut_when_enforcement_begins() {
    let app = endless().await;
    let decider = Decider::start(Says::Answer(ok(&[], &[]))).await;
    let stage = Stage::new(app.address, "http2", &decider, POLICY).await;
    stage.control_plane.extend(OBSERVE);
    stage.until(Http::Two, "/refund", 200).await;
    let mut client = stage.client(Http::Two).await;
    let opened = open(&mut client, "/refund").await;
    assert_eq!((opened.status().as_u16(), decider.asked().len()), (200, 0));
    stage.control_plane.policies(&POLICY.replace("[/charge]", "[/refund]"));
    let deadline = Instant::now() + PATIENCE;
    while decider.asked().is_empty() {
        assert_eq!(open(&mut client, "/refund").await.status(), 200);
        assert!(Instant::now() < deadline, "policy never comes to permit it");
    }
    stage.control_plane.extend("");
    assert_cut(opened).await;
    assert_eq!(open(&mut client, "/refund").await.status(), 200, "whoever asks anew has its consent");
}

async fn assert_cut(mut open: http::Response<hyper::body::Incoming>) {
    let ended = async { while let Some(Ok(_)) = open.body_mut().frame().await {} };
    timeout(PATIENCE, ended).await.expect("it is still open");
}
