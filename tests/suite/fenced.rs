//! One outbound port for several services: Host, `:authority` or the server name of the application's own TLS chooses,
//! and what names none of them reaches nobody.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    mesh::{App, Authority, Connection, Http, OwnTls, Port, Reply, Sidecar, id},
    opaque::echo,
};

/// Whoever may call in these tests.
const ORDERS: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules: [{name: orders, from: [{serviceAccounts: [shop/orders]}]}]
";

/// `orders`' sidecar with one port in front of both services.
struct Fence {
    orders: Sidecar,
    _services: [Sidecar; 2],
}

fn fence(payments: (SocketAddr, &str), stock: (SocketAddr, &str)) -> Fence {
    let authority = Authority::new();
    let start = |account: &str, app| {
        Sidecar::start(account, &authority, ORDERS, &[Port::Inbound(app, "protocol: auto")])
    };
    let services = [start("payments", payments.0), start("stock", stock.0)];
    let list = [("payments", services[0].inbound(), payments.1), ("stock", services[1].inbound(), stock.1)];
    let orders = Sidecar::start("orders", &authority, ORDERS, &[Port::Among("services", &list)]);
    Fence { orders, _services: services }
}

fn request(version: Http, host: &str) -> Request<Full<Bytes>> {
    let request = match version {
        Http::One => Request::builder().uri("/a").header("host", host),
        Http::Two => Request::builder().uri(format!("http://{host}/a")),
    };
    request.body(Full::default()).unwrap()
}

async fn ask(client: &mut Connection, version: Http, host: &str) -> Reply {
    client.send(request(version, host)).await.unwrap()
}

#[tokio::test]
async fn each_request_of_a_connection_goes_to_the_service_that_its_host_names() {
    let (payments, stock) = (App::start().await, App::start().await);
    let fence = fence((payments.address, ""), (stock.address, "hosts: ['*.stock.test', '[fd00::7]']"));
    for version in [Http::One, Http::Two] {
        let mut client = Connection::plain(fence.orders.outbound(), version).await;
        for host in ["payments", "a.stock.test", "PAYMENTS.shop.", "payments:8080", "[FD00:0::7]:80"] {
            assert_eq!(ask(&mut client, version, host).await.status, 200, "{host}");
        }
    }
    let hosts = |app: &App| {
        let hosts = app.seen().into_iter().filter_map(|seen| seen.headers.get("host").cloned());
        hosts.collect::<Vec<_>>()
    };
    assert_eq!(hosts(&payments), ["payments", "payments.shop", "payments:8080"], "by HTTP/1.1");
    assert_eq!(hosts(&stock), ["a.stock.test", "[fd00::7]:80"]);
    assert_eq!((payments.seen().len(), stock.seen().len()), (6, 4), "and as many by HTTP/2");
    let line = fence.orders.accessed(|line| line["dst"] == id("stock").as_str());
    assert_eq!(line["status"], 200);
}

#[tokio::test]
async fn a_host_of_no_service_is_refused_and_reaches_nobody() {
    let (payments, stock) = (App::start().await, App::start().await);
    let fence = fence((payments.address, ""), (stock.address, "hosts: ['*.stock.test']"));
    for version in [Http::One, Http::Two] {
        let mut client = Connection::plain(fence.orders.outbound(), version).await;
        for host in ["localhost", "example.com", "stock.test", "payments.shop.evil.test", "127.0.0.1"] {
            let reply = ask(&mut client, version, host).await;
            assert_eq!(reply.status, 404, "{host}");
            assert!(reply.body.starts_with("unknown host (request id "), "{}", reply.body);
            let line = fence.orders.accessed(|line| line["detail"].to_string().contains(host));
            assert_eq!((&line["code"], &line["verdict"]), (&"SG0621".into(), &"failed".into()));
        }
        assert_eq!(ask(&mut client, version, "payments").await.status, 200, "the connection goes on");
    }
    assert_eq!((payments.seen().len(), stock.seen().len()), (2, 0));
}

#[tokio::test]
async fn a_request_that_names_two_hosts_goes_to_neither() {
    let (payments, stock) = (App::start().await, App::start().await);
    let fence = fence((payments.address, ""), (stock.address, ""));
    let mut client = Connection::plain(fence.orders.outbound(), Http::Two).await;
    let mut both = request(Http::Two, "payments");
    both.headers_mut().insert("host", "stock".try_into().unwrap());
    let reply = client.send(both).await.unwrap();
    assert_eq!(reply.status, 400);
    assert_eq!(fence.orders.accessed(|line| line["status"] == 400)["code"], "SG0611");
    assert!(payments.seen().is_empty() && stock.seen().is_empty());
}

