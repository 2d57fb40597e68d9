//! Policies that load together or not at all, and the part of them that concerns one workload.

use std::{collections::BTreeMap, sync::Arc};

use sidegate_codes::Code;

use crate::{Document, Egress, Policies, PolicyError, Sourced, egress, index, limits, plaintext};

/// Policies that were checked as a whole: names are unique, limits hold. In the order of their names, so that the
/// order of files and documents never decides anything.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    documents: Vec<Arc<Document>>,
    /// By namespace: what a workload costs follows from its own policies, not from everybody's.
    namespaces: BTreeMap<String, Namespace>,
}

/// The policies of a namespace, as positions in the set, by the first label that they ask for.
#[derive(Clone, Debug, Default)]
struct Namespace {
    asking_nothing: Vec<usize>,
    by_label: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
}

/// The workload whose inbound traffic is judged, as selectors see it.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its own trust domain: the one that `serviceAccounts` and `namespaces` mean where no `trustDomains` are given.
    pub trust_domain: &'a str,
    /// The namespace whose policies hold for the whole mesh, if there is one.
    pub root_namespace: Option<&'a str>,
}

impl PolicySet {
    /// Checks the policies as a whole; every error is reported, not only the first.
    pub fn new<D: Into<Arc<Document>>>(policies: Vec<D>) -> Result<Self, Vec<PolicyError>> {
        let mut documents: Vec<Arc<Document>> = policies.into_iter().map(Into::into).collect();
        // Stable: of two policies with one name, the error names the one that was read later.
        documents.sort_by(|a, b| a.name().cmp(b.name()));
        let errors: Vec<_> =
            duplicates(&documents).chain(over_limits(&documents)).chain(over_index(&documents)).collect();
        if errors.is_empty() { Ok(Self::of(documents)) } else { Err(errors) }
    }

    /// Every policy of every kind, in the order of names.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().map(Arc::as_ref)
    }

    /// Every authorization policy, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = &Sourced> {
        self.documents().filter_map(authorization)
    }

    /// How many policies of all kinds there are.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there are none. Such a set denies everything.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// The policies of every kind that select the workload, in the order of names.
    pub fn documents_selecting(&self, workload: &Workload<'_>) -> impl Iterator<Item = &Document> {
        let mut candidates = self.candidates(workload);
        candidates.sort_unstable();
        let candidates = candidates.into_iter().filter_map(|position| self.documents.get(position));
        candidates.map(Arc::as_ref).filter(move |document| selects(document, workload))
    }

    /// The authorization policies that select the workload, in the order of names.
    pub fn selecting(&self, workload: &Workload<'_>) -> impl Iterator<Item = &Sourced> {
        self.documents_selecting(workload).filter_map(authorization)
    }

    /// Refuses rules for the workload that ask one of its `opaque` ports by name for something of HTTP, which no
    /// connection there could ever answer. Rules that name no port may be meant for others.
    pub fn refuse_http_on(&self, workload: &Workload<'_>, opaque: &[u16]) -> Result<(), Vec<PolicyError>> {
        let of = |document: &Document| match document {
            Document::Authorization(sourced) => asking_http_of(sourced, opaque),
            Document::Plaintext(sourced) => plaintext::asking_http_of(sourced, opaque),
            Document::Egress(_) => Vec::new(),
        };
        let errors: Vec<_> = self.documents_selecting(workload).flat_map(of).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// What the set means for one workload, ready to judge its requests.
    pub fn compile(&self, workload: &Workload<'_>) -> Policies {
        Policies::compile(self.selecting(workload), self.exceptions(workload), workload.trust_domain)
    }

    /// Where the set lets one workload go outside of the mesh.
    pub fn compile_egress(&self, workload: &Workload<'_>) -> Egress {
        let selecting = self.documents_selecting(workload).filter_map(|document| match document {
            Document::Egress(sourced) => Some(sourced),
            Document::Authorization(_) | Document::Plaintext(_) => None,
        });
        Egress::compile(selecting, workload.trust_domain)
    }

    fn of(documents: Vec<Arc<Document>>) -> Self {
        let mut namespaces = BTreeMap::<String, Namespace>::new();
        for (position, document) in documents.iter().enumerate() {
            let namespace = namespaces.entry(document.metadata().namespace.to_string()).or_default();
            namespace.add(position, document);
        }
        Self { documents, namespaces }
    }

    /// The positions of all policies that could select the workload, each once.
    fn candidates(&self, workload: &Workload<'_>) -> Vec<usize> {
        let root = workload.root_namespace.filter(|root| *root != workload.namespace);
        let namespaces = [Some(workload.namespace), root].into_iter().flatten();
        namespaces
            .filter_map(|namespace| self.namespaces.get(namespace))
            .flat_map(|namespace| namespace.candidates(workload.labels))
            .collect()
    }
}

