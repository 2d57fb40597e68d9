//! The discovery stream: says what this sidecar holds, takes deltas, applies each whole and acknowledges it, or
//! refuses it whole and says why. A lost stream is opened again with backoff and continues from what is held. A new
//! certificate gets a new stream; the one before is followed until that one is there.

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use sidegate_codes::Code;
use sidegate_identity::{renewal, tls::Credentials};
use sidegate_proto::v1::{self, discovery_client::DiscoveryClient, subscribe_request::Message};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{Client, channel::ConnectError, jitter, resources::Resources, usable};

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("the control plane does not answer")]
    Silent,
    #[error("the control plane ended the stream")]
    Ended,
}

/// An open stream.
struct Stream {
    answers: mpsc::Sender<v1::SubscribeRequest>,
    updates: Streaming<v1::Update>,
}

/// What this sidecar holds, and the stream that keeps it up to date.
struct Subscriber<'a> {
    client: &'a Client,
    held: Resources,
    /// `None`: lost, or never opened.
    stream: Option<Stream>,
    failures: u32,
}

/// Keeps a stream open until draining has begun, and then says goodbye.
pub(super) async fn run(client: &Client, credentials: watch::Receiver<Option<Credentials>>, held: Resources) {
    let mut subscriber = Subscriber { client, held, stream: None, failures: 0 };
    tokio::select! {
        biased;
        () = client.drain.begun() => {}
        () = subscriber.keep(credentials) => {}
    }
    subscriber.leave().await;
}

impl Subscriber<'_> {
    /// Ends only when there will be no more credentials. Dropping it between two awaits loses no answer.
    async fn keep(&mut self, mut credentials: watch::Receiver<Option<Credentials>>) {
        while let Some(own) = usable(&mut credentials).await {
            match self.renew(&own).await {
                Ok(()) => {
                    self.client.connected(true);
                    tokio::select! {
                        changed = credentials.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                        error = self.follow() => self.lost(&error),
                    }
                }
                Err(error) => self.failed(&error),
            }
            let wait = renewal::retry_after(self.failures.min(MOST_DOUBLINGS), jitter());
            tokio::select! {
                () = sleep(wait) => {}
                never = self.follow_what_is_left() => match never {},
            }
        }
    }

    /// Opens a stream as `own`. The one before is given up only for an open one.
    async fn renew(&mut self, own: &Credentials) -> Result<(), StreamError> {
        let client = self.client;
        // Connecting is what takes long.
        let channel = tokio::select! {
            connected = client.connect(own) => connected?,
            never = self.follow_what_is_left() => match never {},
        };
        // From the Hello on nothing is applied but what the new stream says: the Hello stays true. The old stream is kept
        // until the first update, which always comes: by then the control plane has entered the new one.
        let mut next = self.open(channel).await?;
        let first = timeout(ANSWER_TIMEOUT, next.updates.message())
            .await
            .map_err(|_| StreamError::Silent)??
            .ok_or(StreamError::Ended)?;
        say(&next.answers, apply(client, &mut self.held, first))?;
        self.failures = 0;
        self.stream = Some(next);
        Ok(())
    }

    async fn open(&self, channel: Channel) -> Result<Stream, StreamError> {
        let (answers, requests) = mpsc::channel(QUEUE);
        let hello = Message::Hello(self.hello());
        say(&answers, hello)?;
        let mut discovery =
            DiscoveryClient::new(channel).max_decoding_message_size(self.client.config.limits.snapshot_bytes);
        let updates = timeout(ANSWER_TIMEOUT, discovery.subscribe(ReceiverStream::new(requests)))
            .await
            .map_err(|_| StreamError::Silent)??
            .into_inner();
        Ok(Stream { answers, updates })
    }

    fn hello(&self) -> v1::Hello {
        let config = &self.client.config;
        v1::Hello {
            instance: self.client.instance.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            inbound: config
                .inbound
                .iter()
                .zip(&self.client.inbound)
                .map(|(port, listening)| v1::InboundPort {
                    // An unspecified address stays one: the control plane sees where the stream comes from.
                    address: port.advertise.unwrap_or(*listening).to_string(),
                    port: port.forward.port().into(),
                })
                .collect(),
            services: config.called().into_iter().map(ToString::to_string).collect(),
            held: self.held.versions(),
        }
    }

    /// Applies updates until the stream is lost; hands on why.
    async fn follow(&mut self) -> StreamError {
        let Some(stream) = &mut self.stream else {
            return std::future::pending().await;
        };
        loop {
            let update = match stream.updates.message().await {
                Ok(Some(update)) => update,
                Ok(None) => return StreamError::Ended,
                Err(status) => return status.into(),
            };
            self.failures = 0;
            let answer = apply(self.client, &mut self.held, update);
            if let Err(error) = say(&stream.answers, answer) {
                return error;
            }
        }
    }

    /// The same while another stream is waited for: losing this one is no news then.
    async fn follow_what_is_left(&mut self) -> Infallible {
        let error = self.follow().await;
        tracing::debug!(%error, "the stream before has ended");
        self.stream = None;
        self.client.connected(false);
        std::future::pending().await
    }

    fn lost(&mut self, error: &StreamError) {
        self.stream = None;
        self.failed(error);
    }

    fn failed(&mut self, error: &StreamError) {
        self.client.connected(self.stream.is_some());
        self.failures += 1;
        let (code, failures) = (Code::ControlPlaneUnreachable, self.failures);
        tracing::warn!(%code, %error, failures, "no updates from the control plane");
    }

    /// Half-closing is the orderly end: the endpoint is taken out at once.
    async fn leave(&mut self) {
        if let Some(Stream { answers, mut updates }) = self.stream.take() {
            drop(answers);
            let _ = timeout(GOODBYE, updates.message()).await;
        }
    }
}

