//! An ordinary HTTP application that knows nothing of the mesh: it answers every path, counts what reaches it, and
//! for its own work calls the next service in the chain through its sidecar.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    demo::cast::{ORDERS, PAYMENTS, WEB},
    http1::{self as client, Connection},
};

/// Arguments of one service.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Which of the services.
    #[arg(long)]
    name: String,
    /// Where its sidecar finds it.
    #[arg(long)]
    listen: SocketAddr,
    /// Where the checks find its counters.
    #[arg(long)]
    counter: SocketAddr,
    /// The sidecar's listener for the next service.
    #[arg(long)]
    next: Option<SocketAddr>,
}

/// The header by which callers mark themselves, for the counters only: it proves nothing.
pub(in crate::demo) const CALLER: &str = "x-demo-caller";

/// The work of a service: its method and path.
pub(in crate::demo) fn work(name: &str) -> (Method, &'static str) {
    match name {
        WEB => (Method::GET, "/buy"),
        ORDERS => (Method::POST, "/orders"),
        _ => (Method::POST, "/charge"),
    }
}

/// The key of a counter: `POST /charge orders`.
pub(in crate::demo) fn counter_key(method: &Method, path: &str, caller: &str) -> String {
    format!("{method} {path} {caller}")
}

/// Serves until the process is ended.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    let counter = TcpListener::bind(args.counter).await?;
    let app = Arc::new(App::new(args.name, args.next));
    tokio::select! {
        ended = accept(listener, Arc::clone(&app), Port::Application) => ended,
        ended = accept(counter, app, Port::Counter) => ended,
    }
}

/// What a connection came for.
#[derive(Clone, Copy)]
enum Port {
    Application,
    Counter,
}

struct App {
    name: String,
    next: Option<SocketAddr>,
    /// Idle connections to the sidecar. Locked only to push and pop.
    idle: Mutex<Vec<Connection>>,
    /// Locked only to add one or to copy.
    seen: Mutex<BTreeMap<String, u64>>,
}

impl App {
    fn new(name: String, next: Option<SocketAddr>) -> Self {
        Self { name, next, idle: Mutex::default(), seen: Mutex::default() }
    }

    async fn answer(&self, port: Port, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match port {
            Port::Application => self.work(&request).await,
            Port::Counter => self.counts(),
        }
    }

    async fn work(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.count(request);
        let (method, path) = work(&self.name);
        if request.method() != method || request.uri().path() != path {
            return text(StatusCode::OK, format!("{} was here\n", self.name));
        }
        match self.next {
            None => text(StatusCode::OK, format!("{} done\n", self.name)),
            Some(next) => self.pass_on(next).await,
        }
    }

    fn counts(&self) -> Response<Full<Bytes>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        text(StatusCode::OK, serde_json::to_string(&seen).expect("a map of strings and numbers"))
    }

    fn count(&self, request: &Request<Incoming>) {
        let caller = request.headers().get(CALLER).and_then(|value| value.to_str().ok()).unwrap_or("-");
        let key = counter_key(request.method(), request.uri().path(), caller);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    }

    async fn pass_on(&self, next: SocketAddr) -> Response<Full<Bytes>> {
        match self.call(next).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                text(StatusCode::OK, format!("{} done, {}", self.name, String::from_utf8_lossy(&answer.body)))
            }
            Ok(answer) => {
                text(StatusCode::BAD_GATEWAY, format!("{}: next answered {}\n", self.name, answer.status))
            }
            Err(error) => text(StatusCode::BAD_GATEWAY, format!("{}: next failed: {error}\n", self.name)),
        }
    }

    async fn call(&self, next: SocketAddr) -> Result<client::Answer, client::Error> {
        let callee = if self.name == WEB { ORDERS } else { PAYMENTS };
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => Connection::open(next, callee).await?,
        };
        let (method, path) = work(callee);
        let answer = connection.send(method, path, &[(CALLER, &self.name)]).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answer)
    }

    /// A connection that its peer has not closed; closed ones are dropped.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }
}

async fn accept(listener: TcpListener, app: Arc<App>, port: Port) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(serve(stream, Arc::clone(&app), port));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, app: Arc<App>, port: Port) {
    // Without it the sidecar would see latencies that are ours.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(app.answer(port, request).await) }
    });
    // A connection that breaks concerns the sidecar, which reports it.
    let _ =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
