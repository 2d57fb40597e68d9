//! The files of `.sidegate/` as text: what the control plane reads of the mesh, and the first policies. Nothing is let in that the
//! Compose file does not declare.

use std::fmt::Write as _;

use super::{
    plan::{Member, Plan},
    settings::Settings,
};

/// `mesh.yaml` without a service; entries follow.
pub(crate) fn mesh(settings: &Settings) -> String {
    format!(
        "# The mesh as its control plane knows it. Read again when it changes; `sidegate compose init` adds services at the end.\n\
         apiVersion: sidegate.dev/v1alpha1\n\
         kind: Mesh\n\
         trustDomain: {}\n\
         enforcement: Enforce              # or Observe: admit, and record what would have been denied\n\
         policies: policies/\n\
         state: /var/lib/sidegate/state    # in the control plane's container\n\
         trustBundle: /var/lib/sidegate-trust/root.pem\n\
         listen: {{grpc: \"0.0.0.0:15110\", api: \"127.0.0.1:15180\"}}\n\
         services:\n",
        settings.trust_domain
    )
}

/// The names under which `mesh.yaml` must know a member: its identity, and each of several ports.
pub(crate) fn mesh_names(member: &Member) -> Vec<String> {
    let account = member.service.account();
    let ports = member.ports.iter().map(|port| port.mesh_name.clone()).filter(|name| *name != account);
    [account.clone()].into_iter().chain(ports).collect()
}

/// The entry of one of these names. `token` is the digest of the join token, for the identity alone.
pub(crate) fn mesh_entry(member: &Member, name: &str, token: &str, settings: &Settings) -> String {
    let namespace = &settings.project;
    let account = member.service.account();
    if name == account {
        return format!("- namespace: {namespace}\n  name: {name}\n  joinTokens: [\"sha256:{token}\"]\n");
    }
    let port = member.ports.iter().find(|port| port.mesh_name == name).map_or(0, |port| port.number);
    format!(
        "- {{namespace: {namespace}, name: {name}, serviceAccount: {account}, labels: {{app: {account}}}, port: {port}}}\n"
    )
}

/// Who may call a member, as its Compose file declares it. `None`: nobody.
pub(crate) fn policy(plan: &Plan, member: &Member, settings: &Settings) -> Option<String> {
    let namespace = &settings.project;
    let account = member.service.account();
    let mut rules = String::new();
    for caller in plan.callers(&member.service.name) {
        let calls = caller.calls.iter().filter(|call| call.to == member.service.name);
        let ports: Vec<_> = calls.map(|call| call.port.number.to_string()).collect();
        rule(&mut rules, &caller.service.account(), namespace, &caller.service.account(), &ports);
    }
    let published = member.published();
    let is_own = |number: &u16| member.ports.iter().any(|port| port.number == *number);
    let published: Vec<_> =
        published.iter().filter(|number| is_own(number)).map(ToString::to_string).collect();
    if !published.is_empty() {
        rules.push_str(
            "  # Whoever calls a published port of this service comes in under the service's own identity.\n",
        );
        rule(&mut rules, "published-port", namespace, &account, &published);
    }
    (!rules.is_empty()).then(|| {
        format!(
            "# Who may call {account}, as the Compose file declares it. Yours to narrow: methods, paths, `when`.\n\
             apiVersion: sidegate.dev/v1alpha1\n\
             kind: AuthorizationPolicy\n\
             metadata: {{name: {account}-callers, namespace: {namespace}}}\n\
             spec:\n  selector: {{app: {account}}}\n  action: Allow\n  rules:\n{rules}"
        )
    })
}

fn rule(rules: &mut String, name: &str, namespace: &str, caller: &str, ports: &[String]) {
    let _ = write!(
        rules,
        "  - name: {name}\n    from: [{{serviceAccounts: [{namespace}/{caller}]}}]\n    to: [{{ports: [{}]}}]\n",
        ports.join(", ")
    );
}