impl Namespace {
    fn add(&mut self, position: usize, document: &Document) {
        let first = document.selector().and_then(BTreeMap::first_key_value);
        let positions = match first {
            None => &mut self.asking_nothing,
            Some((key, value)) => {
                self.by_label.entry(key.clone()).or_default().entry(value.clone()).or_default()
            }
        };
        positions.push(position);
    }

    /// A policy stands at one place only, so it is met once.
    fn candidates(&self, labels: &BTreeMap<String, String>) -> impl Iterator<Item = usize> {
        let asking = labels.iter().filter_map(|(key, value)| self.by_label.get(key)?.get(value));
        self.asking_nothing.iter().chain(asking.flatten()).copied()
    }
}

fn authorization(document: &Document) -> Option<&Sourced> {
    match document {
        Document::Authorization(sourced) => Some(sourced),
        Document::Egress(_) | Document::Plaintext(_) => None,
    }
}

/// A policy selects by its labels within its own namespace, or everywhere if it is in the root namespace.
fn selects(document: &Document, workload: &Workload<'_>) -> bool {
    let namespace = document.metadata().namespace.as_str();
    let in_scope = namespace == workload.namespace || workload.root_namespace == Some(namespace);
    let has_label = |(key, value): (&String, &String)| workload.labels.get(key) == Some(value);
    in_scope && document.selector().into_iter().flatten().all(has_label)
}

fn asking_http_of(sourced: &Sourced, opaque: &[u16]) -> Vec<PolicyError> {
    let mut errors = Vec::new();
    for (rule, (written, _)) in sourced.rules().enumerate() {
        let operations = written.to.iter().flat_map(|to| to.iter()).enumerate();
        let asks_token = written.jwt.is_some();
        for (position, operation) in operations.filter(|(_, operation)| asks_token || operation.asks_http()) {
            let ports = operation.ports.iter().flat_map(|ports| ports.iter());
            errors.extend(
                ports
                    .filter(|port| opaque.contains(port))
                    .map(|port| sourced.operation_error(rule, position, declared_tcp(*port))),
            );
        }
    }
    errors
}

pub(crate) fn declared_tcp(port: u16) -> String {
    format!(
        "port {port} is declared tcp and has no method, path, host, gRPC method or token; take it out of `ports`, or \
         declare it http"
    )
}

fn duplicates(policies: &[Arc<Document>]) -> impl Iterator<Item = PolicyError> {
    policies.iter().zip(policies.iter().skip(1)).filter(|(a, b)| a.name() == b.name()).map(|(a, b)| {
        let message = format!("the policy {} is also written at {}", b.name(), a.source());
        b.error(Code::PolicyDuplicate, "metadata.name", message)
    })
}

fn over_limits(policies: &[Arc<Document>]) -> Option<PolicyError> {
    let over = |what: &str, seen: usize, max: usize| {
        let last = policies.last().filter(|_| seen > max)?;
        let message = format!("{seen} {what} in all files; at most {max} are allowed");
        Some(last.error(Code::PolicyTooLarge, "spec.rules", message))
    };
    over("policies", policies.len(), limits::POLICIES)
        .or_else(|| over("rules", policies.iter().map(|policy| policy.rules()).sum(), limits::RULES))
}

/// Rules of long lists multiply in the index; the policy with the most of them is the one to split.
fn over_index(policies: &[Arc<Document>]) -> Option<PolicyError> {
    let size = |document: &Document| match document {
        Document::Authorization(sourced) => sum(sourced.policy().spec.rules.iter().map(index::size_of)),
        Document::Egress(sourced) => sum(sourced.policy().spec.rules.iter().map(egress::size_of)),
        Document::Plaintext(sourced) => index::size_of(&sourced.policy().rule()),
    };
    let all = sum(policies.iter().map(|document| size(document)));
    let widest =
        Some(policies).filter(|_| all > limits::INDEXED)?.iter().max_by_key(|document| size(document))?;
    let message = format!(
        "names {} combinations of caller, port and path segment, all files {all}; at most {} are allowed",
        size(widest),
        limits::INDEXED
    );
    Some(widest.error(Code::PolicyTooLarge, "spec.rules", message))
}

