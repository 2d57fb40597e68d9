//! The files of the demo as text: `mesh.yaml`, the policies, the sidecars' configurations. A user may copy them.

use std::{fmt::Write, time::Duration};

use super::cast::{Cast, NAMESPACE, ORDERS, TRUST_DOMAIN, VAULT, Workload};

/// How a demo for the eye differs from one for the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Of each certificate; whole seconds.
    pub(super) leaf_life: Duration,
    pub(super) access_log: AccessLog,
}

/// Whether each request leaves a line. Half a megabyte a second is evidence for a check, and a full disk for a show
/// that runs all day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccessLog {
    Stdout,
    Off,
}

/// `mesh.yaml`; `tokens` are the digests of the join tokens, in the order of the workloads.
pub(super) fn mesh(cast: &Cast, tokens: &[String], setting: Setting) -> String {
    let mut text = format!(
        "apiVersion: sidegate.dev/v1alpha1\n\
         kind: Mesh\n\
         trustDomain: {TRUST_DOMAIN}\n\
         enforcement: Enforce\n\
         policies: policies/\n\
         state: state/\n\
         listen: {{grpc: \"{}\", api: \"{}\"}}\n\
         certificates: {{leafLife: {}s}}   # seconds, so that you can watch them rotate\n\
         reportInterval: 1s\n\
         services:\n",
        cast.grpc,
        cast.api,
        setting.leaf_life.as_secs()
    );
    for (workload, token) in cast.workloads.iter().zip(tokens) {
        let _ = write!(
            text,
            "- namespace: {NAMESPACE}\n  name: {}\n  joinTokens: [\"sha256:{token}\"]\n",
            workload.name
        );
    }
    let _ = write!(
        text,
        "# Its address was reused by another workload: callers must refuse what answers there.\n\
         - namespace: {NAMESPACE}\n  name: {VAULT}\n  endpoints: [\"{}\"]\n",
        cast.served(ORDERS).inbound
    );
    text
}

/// A sidecar's configuration.
pub(super) fn sidecar(cast: &Cast, workload: &Workload, access_log: AccessLog) -> String {
    let mut text = format!(
        "trustDomain: {TRUST_DOMAIN}\n\
         workload: {{namespace: {NAMESPACE}, serviceAccount: {}}}\n\
         controlPlane: {{address: \"{}\", trustBundle: ../../state/root.pem, joinToken: token}}\n\
         cache: cache/\n",
        workload.name, cast.grpc
    );
    if let Some(served) = workload.served {
        let _ = writeln!(
            text,
            "inbound:\n- {{listen: \"{}\", forward: \"{}\", protocol: http}}",
            served.inbound, served.app
        );
    }
    text.push_str("outbound:");
    text.push_str(if workload.calls.is_empty() { " []\n" } else { "\n" });
    for call in &workload.calls {
        let _ = writeln!(
            text,
            "- {{listen: \"{}\", service: {NAMESPACE}/{}, protocol: http}}",
            call.listen, call.service
        );
    }
    let access_log = match access_log {
        AccessLog::Stdout => "stdout",
        AccessLog::Off => "\"off\"",
    };
    let _ = writeln!(text, "admin: {{listen: \"{}\"}}\naccessLog: {access_log}", workload.admin);
    text
}

/// Every policy of the demo, as file name and text.
pub(super) fn policies() -> [(&'static str, String); 3] {
    [
        ("callers.yaml", CALLERS.to_owned()),
        ("guards.yaml", GUARDS.to_owned()),
        (PROBES_FILE, probes(Probes::Open)),
    ]
}

/// Whether the probes of the checks are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probes {
    Open,
    Closed,
}

/// The file that the checks rewrite while connections are open: one policy for each service.
pub(super) fn probes(state: Probes) -> String {
    let (action, rule) = match state {
        Probes::Open => ("Allow", "open"),
        Probes::Closed => ("Deny", "closed"),
    };
    ["web", "orders", "payments"]
        .map(|service| {
            format!(
                "apiVersion: sidegate.dev/v1alpha1\n\
                 kind: AuthorizationPolicy\n\
                 metadata: {{name: {service}-probes, namespace: {NAMESPACE}}}\n\
                 spec:\n  selector: {{app: {service}}}\n  action: {action}\n  rules:\n  - name: {rule}\n    \
                 from: [{{namespaces: [{NAMESPACE}]}}]\n    to: [{{methods: [GET], paths: [/ping]}}]\n"
            )
        })
        .join("---\n")
}

/// The name of the file of [`probes`].
pub(super) const PROBES_FILE: &str = "probes.yaml";

/// The policy and the rule that close `/admin` to everybody.
pub(super) const GUARD: (&str, &str) = ("shop/admin-is-closed", "nobody");

const GUARDS: &str = "apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: admin-is-closed, namespace: shop}
spec:
  action: Deny                       # judged first; no Allow overrides it
  rules:
  - name: nobody
    to: [{paths: [/admin, /admin/**]}]
";

const CALLERS: &str = "apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-callers, namespace: shop}
spec:
  selector: {app: web}
  action: Allow
  rules:
  - name: customers-buy
    from: [{serviceAccounts: [shop/customer]}]
    to: [{methods: [GET], paths: [/buy]}]
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: orders-callers, namespace: shop}
spec:
  selector: {app: orders}
  action: Allow
  rules:
  - name: web-orders
    from: [{serviceAccounts: [shop/web]}]
    to: [{methods: [POST], paths: [/orders]}]
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: payments-callers, namespace: shop}
spec:
  selector: {app: payments}
  action: Allow
  rules:
  - name: orders-charge
    from: [{serviceAccounts: [shop/orders]}]
    to: [{methods: [POST], paths: [/charge, /admin]}]   # /admin stays closed: a Deny is judged first
";
