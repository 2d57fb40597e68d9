//! What of a changed file is in force only after a restart: what listeners, workers and the control plane's Hello rest on.

use super::{Config, Source};

impl Config {
    /// The first field that differs from `next` and is in force only after a restart, if any.
    pub fn needs_restart(&self, next: &Self) -> Option<&'static str> {
        let inbound = |config: &Self| config.inbound.iter().map(|port| port.listen).collect::<Vec<_>>();
        // A connection knows its port by its place.
        let captured = |config: &Self| {
            let ports = config.inbound.iter();
            ports.map(|port| port.is_captured.then(|| port.forward.port())).collect::<Vec<_>>()
        };
        let outbound = |config: &Self| config.outbound.iter().map(|port| port.listen).collect::<Vec<_>>();
        // What a control plane has been told of this sidecar: its Hello is of the start.
        let is_told = matches!(self.source, Source::ControlPlane(_));
        let advertised = |config: &Self| {
            let ports = config.inbound.iter();
            ports.map(|port| (port.advertise, port.forward.port())).collect::<Vec<_>>()
        };
        let kept = [
            ("trustDomain", self.trust_domain == next.trust_domain),
            ("workload", self.workload.identity == next.workload.identity),
            ("controlPlane or identity", self.source == next.source),
            ("cache", self.cache == next.cache),
            ("inbound[].listen", inbound(self) == inbound(next)),
            ("inbound[].ports", captured(self) == captured(next)),
            ("outbound[].listen", outbound(self) == outbound(next)),
            (
                "inbound[].advertise or the port of inbound[].forward",
                !is_told || advertised(self) == advertised(next),
            ),
            ("the services called", !is_told || self.called() == next.called()),
            ("admin", self.admin == next.admin),
            ("requirePostQuantum", self.key_exchange == next.key_exchange),
            ("workloadApi", self.workload_endpoint == next.workload_endpoint),
            ("accessLog", self.access_log == next.access_log),
            ("limits", self.limits == next.limits),
            ("workers", self.workers == next.workers),
        ];
        kept.iter().find(|(_, same)| !same).map(|(field, _)| *field)
    }
}