fn sum(sizes: impl Iterator<Item = usize>) -> usize {
    sizes.fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_yaml;

    fn policy(name: &str, rules: usize) -> String {
        let rules = "  - to: [{ports: [80]}]\n".repeat(rules);
        format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\n\
             spec:\n  action: Allow\n  rules:\n{rules}---\n"
        )
    }

    fn read(file: &str, text: &str, namespace: &str) -> Vec<Document> {
        parse_yaml(file, text, Some(namespace)).unwrap()
    }

    #[test]
    fn a_name_may_stand_once_in_its_namespace_and_every_second_is_named() {
        let twice = policy("a", 1) + &policy("b", 1);
        let set = [read("one.yaml", &twice, "shop"), read("two.yaml", &twice, "shop")].concat();
        let errors = PolicySet::new(set).unwrap_err();
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "two.yaml:1:1: metadata.name: the policy shop/a is also written at one.yaml:1 (SG0214)",
                "two.yaml:9:1: metadata.name: the policy shop/b is also written at one.yaml:9 (SG0214)",
            ]
        );
    }

    #[test]
    fn one_name_in_two_namespaces_is_two_policies() {
        let set = [read("a.yaml", &policy("a", 1), "shop"), read("b.yaml", &policy("a", 1), "bank")].concat();
        let set = PolicySet::new(set).unwrap();
        let names: Vec<&str> = set.iter().map(|sourced| &**sourced.name()).collect();
        assert_eq!(names, ["bank/a", "shop/a"]);
        assert_eq!(set.len(), 2);
    }

    /// The definition, said without an index.
    fn selecting_one_by_one<'a>(set: &'a PolicySet, workload: &Workload<'_>) -> Vec<&'a str> {
        set.documents()
            .filter(|document| selects(document, workload))
            .map(|document| &**document.name())
            .collect()
    }

    #[test]
    fn a_workload_gets_the_policies_of_its_namespace_and_of_the_root_whose_labels_it_all_has() {
        let selecting = |name: &str, selector: &str| {
            policy(name, 1).replace("spec:\n", &format!("spec:\n  selector: {{{selector}}}\n"))
        };
        let files = policy("everybody", 1)
            + &selecting("one", "app: web")
            + &selecting("other", "app: db")
            + &selecting("both", "app: web, tier: front")
            + &selecting("half", "app: web, tier: back")
            + &selecting("second", "tier: front");
        let documents = ["shop", "bank", "mesh"].map(|namespace| read("a.yaml", &files, namespace)).concat();
        let set = PolicySet::new(documents).unwrap();
        let labels =
            [("app", "web"), ("tier", "front")].map(|(key, value)| (key.into(), value.into())).into();
        let none = BTreeMap::new();
        let names = |namespace, labels, root_namespace| {
            let workload = Workload { namespace, labels, trust_domain: "shop.test", root_namespace };
            let names: Vec<_> =
                set.documents_selecting(&workload).map(|document| &**document.name()).collect();
            assert_eq!(names, selecting_one_by_one(&set, &workload));
            names
        };
        let of_shop = ["shop/both", "shop/everybody", "shop/one", "shop/second"];
        assert_eq!(names("shop", &labels, None), of_shop);
        assert_eq!(names("shop", &labels, Some("shop")), of_shop);
        let of_root = of_shop.map(|name| name.replace("shop/", "mesh/"));
        assert_eq!(names("shop", &labels, Some("mesh")), [of_root, of_shop.map(String::from)].concat());
        assert_eq!(names("shop", &none, None), ["shop/everybody"]);
        assert_eq!(names("nowhere", &labels, None), [""; 0]);
    }

    #[test]
    fn more_rules_than_a_set_may_hold_refuse_it() {
        let rules = limits::RULES_PER_POLICY;
        let one = read("a.yaml", &policy("a", rules), "shop");
        let policies: Vec<_> = (0..=limits::RULES / rules)
            .flat_map(|index| {
                let json = one[0].to_json().replacen("\"a\"", &format!("\"a{index}\""), 1);
                crate::parse_json(&json, "wire")
            })
            .collect();
        let errors = PolicySet::new(policies).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].code, Code::PolicyTooLarge);
        assert!(errors[0].message.contains("110000 rules in all files"), "{}", errors[0]);
    }

    #[test]
    fn rules_that_unfold_beyond_the_index_refuse_the_set_and_the_widest_is_named() {
        let list = |count: usize, item: &dyn Fn(usize) -> String| {
            (0..count).map(item).collect::<Vec<_>>().join(", ")
        };
        let paths = list(256, &|index| format!("/a/b/p{index}"));
        let wide = |name: &str, from: &str, ports: &str| {
            let rule = format!("  - {{from: [{from}], to: [{{ports: [{ports}], paths: [{paths}]}}]}}\n");
            read("a.yaml", &policy(name, 1).replace("  - to: [{ports: [80]}]\n", &rule), "shop")
        };
        let accounts = list(256, &|index| format!("shop/a{index}"));
        let named = format!("{{serviceAccounts: [{accounts}]}}");
        // A source that names nobody one by one is one caller to the index.
        let described = list(64, &|_| "{namespaces: [shop]}".to_owned());

        // 256 callers × 256 paths of 4 places.
        let fits = [wide("a", &named, "80"), wide("b", &described, "80")].concat();
        assert!(PolicySet::new(fits.clone()).is_ok());
        let ports = list(32, &|index| (80 + index).to_string());
        for (from, seen) in [(&named, 256 * 256 * 4 * 32), (&described, 64 * 256 * 4 * 32)] {
            let errors = PolicySet::new([fits.clone(), wide("c", from, &ports)].concat()).unwrap_err();
            let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
            let all = seen + 256 * 256 * 4 + 64 * 256 * 4;
            let message = format!(
                "a.yaml:1:1: spec.rules: names {seen} combinations of caller, port and path segment, all files {all}; \
                 at most 2000000 are allowed (SG0216)"
            );
            assert_eq!(shown, [message]);
        }
    }

    #[test]
    fn http_on_an_opaque_port_is_refused_where_a_rule_for_the_workload_names_the_port() {
        let refused = |to: &str, namespace: &str| {
            let text = policy("a", 1).replace("{ports: [80]}", to);
            let set = PolicySet::new(read("a.yaml", &text, "shop")).unwrap();
            let labels = BTreeMap::new();
            let workload =
                Workload { namespace, labels: &labels, trust_domain: "shop.test", root_namespace: None };
            let errors = set.refuse_http_on(&workload, &[5432]).err().unwrap_or_default();
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for asks in ["methods: [GET]", "paths: [/a]", "hosts: [a.test]", "grpc: {service: a.B}"] {
            let errors = refused(&format!("{{ports: [80, 5432], {asks}}}"), "shop");
            assert_eq!(errors.len(), 1, "{asks}");
            let begins = "a.yaml:7:5: spec.rules[0].to[0]: port 5432 is declared tcp";
            assert!(errors[0].starts_with(begins) && errors[0].ends_with("(SG0212)"), "{errors:?}");
            assert!(refused(&format!("{{ports: [80], {asks}}}"), "shop").is_empty(), "{asks}");
            assert!(refused(&format!("{{{asks}}}"), "shop").is_empty(), "{asks}");
            assert!(refused(&format!("{{ports: [5432], {asks}}}"), "bank").is_empty(), "{asks}");
        }
        assert!(refused("{ports: [5432]}", "shop").is_empty());
        assert!(refused("{ports: [5432], sni: [db.test]}", "shop").is_empty());
    }

    #[test]
    fn the_default_namespace_stands_in_only_where_none_is_written() {
        let text = policy("a", 1).replace("{name: a}", "{name: a, namespace: bank}");
        assert_eq!(&**read("a.yaml", &text, "shop")[0].name(), "bank/a");
        let error = parse_yaml("a.yaml", &policy("a", 1), None).unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::PolicyIncomplete, Some("metadata.namespace"))
        );
        assert!(parse_yaml("a.yaml", &policy("a", 1), Some("no name")).is_err());
    }

    #[test]
    fn a_policy_and_its_rules_know_their_lines() {
        let set = PolicySet::new(read("a.yaml", &(policy("a", 1) + &policy("b", 2)), "shop")).unwrap();
        let sources: Vec<_> = set
            .iter()
            .flat_map(|it| std::iter::once(it.source()).chain(it.rules().map(|(_, source)| source)))
            .map(|source| &**source)
            .collect();
        assert_eq!(sources, ["a.yaml:1", "a.yaml:7", "a.yaml:9", "a.yaml:15", "a.yaml:16"]);
    }
}
