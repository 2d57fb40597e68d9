//! Receives the policies of a workload; hands on, for a port, a rule in force that has conditions on HTTP there: a port
//! whose policies read requests must not carry bytes that cannot be read. Of several rules one that names the port comes
//! first, then the first by policy name and position. Knows also whether a port's rules ask for a server name, so that nobody
//! waits for one elsewhere.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::{Condition, Operation, Policies, Sourced};

/// A rule with conditions on method, path, host or gRPC method, in `to`, `when` or `rego`, or on a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// `namespace/name` of its policy.
    pub policy: Arc<str>,
    /// The rule.
    pub rule: Arc<str>,
    /// Where it is written: `policies/payments.yaml:12`.
    pub source: Arc<str>,
}

/// Ports whose rules ask for a server name.
#[derive(Debug, Default)]
pub(crate) struct NamedPorts {
    listed: HashSet<u16>,
    /// Of rules that name no port.
    any: bool,
}

/// The first such rule of each port.
#[derive(Debug, Default)]
pub(crate) struct HttpPorts {
    by_port: HashMap<u16, HttpRule>,
    /// Of the rules that name no port.
    any: Option<HttpRule>,
}

impl Policies {
    /// A rule in force that has conditions on HTTP for `port`, whoever calls. Deny, Require and Allow count alike: each says
    /// that the port speaks HTTP. A shadow policy changes nothing and does not count; a rule that has expired does, since
    /// its end must not let through what it kept out.
    pub fn http_rule(&self, port: u16) -> Option<&HttpRule> {
        let HttpPorts { by_port, any } = &self.enforced.http_ports;
        by_port.get(&port).or(any.as_ref())
    }
}

impl Policies {
    /// Whether a rule asks for the server name of connections to `port`. A shadow policy counts: without the name it
    /// would be judged in doubt.
    pub fn asks_sni(&self, port: u16) -> bool {
        let NamedPorts { listed, any } = &self.trial.as_ref().unwrap_or(&self.enforced).named_ports;
        *any || listed.contains(&port)
    }
}

impl NamedPorts {
    pub(crate) fn add(&mut self, sourced: &Sourced) {
        let operations = sourced.rules().flat_map(|(rule, _)| rule.to.iter().flat_map(|to| to.iter()));
        for operation in operations.filter(|operation| operation.sni.is_some()) {
            self.any |= operation.ports.is_none();
            self.listed.extend(operation.ports.iter().flat_map(|ports| ports.iter()));
        }
    }
}

