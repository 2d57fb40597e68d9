//! How the pool gets another connection: dialled under its bounds, its slot taken before, driven by a task of the worker's, and
//! severed when its peer is trusted or expected no longer.

use std::{rc::Rc, sync::Arc, time::Duration};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, timeout_at};

use super::{
    Bounds, Idle, Pool,
    failure::upstream_failed,
    idle::Over,
    links::{Links, Until},
};
use crate::{
    balance::ConnectionSlot,
    contain::contained,
    error::Error,
    http::{LocalExecutor, STREAM_WINDOW, connection_window},
    message::Most,
    mux,
    upstream::{
        connection::{Http1, Http2, Settings, Terms},
        dial::{Carries, Destination, Dialed},
        http1,
        stream::Stream,
    },
};

impl Pool {
    pub(super) async fn connect_http1(
        &self,
        destination: &Destination,
        idle: &Idle,
        over: Over,
        bounds: Bounds<'_>,
    ) -> Result<Http1, Error> {
        let _pending = bounds.pending()?;
        let mut linked = None;
        if over == Over::Link {
            let link = self.link(destination, &idle.links, Carries::ManyHttp1, Until::Retired, bounds);
            linked = link.await?;
        }
        let (stream, terms) = if let Some(linked) = linked {
            linked
        } else {
            let slot = bounds.connection()?;
            let (stream, terms) = self.connect(destination, Carries::Http1, bounds).await?;
            (stream.counted(slot), terms)
        };
        let connection = http1::Connection::new(stream, Most::of(&self.dialer.limits));
        Ok(Http1 { connection, terms })
    }

    /// A stream for opaque bytes of a link; `None` if the peer takes none. Its place among the connections of its service it has
    /// already.
    pub(super) async fn tunnel_of_link(
        &self,
        destination: &Destination,
        links: &Links,
        until: Instant,
    ) -> Result<Option<Dialed>, Error> {
        let mut linked = links.open(Until::Old, Instant::now());
        if linked.is_none() {
            let bounds = Bounds { deadline: until, ..self.unpicked(Duration::ZERO) };
            linked = Box::pin(self.link(destination, links, Carries::ManyTcp, Until::Old, bounds)).await?;
        }
        Ok(linked.map(|(stream, terms)| Dialed { stream, peer: terms.proven() }))
    }

    /// A stream of a new link, or of one that somebody else has dialed meanwhile: waiting for that counts towards the connect
    /// timeout like the dial itself. A peer that takes no links gives a connection instead; `None` if somebody else found that out.
    async fn link(
        &self,
        destination: &Destination,
        links: &Links,
        carries: Carries,
        until: Until,
        bounds: Bounds<'_>,
    ) -> Result<Option<(Stream, Terms)>, Error> {
        let linked = timeout_at(bounds.connected_by(), async {
            let _linking = links.linking.lock().await;
            if let Some(linked) = links.open(until, Instant::now()) {
                return Ok(Some(linked));
            }
            if !links.are_taken() {
                return Ok(None);
            }
            let slot = bounds.connection()?;
            let (stream, terms) = self.connect(destination, carries, bounds).await?;
            let stream = stream.counted(slot);
            if !stream.is_link() {
                links.refused();
                return Ok(Some((stream, terms)));
            }
            let most = mux::Bounds::of(&self.dialer.limits, bounds.idle);
            let link = mux::Link::new(stream, mux::Side::Client, most);
            links.add(link.opener(), terms);
            self.spawn(drive_link(link));
            Ok(links.open(until, Instant::now()))
        });
        linked.await.unwrap_or_else(|_| Err(Error::ConnectTimeout(destination.to_string())))
    }

    /// A new shared connection, or one that somebody else has dialed meanwhile, and whether it is that. Waiting for another's
    /// dial counts towards the connect timeout like the dial itself.
    pub(super) async fn share(
        &self,
        destination: &Destination,
        bounds: Bounds<'_>,
    ) -> Result<(Http2, bool), Error> {
        let _pending = bounds.pending()?;
        let gate = Rc::clone(self.dialing.borrow_mut().entry(destination.clone()).or_default());
        let dialed = timeout_at(bounds.connected_by(), async {
            let _dialing = gate.lock().await;
            if let Some(connection) = self.find_shared(destination) {
                return Ok((connection, true));
            }
            let connection = self.connect_http2(destination, bounds).await?;
            self.shared.borrow_mut().entry(destination.clone()).or_default().push(connection.clone());
            Ok((connection, false))
        });
        dialed.await.unwrap_or_else(|_| Err(Error::ConnectTimeout(destination.to_string())))
    }

    /// A shared connection with a free stream.
    pub(super) fn find_shared(&self, destination: &Destination) -> Option<Http2> {
        let now = Instant::now();
        let mut shared = self.shared.borrow_mut();
        let connections = shared.get_mut(destination)?;
        connections.retain(|connection| connection.is_usable(now));
        let most = self.dialer.limits.streams;
        let free = connections.iter_mut().find(|connection| connection.has_room(most))?;
        free.terms.idle_since = now;
        Some(free.clone())
    }

    async fn connect_http2(&self, destination: &Destination, bounds: Bounds<'_>) -> Result<Http2, Error> {
        let slot = bounds.connection()?;
        let (stream, terms) = self.connect(destination, Carries::Http2, bounds).await?;
        let limits = &self.dialer.limits;
        let (sender, connection) = http2::Builder::new(self.executor())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(limits))
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| upstream_failed(destination, &error))?;
        let settings = Settings::new(connection);
        self.spawn(drive(settings.clone().drive(), slot));
        Ok(Http2 { sender, settings, streams: Rc::default(), terms })
    }

    /// Dials, and severs the stream when its peer is trusted or expected no longer: hyper runs the streams of a
    /// connection in a task of its own, which dropping the connection does not end.
    async fn connect(
        &self,
        destination: &Destination,
        carries: Carries,
        bounds: Bounds<'_>,
    ) -> Result<(Stream, Terms), Error> {
        let until = bounds.connected_by();
        let Dialed { stream, peer } = self.dialer.dial(destination, carries, until).await?;
        if let Some(peer) = peer.clone() {
            let (cut, mesh, destination) = (stream.cut(), self.dialer.mesh.clone(), destination.clone());
            self.spawn(async move {
                let is_expected = |snapshot: &_| destination.expects(peer.id(), snapshot);
                tokio::select! {
                    () = cut.closed() => {}
                    ended = peer.until_untrusted(mesh, is_expected) => {
                        tracing::info!(code = %ended.code(), detail = %ended, "upstream connection severed");
                        cut.sever();
                    }
                }
            });
        }
        let terms = Terms::new(peer, bounds.idle, &self.dialer.mesh.load());
        Ok((stream, terms))
    }

    fn executor(&self) -> LocalExecutor {
        LocalExecutor { tasks: self.tasks.clone(), metrics: Arc::clone(&self.dialer.metrics) }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(contained(task, Arc::clone(&self.dialer.metrics)));
    }
}

/// Runs a connection until it ends, and with it its place.
async fn drive(connection: impl Future<Output = hyper::Result<()>>, _slot: Option<ConnectionSlot>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "upstream connection broke");
    }
}

async fn drive_link(mut link: mux::Link<Stream>) {
    // The other side opens none, so that this is the end.
    if let Err(error) = link.next().await {
        tracing::debug!(%error, "a link to an upstream broke");
    }
}

const KEEP_ALIVE: Duration = Duration::from_secs(30);
