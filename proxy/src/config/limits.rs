//! Every bound of the data path, named and with its default. What is over a bound is refused and counted.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{Fault, duration, schema};

/// Every bound of the data path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default, deny_unknown_fields)]
pub struct Limits {
    /// Open downstream connections of each direction, over all workers.
    #[schemars(range(min = 1, max = MOST))]
    pub connections: usize,
    /// Open inbound connections from one source address.
    #[schemars(range(min = 1, max = MOST))]
    pub connections_per_source: usize,
    /// Handshakes in flight per worker; further connections wait in the kernel's queue.
    #[schemars(range(min = 1, max = MOST))]
    pub handshakes: usize,
    /// From accept to the end of the handshake.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub handshake_timeout: Duration,
    /// From accept, or the end of the handshake, to the bytes that tell the protocol.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub detect_timeout: Duration,
    /// How long a connection to an `auto` port may be silent before its upstream is connected, in case that speaks first.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub quiet_timeout: Duration,
    /// From the first byte of an HTTP/1.1 request head to its end.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub head_timeout: Duration,
    /// Bytes per second that a request's body brings at least, on average over each `bodyTimeout` in which it is waited
    /// for. gRPC has messages instead of a pace, and is left alone.
    #[schemars(range(min = 1, max = MOST))]
    pub body_rate: u32,
    /// How long a request's body is waited for before it is judged by `bodyRate`, and then anew.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub body_timeout: Duration,
    /// How long a downstream HTTP connection may be without a request.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub keep_alive_timeout: Duration,
    /// How long an opaque connection or a WebSocket may be without a byte either way.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub opaque_idle_timeout: Duration,
    /// How long a downstream may take nothing of the answers that wait for it.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub write_timeout: Duration,
    /// How long a downstream HTTP connection takes new requests; up to a tenth more, so that not all end at once.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub connection_age: Duration,
    /// From then on, for the requests in flight.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub connection_grace: Duration,
    /// Frames per second that are no part of a request, on one HTTP/2 connection or shared link; ten seconds' worth at once.
    #[schemars(range(min = 1, max = MOST))]
    pub control_frames: u32,
    /// Streams reset per second, on one HTTP/2 connection or shared link; ten seconds' worth at once.
    #[schemars(range(min = 1, max = MOST))]
    pub stream_resets: u32,
    /// Bytes of one request head.
    #[schemars(range(min = 8_192, max = MOST))]
    pub header_bytes: usize,
    /// Header fields of one request.
    #[schemars(range(min = 8, max = MOST))]
    pub headers: usize,
    /// Bytes of one request path, its query not counted.
    #[schemars(range(min = 16, max = MOST))]
    pub path_bytes: usize,
    /// Concurrent requests on one HTTP/2 connection.
    #[schemars(range(min = 1, max = MOST))]
    pub streams: u32,
    /// Requests in flight of each direction, per worker.
    #[schemars(range(min = 1, max = MOST))]
    pub requests: usize,
    /// From dialling an upstream to the end of its handshake.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub connect_timeout: Duration,
    /// From the sent request to the head of its response.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub response_timeout: Duration,
    /// Idle pooled connections per upstream address and worker. What is idle beyond them is closed within a second.
    #[schemars(range(min = 1, max = MOST))]
    pub idle_connections: usize,
    /// How long a pooled connection may idle; below `keepAliveTimeout`, so that this side closes first.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub idle_timeout: Duration,
    /// From SIGTERM to the end of what is in flight.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "schema::Time")]
    pub drain_timeout: Duration,
    /// Bytes of memory of this process alone, above which nothing new is taken on; or nine tenths of what its control
    /// group may have, if that is less.
    #[schemars(range(min = 16_777_216, max = MOST_MEMORY))]
    pub memory: usize,
    /// Bytes of one update of the control plane.
    #[schemars(range(min = 65_536, max = MOST))]
    pub snapshot_bytes: usize,
    /// Callers that one rate limit tells apart. A further one is refused while none of theirs has been silent for long
    /// enough to be forgotten.
    #[schemars(range(min = 1, max = MOST))]
    pub rate_callers: usize,
    /// Edge cells kept per worker; further edges are counted together as overflow.
    #[schemars(range(min = 16, max = MOST))]
    pub edge_cells: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_source: 2_000,
            handshakes: 256,
            handshake_timeout: Duration::from_secs(5),
            detect_timeout: Duration::from_secs(3),
            quiet_timeout: Duration::from_millis(50),
            head_timeout: Duration::from_secs(10),
            body_rate: 240,
            body_timeout: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_mins(1),
            opaque_idle_timeout: Duration::from_hours(1),
            write_timeout: Duration::from_mins(1),
            connection_age: Duration::from_hours(1),
            connection_grace: Duration::from_mins(5),
            control_frames: 1_000,
            stream_resets: 100,
            header_bytes: 64 * 1024,
            headers: 100,
            path_bytes: 8 * 1024,
            streams: 100,
            requests: 8_192,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_mins(1),
            idle_connections: 64,
            idle_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            memory: 1024 * 1024 * 1024,
            snapshot_bytes: 16 * 1024 * 1024,
            rate_callers: 4_096,
            edge_cells: 4_096,
        }
    }
}

