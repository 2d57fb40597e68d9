//! The discovery stream: says what this sidecar holds, takes deltas, applies each whole and acknowledges it, or
//! refuses it whole and says why. A lost stream is opened again with backoff and continues from what is held.

use std::{net::SocketAddr, time::Duration};

use sidegate_codes::Code;
use sidegate_identity::{renewal, tls::Credentials};
use sidegate_proto::v1::{self, discovery_client::DiscoveryClient, subscribe_request::Message};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Client, channel::ConnectError, jitter, resources::Resources, usable};

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("the control plane ended the stream")]
    Ended,
}

/// An open stream.
struct Subscription {
    answers: mpsc::Sender<v1::SubscribeRequest>,
    updates: Streaming<v1::Update>,
}

/// How a stream that was not lost ended.
enum Ended {
    /// The credentials are new: the next stream runs under them.
    Renewed(Box<Subscription>),
    /// This sidecar shuts down and has said so.
    Draining,
}

/// Keeps a stream open until draining has begun.
pub(super) async fn run(
    client: &Client,
    mut credentials: watch::Receiver<Option<Credentials>>,
    mut held: Resources,
) {
    let mut failures = 0;
    let mut last = None;
    while let Some(own) = usable(&mut credentials).await {
        credentials.mark_unchanged();
        let opened = open(client, &own, &held).await;
        // Only now: the control plane sees the new stream of this instance before it loses the old one.
        drop(last.take());
        let result = match opened {
            Ok(subscription) => {
                failures = 0;
                client.connected(true);
                follow(client, subscription, &mut held, &mut credentials).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(Ended::Draining) => return,
            Ok(Ended::Renewed(subscription)) => last = Some(subscription),
            Err(error) => {
                client.connected(false);
                failures += 1;
                let code = Code::ControlPlaneUnreachable;
                tracing::warn!(%code, %error, failures, "no updates from the control plane");
                let wait = renewal::retry_after(failures.min(MOST_DOUBLINGS), jitter());
                tokio::select! {
                    () = client.drain.begun() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

async fn open(client: &Client, own: &Credentials, held: &Resources) -> Result<Subscription, StreamError> {
    let channel = client.connector.connect(Some(own)).await?;
    let (answers, requests) = mpsc::channel(QUEUE);
    let hello = v1::Hello {
        instance: client.instance.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        inbound: client
            .config
            .inbound
            .iter()
            .map(|port| v1::InboundPort {
                address: advertised(port.advertise, port.listen).to_string(),
                port: port.forward.port().into(),
            })
            .collect(),
        services: client
            .config
            .outbound
            .iter()
            .map(|port| port.service.to_string())
            .collect(),
        held: held.versions(),
    };
    let hello = v1::SubscribeRequest {
        message: Some(Message::Hello(hello)),
    };
    answers.send(hello).await.map_err(|_| StreamError::Ended)?;
    let updates = DiscoveryClient::new(channel)
        .max_decoding_message_size(client.config.limits.snapshot_bytes)
        .subscribe(ReceiverStream::new(requests))
        .await?
        .into_inner();
    Ok(Subscription { answers, updates })
}

/// An unspecified address stays one: the control plane sees where the stream comes from.
fn advertised(advertise: Option<SocketAddr>, listen: SocketAddr) -> SocketAddr {
    advertise.unwrap_or(listen)
}

async fn follow(
    client: &Client,
    mut subscription: Subscription,
    held: &mut Resources,
    credentials: &mut watch::Receiver<Option<Credentials>>,
) -> Result<Ended, StreamError> {
    loop {
        tokio::select! {
            biased;
            () = client.drain.begun() => {
                // Half-closing is the orderly end: the endpoint is taken out at once.
                drop(subscription.answers);
                let _ = tokio::time::timeout(GOODBYE, subscription.updates.message()).await;
                return Ok(Ended::Draining);
            }
            changed = credentials.changed() => {
                return if changed.is_ok() { Ok(Ended::Renewed(Box::new(subscription))) } else { Err(StreamError::Ended) };
            }
            update = subscription.updates.message() => {
                let update = update?.ok_or(StreamError::Ended)?;
                let answer = apply(client, held, update);
                let answer = v1::SubscribeRequest { message: Some(answer) };
                subscription.answers.send(answer).await.map_err(|_| StreamError::Ended)?;
            }
        }
    }
}

/// Puts an update in force whole, or refuses it whole.
fn apply(client: &Client, held: &mut Resources, update: v1::Update) -> Message {
    let version = update.version;
    let next = held.updated(update);
    match next.mesh_state() {
        Ok(mesh) => {
            client.publisher.mesh(mesh);
            client
                .metrics
                .update_refused
                .store(false, std::sync::atomic::Ordering::Relaxed);
            tracing::info!(version, resources = next.len(), "update applied");
            if let Some(cache) = &client.cache
                && let Err(error) = cache.save_resources(&next)
            {
                tracing::warn!(code = %Code::CacheUnusable, %error, "the update is not in the cache");
            }
            *held = next;
            Message::Ack(v1::Ack { version })
        }
        Err(refusal) => {
            client.metrics.policies_refused.add(refusal.code);
            client
                .metrics
                .update_refused
                .store(true, std::sync::atomic::Ordering::Relaxed);
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
const GOODBYE: Duration = Duration::from_millis(500);
