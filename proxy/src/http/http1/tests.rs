use std::sync::Arc;

use http_body_util::BodyExt;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::http::guard::Wire;

const MOST: Most = Most { bytes: 512, fields: 8 };

/// A client, and the connection that its requests are served over by `answer`.
async fn served<A, F>(answer: A) -> (TcpStream, Connection<TcpStream, A>, Arc<Wire>)
where
    A: Fn(Request<Option<Body>>, Option<Tunnel>) -> F + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let stream = Guarded::http1(Lingering::new(Rewound::fresh(server)).0);
    let wire = stream.wire();
    (client, Connection::new(stream, MOST, answer), wire)
}

fn says(text: &str) -> Response<ResponseBody> {
    Response::new(ResponseBody::text(text.to_owned()))
}

async fn hello(_: Request<Option<Body>>, _: Option<Tunnel>) -> Response<ResponseBody> {
    says("hello")
}

/// All that a client hears that sends `requests` and then nothing more, and how its connection ended.
async fn heard<A, F>(answer: A, requests: &str) -> (String, Result<(), Ended>)
where
    A: Fn(Request<Option<Body>>, Option<Tunnel>) -> F + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    let (mut client, connection, _) = served(answer).await;
    client.write_all(requests.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let (ended, read) = tokio::join!(connection, async {
        let read = client.read_to_end(&mut heard).await;
        drop(client);
        read
    });
    read.unwrap();
    (String::from_utf8(heard).unwrap(), ended)
}

async fn ask(client: &mut TcpStream, connection: &mut (impl Future<Output = Result<(), Ended>> + Unpin)) {
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = async {
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "it ended");
        }
    };
    tokio::select! {
        () = answer => {}
        ended = connection => panic!("it ended: {ended:?}"),
    }
}

/// Of a client that was answered once, and is silent since.
async fn rested() -> (TcpStream, impl Future<Output = Result<(), Ended>> + Unpin) {
    let (mut client, mut connection, wire) = served(hello).await;
    ask(&mut client, &mut connection).await;
    wire.request();
    assert!(wire.is_at_rest());
    connection.rest();
    assert!(connection.serving.is_none(), "it needs nothing");
    (client, connection)
}

#[tokio::test]
async fn a_connection_that_rested_serves_its_next_request() {
    let (mut client, mut connection) = rested().await;
    ask(&mut client, &mut connection).await;
    ask(&mut client, &mut connection).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_resting_connection_ends_it_in_order() {
    let (client, connection) = rested().await;
    drop(client);
    connection.await.unwrap();
}

#[tokio::test]
async fn a_resting_connection_that_is_reset_is_gone() {
    let (client, connection) = rested().await;
    SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    connection.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_shut_down_before_its_first_request_is_closed() {
    let (mut client, mut connection, _) = served(hello).await;
    connection.rest();
    connection.shut_down();
    let mut heard = Vec::new();
    let (ended, read) = tokio::join!(connection, client.read_to_end(&mut heard));
    ended.unwrap();
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test]
async fn each_request_says_whether_another_follows() {
    let next = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    for (request, answers, says_close) in [
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 1, true),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: a, Close\r\n\r\n", 1, true),
        ("GET / HTTP/1.0\r\nhost: a\r\n\r\n", 1, true),
        ("GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", 2, false),
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 2, false),
    ] {
        let last = next.replace("host: a", "host: a\r\nconnection: close");
        let (all, ended) = heard(hello, &format!("{request}{last}")).await;
        ended.unwrap();
        assert_eq!(all.matches("\r\n\r\nhello").count(), answers, "{request}: {all}");
        let first = all.split("\r\n\r\n").next().unwrap();
        assert_eq!(first.contains("connection: close"), says_close, "{request}: {first}");
        assert!(first.contains("\r\ndate: ") && first.contains("\r\ncontent-length: 5"), "{first}");
    }
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_answered_and_is_the_last() {
    let large = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "a".repeat(512));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(9));
    for (request, status) in [
        ("GET / HTTP/1.1\r\na b: c\r\n\r\n", "400"),
        ("GET  / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        ("GET /\0 HTTP/1.1\r\n\r\n", "400"),
        (&*large, "431"),
        (&*many, "431"),
    ] {
        let (all, ended) = heard(hello, &format!("{request}GET / HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert!(matches!(ended, Err(Ended::Unreadable(_) | Ended::TooLarge)), "{request}: {ended:?}");
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {all}");
        assert!(all.contains("connection: close") && all.ends_with("\r\n\r\n"), "{request}: {all}");
    }
}

async fn echo(request: Request<Option<Body>>, _: Option<Tunnel>) -> Response<ResponseBody> {
    let body = request.into_body().unwrap().collect().await.unwrap().to_bytes();
    says(std::str::from_utf8(&body).unwrap())
}

#[tokio::test]
async fn bodies_end_where_their_heads_say_and_the_next_request_follows() {
    let length = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let (all, ended) = heard(echo, &format!("{length}{length}{chunked}")).await;
    ended.unwrap();
    assert_eq!(all.matches("\r\n\r\nhello").count(), 3, "{all}");
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_read_over_if_it_is_there_and_ends_the_connection_if_not() {
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let whole = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let (all, _) = heard(hello, &format!("{whole}{last}")).await;
    assert_eq!(all.matches("HTTP/1.1 200").count(), 2, "{all}");
    let part = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500\r\n\r\nhello";
    let (all, _) = heard(hello, &format!("{part}{last}")).await;
    assert_eq!(all.matches("HTTP/1.1 200").count(), 1, "{all}");
    assert!(all.contains("connection: close"), "{all}");
}

#[tokio::test]
async fn a_client_is_asked_for_a_body_only_if_somebody_wants_it() {
    let expects = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
    let (all, _) = heard(hello, expects).await;
    assert!(all.starts_with("HTTP/1.1 200") && !all.contains("100 Continue"), "{all}");
    let (all, _) = heard(echo, &format!("{expects}hello")).await;
    assert!(all.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), "{all}");
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_ends_its_request() {
    let begun = Rc::new(tokio::sync::Notify::new());
    let told = Rc::clone(&begun);
    let never = move |_: Request<Option<Body>>, _: Option<Tunnel>| {
        told.notify_one();
        std::future::pending::<Response<ResponseBody>>()
    };
    let (mut client, connection, _) = served(never).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let leaves = async {
        begun.notified().await;
        drop(client);
    };
    let (ended, ()) = tokio::join!(connection, leaves);
    assert!(matches!(ended, Err(Ended::Broken(_))), "{ended:?}");
}

#[tokio::test]
async fn an_answer_that_switches_hands_the_stream_on_with_what_was_read_of_it() {
    let local = tokio::task::LocalSet::new();
    let all = local.run_until(async {
        let switch = |_: Request<Option<Body>>, tunnel: Option<Tunnel>| async {
            let mut tunnels = JoinSet::new();
            tunnels.spawn_local(async move {
                let mut stream = tunnel.unwrap().await.unwrap();
                let mut said = [0; 5];
                stream.read_exact(&mut said).await.unwrap();
                stream.write_all(&said).await.unwrap();
            });
            tunnels.detach_all();
            let mut response = says("");
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response
        };
        let (all, ended) =
            heard(switch, "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello")
                .await;
        ended.unwrap();
        all
    });
    let all = all.await;
    assert!(all.starts_with("HTTP/1.1 101 ") && all.ends_with("\r\n\r\nhello"), "{all}");
}
