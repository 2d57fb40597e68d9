//! Another trust domain's workloads at a sidecar of this mesh: let in under the bundle of their own trust domain, and by it
//! nobody else is.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use sidegate_identity::{
    SpiffeId, TrustBundle, TrustBundles, TrustDomain,
    tls::{Expected, client_config},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::mesh::{App, Authority, ControlPlane, DOMAIN, Member, PATIENCE, connect, credentials, id};

const BATCH: &str = "spiffe://partner.test/batch";
const POLICIES: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec:
  action: Allow
  rules:
  - name: batch
    from: [{principals: ['spiffe://partner.test/batch', 'spiffe://shop.test/ns/shop/sa/orders']}]
";

/// A caller of payments under an SVID that the partner's root vouches for.
struct Caller {
    address: SocketAddr,
    trust: Arc<TrustBundles>,
    partner: Authority,
}

impl Caller {
    /// A handshake as this identity and a request; the connection, if it was answered with 200.
    async fn call(&self, identity: &str) -> Option<TlsStream<TcpStream>> {
        let svid = self.partner.svid(identity);
        // The caller's own view, in which its root may say anything.
        let own = SpiffeId::parse(identity).unwrap();
        let own = TrustDomain::parse(own.trust_domain()).unwrap();
        let bundle = TrustBundle::from_pem(own, self.partner.bundle().as_bytes()).unwrap();
        let credentials = credentials(&svid, &[bundle].into_iter().collect());
        let expected = Expected::OneOf(Arc::from([SpiffeId::parse(&id("payments")).unwrap()]));
        let config = client_config(Some(&credentials), self.trust.clone(), expected, &[b"http/1.1"]);
        let mut stream = connect(self.address, config).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n").await.ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.ok()?;
        (&answer == b"HTTP/1.1 200").then_some(stream)
    }

    /// Calls until it is answered.
    async fn until_served(&self, identity: &str) -> TlsStream<TcpStream> {
        let begun = Instant::now();
        loop {
            if let Some(stream) = self.call(identity).await {
                return stream;
            }
            assert!(begun.elapsed() < PATIENCE, "never served");
        }
    }
}

#[tokio::test]
async fn a_partners_workload_is_let_in_under_its_own_bundle_alone_and_cut_when_that_goes() {
    let app = App::start().await;
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let inbound = format!("inbound: [{{listen: '127.0.0.1:0', forward: '{}', protocol: http}}]", app.address);
    let payments = Member::start("payments", &control_plane, &inbound);
    payments.logged(|line| line["message"] == "update applied");
    let ours = TrustDomain::parse(DOMAIN).unwrap();
    let trust = [TrustBundle::from_pem(ours, control_plane.root().as_bytes()).unwrap()].into_iter().collect();
    let caller =
        Caller { address: payments.address("inbound"), trust: Arc::new(trust), partner: Authority::new() };
    assert!(caller.call(BATCH).await.is_none(), "nobody federates with partner.test yet");

    control_plane.write("partner.pem", &caller.partner.bundle());
    control_plane.extend("federation: [{trustDomain: partner.test, bundle: partner.pem}]\n");
    let mut open = caller.until_served(BATCH).await;
    assert!(caller.call(&id("orders")).await.is_none(), "the partner's root vouches for nobody of ours");
    assert!(caller.call("spiffe://partner.test/other").await.is_none(), "and policy is asked");

    control_plane.extend("");
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(PATIENCE, open.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "still open");
    assert!(caller.call(BATCH).await.is_none());
}

#[tokio::test]
async fn the_own_bundle_is_published_as_spiffe_writes_it() {
    let control_plane = ControlPlane::start("100ms", POLICIES);
    let bundle = control_plane.get("/spiffe/bundle.json").await;
    let key = &bundle["keys"][0];
    for (member, value) in [("kty", "EC"), ("use", "x509-svid"), ("crv", "P-256")] {
        assert_eq!(key[member], value);
    }
    let pem: String = control_plane.root().lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(key["x5c"], serde_json::json!([pem]));
}