impl HttpPorts {
    /// Adds a policy that comes after all others.
    pub(crate) fn add(&mut self, sourced: &Sourced) {
        for (rule, source) in sourced.rules() {
            // A module may read a request that is not there as one that is allowed.
            let asks_besides = rule.jwt.is_some()
                || rule.rego.is_some()
                || rule.when.as_ref().is_some_and(Condition::asks_http);
            // Without `to` a rule is about any operation; on which ports its `jwt`, `when` or `rego` asks is not guessed.
            let any = [Operation::default()];
            let operations = rule.to.as_deref().unwrap_or(&any).iter();
            for operation in operations.filter(|operation| asks_besides || operation.asks_http()) {
                let found = || HttpRule {
                    policy: Arc::clone(sourced.name()),
                    rule: rule.name.shared(),
                    source: Arc::clone(source),
                };
                match &operation.ports {
                    None => {
                        self.any.get_or_insert_with(found);
                    }
                    Some(ports) => {
                        for port in ports.iter() {
                            self.by_port.entry(*port).or_insert_with(found);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{PolicySet, Workload, parse_yaml};

    /// The rule that says that `port` speaks HTTP, under policies of these actions, modes and rules.
    fn rule_of(port: u16, policies: &[(&str, &str)]) -> Option<String> {
        let text = policies.iter().enumerate().map(|(index, (head, rule))| {
            format!(
                "---\napiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p{index}}}\n\
                 spec: {{{head}, rules: [{{name: r, {rule}}}]}}\n"
            )
        });
        let text = text.collect::<String>();
        let set = PolicySet::new(parse_yaml("a.yaml", &text, Some("shop")).unwrap()).unwrap();
        let policies = set.compile(&Workload {
            namespace: "shop",
            labels: &[].into(),
            trust_domain: "shop.test",
            root_namespace: None,
        });
        policies.http_rule(port).map(|found| format!("{} of {}", found.rule, found.policy))
    }

    #[test]
    fn every_condition_on_http_of_every_action_says_that_the_port_speaks_http() {
        for action in ["Allow", "Deny", "Require"] {
            for asks in ["methods: [GET]", "paths: [/a]", "hosts: [a.test]", "grpc: {service: a.B}"] {
                let policy = (&*format!("action: {action}"), &*format!("to: [{{{asks}}}]"));
                assert_eq!(rule_of(80, &[policy]).as_deref(), Some("r of shop/p0"), "{action} {asks}");
            }
            let without =
                (&*format!("action: {action}"), "from: [{namespaces: [shop]}], to: [{ports: [80]}]");
            assert_eq!(rule_of(80, &[without]), None, "{action} without conditions on HTTP");
        }
    }

    #[test]
    fn a_when_that_asks_for_http_counts_on_the_ports_of_its_rule() {
        const ASKS: &str = "when: 'request.headers[\"x-a\"] == \"1\" || source.namespace == \"shop\"'";
        for (rule, on_80, on_81) in [
            (ASKS.to_owned(), true, true),
            (format!("to: [{{ports: [80]}}], {ASKS}"), true, false),
            (format!("from: [{{namespaces: [shop]}}], {ASKS}"), true, true),
            ("when: destination.port == 80 && source.namespace == 'shop'".to_owned(), false, false),
        ] {
            for action in ["action: Allow", "action: Deny", "action: Require"] {
                let found = [80, 81].map(|port| rule_of(port, &[(action, &rule)]).is_some());
                assert_eq!(found, [on_80, on_81], "{action} {rule}");
            }
        }
    }

    #[test]
    fn a_condition_counts_on_its_ports_alone_and_for_every_caller() {
        let one = ("action: Allow", "from: [{serviceAccounts: [shop/a]}], to: [{ports: [80], paths: [/a]}]");
        assert_eq!(rule_of(80, &[one]).as_deref(), Some("r of shop/p0"));
        assert_eq!(rule_of(81, &[one]), None);
    }

    #[test]
    fn a_server_name_is_waited_for_on_the_ports_of_rules_that_ask_for_one() {
        let asks = |port: u16, to: &str, mode: &str| {
            let text = format!(
                "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\n\
                 spec: {{action: Allow, mode: {mode}, rules: [{{to: [{to}]}}]}}\n"
            );
            let set = PolicySet::new(parse_yaml("a.yaml", &text, Some("shop")).unwrap()).unwrap();
            let labels = [].into();
            let workload = Workload {
                namespace: "shop",
                labels: &labels,
                trust_domain: "shop.test",
                root_namespace: None,
            };
            set.compile(&workload).asks_sni(port)
        };
        for mode in ["Enforce", "Shadow"] {
            assert!(asks(443, "{ports: [443], sni: [db.test]}", mode));
            assert!(!asks(444, "{ports: [443], sni: [db.test]}", mode));
            assert!(asks(444, "{sni: [db.test]}", mode));
            assert!(!asks(443, "{ports: [443]}", mode));
        }
    }

    #[test]
    fn the_first_policy_by_name_is_the_one_that_is_told() {
        let (allow, deny) =
            (("action: Allow", "to: [{paths: [/a]}]"), ("action: Deny", "to: [{paths: [/b]}]"));
        assert_eq!(rule_of(80, &[allow, deny]).as_deref(), Some("r of shop/p0"));
    }

    #[test]
    fn a_shadow_policy_changes_nothing_and_an_expired_rule_still_counts() {
        assert_eq!(rule_of(80, &[("action: Deny, mode: Shadow", "to: [{paths: [/a]}]")]), None);
        let expired = ("action: Allow", "to: [{paths: [/a]}], expires: 2001-01-01");
        assert_eq!(rule_of(80, &[expired]).as_deref(), Some("r of shop/p0"));
    }
}