/// The `limits` of the file; what is absent keeps its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct LimitsFile {
    connections: Option<u64>,
    connections_per_source: Option<u64>,
    handshakes: Option<u64>,
    handshake_timeout: Option<String>,
    detect_timeout: Option<String>,
    quiet_timeout: Option<String>,
    head_timeout: Option<String>,
    body_rate: Option<u64>,
    body_timeout: Option<String>,
    keep_alive_timeout: Option<String>,
    opaque_idle_timeout: Option<String>,
    write_timeout: Option<String>,
    connection_age: Option<String>,
    connection_grace: Option<String>,
    control_frames: Option<u64>,
    stream_resets: Option<u64>,
    header_bytes: Option<u64>,
    headers: Option<u64>,
    path_bytes: Option<u64>,
    streams: Option<u64>,
    requests: Option<u64>,
    connect_timeout: Option<String>,
    response_timeout: Option<String>,
    idle_connections: Option<u64>,
    idle_timeout: Option<String>,
    drain_timeout: Option<String>,
    memory: Option<u64>,
    snapshot_bytes: Option<u64>,
    rate_callers: Option<u64>,
    edge_cells: Option<u64>,
}

impl LimitsFile {
    /// The limits in force; a value out of range is a fault and none of them is ever "unlimited".
    pub(super) fn resolve(self, faults: &mut Vec<Fault>) -> Limits {
        let mut limits = Limits::default();
        if let Some(memory) = self.memory {
            match usize::try_from(memory) {
                Ok(bytes) if (LEAST_MEMORY..=MOST_MEMORY).contains(&memory) => limits.memory = bytes,
                _ => faults.push(Fault {
                    field: "limits.memory".to_owned(),
                    message: format!("{memory} is not between {LEAST_MEMORY} and {MOST_MEMORY}"),
                }),
            }
        }
        let mut number = |field: &str, value: Option<u64>, into: &mut usize, least: u64| {
            let Some(value) = value else { return };
            match usize::try_from(value) {
                Ok(number) if (least..=MOST).contains(&value) => *into = number,
                _ => faults.push(Fault {
                    field: format!("limits.{field}"),
                    message: format!("{value} is not between {least} and {MOST}"),
                }),
            }
        };
        let mut body_rate = limits.body_rate as usize;
        let mut streams = limits.streams as usize;
        let mut control_frames = limits.control_frames as usize;
        let mut stream_resets = limits.stream_resets as usize;
        number("connections", self.connections, &mut limits.connections, 1);
        number("connectionsPerSource", self.connections_per_source, &mut limits.connections_per_source, 1);
        number("handshakes", self.handshakes, &mut limits.handshakes, 1);
        number("bodyRate", self.body_rate, &mut body_rate, 1);
        // What a server of HTTP/1 takes at the least (RFC 9112 §3 recommends as much for the first line).
        number("headerBytes", self.header_bytes, &mut limits.header_bytes, 8_192);
        number("headers", self.headers, &mut limits.headers, 8);
        number("pathBytes", self.path_bytes, &mut limits.path_bytes, 16);
        number("streams", self.streams, &mut streams, 1);
        number("controlFrames", self.control_frames, &mut control_frames, 1);
        number("streamResets", self.stream_resets, &mut stream_resets, 1);
        number("requests", self.requests, &mut limits.requests, 1);
        number("idleConnections", self.idle_connections, &mut limits.idle_connections, 1);
        number("snapshotBytes", self.snapshot_bytes, &mut limits.snapshot_bytes, 65_536);
        number("rateCallers", self.rate_callers, &mut limits.rate_callers, 1);
        number("edgeCells", self.edge_cells, &mut limits.edge_cells, 16);
        // None of them is over `MOST`.
        for (into, number) in [
            (&mut limits.body_rate, body_rate),
            (&mut limits.streams, streams),
            (&mut limits.control_frames, control_frames),
            (&mut limits.stream_resets, stream_resets),
        ] {
            *into = u32::try_from(number).unwrap_or(*into);
        }

        let mut time = |field: &str, value: Option<String>, into: &mut Duration| {
            let Some(value) = value else { return };
            match duration(&value) {
                Ok(time) if !time.is_zero() => *into = time,
                Ok(_) => faults.push(Fault { field: format!("limits.{field}"), message: "is zero".into() }),
                Err(message) => faults.push(Fault { field: format!("limits.{field}"), message }),
            }
        };
        time("handshakeTimeout", self.handshake_timeout, &mut limits.handshake_timeout);
        time("detectTimeout", self.detect_timeout, &mut limits.detect_timeout);
        time("quietTimeout", self.quiet_timeout, &mut limits.quiet_timeout);
        time("headTimeout", self.head_timeout, &mut limits.head_timeout);
        time("bodyTimeout", self.body_timeout, &mut limits.body_timeout);
        time("keepAliveTimeout", self.keep_alive_timeout, &mut limits.keep_alive_timeout);
        time("opaqueIdleTimeout", self.opaque_idle_timeout, &mut limits.opaque_idle_timeout);
        time("writeTimeout", self.write_timeout, &mut limits.write_timeout);
        time("connectionAge", self.connection_age, &mut limits.connection_age);
        time("connectionGrace", self.connection_grace, &mut limits.connection_grace);
        time("connectTimeout", self.connect_timeout, &mut limits.connect_timeout);
        time("responseTimeout", self.response_timeout, &mut limits.response_timeout);
        time("idleTimeout", self.idle_timeout, &mut limits.idle_timeout);
        time("drainTimeout", self.drain_timeout, &mut limits.drain_timeout);
        limits
    }
}

fn as_text<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_duration(*time))
}

/// The largest number any limit may be set to.
const MOST: u64 = 1 << 30;
/// Below this there is no sidecar; above, no machine.
const LEAST_MEMORY: u64 = 16 * 1024 * 1024;
const MOST_MEMORY: u64 = 1 << 40;

#[cfg(test)]
mod tests;