// The applications go on while the test waits for the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_applications_own_tls_goes_unopened_to_the_service_of_its_server_name() {
    let (payments_tls, stock_tls) = (OwnTls::of("payments"), OwnTls::of("x.stock.test"));
    let (payments, stock) = (App::start_with(&payments_tls).await, App::start_with(&stock_tls).await);
    let fence =
        fence((payments.address, "protocol: tcp"), (stock.address, "protocol: tcp, hosts: ['*.stock.test']"));
    for (tls, name, account) in
        [(&payments_tls, "payments", "payments"), (&stock_tls, "x.stock.test", "stock")]
    {
        let tcp = TcpStream::connect(fence.orders.outbound()).await.unwrap();
        let stream = tls.connect(name, tcp).await.expect("the application's own certificate");
        let mut client = Connection::over(stream, Http::One).await;
        // A host inside is between the application and this service: it leads nowhere else.
        for host in [name, "stock", "payments"] {
            assert_eq!(ask(&mut client, Http::One, host).await.status, 200);
        }
        drop(client);
        let line = fence.orders.accessed(|line| line["dst"] == id(account).as_str());
        assert_eq!((&line["protocol"], &line["tls"]), (&"tcp".into(), &"mutual".into()));
    }
    assert_eq!((payments.seen().len(), stock.seen().len()), (3, 3));
}

#[tokio::test]
async fn tls_to_a_server_name_of_no_service_is_refused_with_its_alert() {
    let (payments, stock) = (echo().await, echo().await);
    let fence = fence((payments.address, ""), (stock.address, "protocol: http"));
    for (name, code) in [("evil.test", "SG0621"), ("stock", "SG0615")] {
        let tcp = TcpStream::connect(fence.orders.outbound()).await.unwrap();
        let error = OwnTls::of(name).connect(name, tcp).await.expect_err("nobody of this name");
        if code == "SG0621" {
            assert!(error.to_string().contains("UnrecognisedName"), "{error}");
        }
        let line = fence.orders.accessed(|line| line["code"] == code);
        assert_eq!(line["verdict"], "failed");
    }
}

#[tokio::test]
async fn bytes_that_name_nobody_go_to_the_one_service_of_bytes_or_are_refused() {
    let (payments, stock) = (echo().await, App::start().await);
    let one = fence((payments.address, "protocol: tcp"), (stock.address, ""));
    assert_eq!(said(&one, b"\x00\x01hello").await.unwrap(), b"\x00\x01hello");
    let mut client = Connection::plain(one.orders.outbound(), Http::One).await;
    assert_eq!(ask(&mut client, Http::One, "stock").await.status, 200);
    assert_eq!(ask(&mut client, Http::One, "payments").await.status, 502, "it is declared not to speak HTTP");
    assert_eq!(one.orders.accessed(|line| line["status"] == 502)["code"], "SG0615");

    for fields in ["", "protocol: tcp"] {
        let none_or_two = fence((payments.address, fields), (stock.address, fields));
        let answer = said(&none_or_two, b"\x00\x01hello").await;
        assert!(answer.as_ref().is_ok_and(Vec::is_empty) || answer.is_err(), "{answer:?}");
        assert_eq!(none_or_two.orders.accessed(|line| line["protocol"] == "tcp")["code"], "SG0622");
    }
}

#[tokio::test]
async fn a_link_of_one_service_never_serves_another_at_the_same_address() {
    let (app, authority) = (App::start().await, Authority::new());
    let payments = Sidecar::start("payments", &authority, ORDERS, &[Port::Inbound(app.address, "")]);
    let list = [("payments", payments.inbound(), ""), ("stock", payments.inbound(), "")];
    let orders = Sidecar::start("orders", &authority, ORDERS, &[Port::Among("services", &list)]);
    for version in [Http::One, Http::Two] {
        let mut client = Connection::plain(orders.outbound(), version).await;
        for (host, status) in [("payments", 200), ("stock", 502), ("payments", 200), ("stock", 502)] {
            assert_eq!(ask(&mut client, version, host).await.status, status, "{host}");
        }
    }
    assert_eq!(orders.accessed(|line| line["status"] == 502)["code"], "SG0305");
    assert_eq!(app.seen().len(), 4);
}

#[tokio::test]
async fn a_hello_that_is_broken_or_endless_reaches_nobody() {
    let (payments, stock) = (echo().await, echo().await);
    let fence = fence((payments.address, "protocol: tcp"), (stock.address, ""));
    for hello in [&b"\x16\x03\x01\x00\x04\x01\xff\xff\xff"[..], b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"] {
        let answer = said(&fence, hello).await;
        assert!(answer.as_ref().is_ok_and(Vec::is_empty) || answer.is_err(), "{answer:?}");
    }
    let endless = fence.orders.accessed(|line| line["detail"].to_string().contains("16384"));
    let broken = fence.orders.accessed(|line| line["detail"].to_string().contains("ends too early"));
    assert_eq!((&endless["code"], &broken["code"]), (&"SG0623".into(), &"SG0623".into()));
}

/// What comes back for `bytes`.
async fn said(fence: &Fence, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut client = TcpStream::connect(fence.orders.outbound()).await?;
    client.write_all(bytes).await?;
    client.shutdown().await?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.map(|_| answer)
}