/// An answer never waits: the control plane sends nothing while one is due, so there is room.
fn say(answers: &mpsc::Sender<v1::SubscribeRequest>, message: Message) -> Result<(), StreamError> {
    let message = Some(message);
    answers.try_send(v1::SubscribeRequest { message }).map_err(|_| StreamError::Ended)
}

/// Puts an update in force whole, or refuses it whole.
fn apply(client: &Client, held: &mut Resources, update: v1::Update) -> Message {
    let version = update.version;
    let next = held.updated(update);
    match next.mesh_state() {
        Ok(mesh) => {
            client.publisher.mesh(mesh);
            client.metrics.update_refused.store(false, Ordering::Relaxed);
            tracing::info!(version, resources = next.len(), "update applied");
            if let Some(cache) = &client.cache
                && let Err(error) = cache.save_resources(&next)
            {
                tracing::warn!(code = %Code::CacheUnusable, %error, "the update is not in the cache");
            }
            client.renew.send_if_modified(|renew| {
                let told = next.renewal();
                let is_news = *renew != told;
                *renew = told;
                is_news
            });
            *held = next;
            Message::Ack(v1::Ack { version })
        }
        Err(refusal) => {
            client.metrics.policies_refused.add(refusal.code);
            client.metrics.update_refused.store(true, Ordering::Relaxed);
            tracing::error!(code = %refusal.code, path = %refusal.path, error = %refusal.message, version, "update refused; the last good snapshot stays");
            Message::Nack(v1::Nack {
                version,
                path: refusal.path,
                code: refusal.code.id().to_owned(),
                message: refusal.message,
            })
        }
    }
}

const QUEUE: usize = 4;
/// Two seconds at most, spread by the jitter: a restarted control plane waits fifteen for all to find back.
const MOST_DOUBLINGS: u32 = 3;
/// Until a stream that was asked for begins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const GOODBYE: Duration = Duration::from_millis(500);
