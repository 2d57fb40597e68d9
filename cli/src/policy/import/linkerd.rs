//! Linkerd's policies: a Server is a port of some pods, an `AuthorizationPolicy` lets callers reach it or a route of it,
//! and authentications say who they are. Everything of it grants, so that what is refused is left out.

mod caller;
mod route;

use std::collections::BTreeMap;

use serde_json::json;
use sidegate_identity::TrustDomain;

use self::route::Reach;
use super::{
    Object, Refusal,
    draft::{Action, Draft, Fields, Rule},
    only,
    report::Report,
};
use crate::yaml::Node;

/// Every object, found by kind, namespace and name.
struct Index<'o> {
    objects: &'o [Object<'o>],
    trust_domain: &'o TrustDomain,
}

/// What a policy is about.
struct Target<'o> {
    server: &'o Object<'o>,
    /// The route that it is about; `None`: the server as a whole.
    route: Option<&'o Object<'o>>,
}

/// Translates every object of Linkerd's policy API, and leaves others alone.
pub(super) fn translate(objects: &[Object<'_>], trust_domain: &TrustDomain, report: &mut Report) {
    let index = Index { objects, trust_domain };
    for object in objects {
        match (object.group, object.kind) {
            (POLICY, "AuthorizationPolicy") => add(object, index.authorization(object), report),
            (POLICY, "Server") => add(object, index.access(object), report),
            (POLICY, "MeshTLSAuthentication" | "NetworkAuthentication") => {
                report.holds(object, "translated where a policy requires it");
            }
            (POLICY | GATEWAY, "HTTPRoute" | "GRPCRoute") => match index.route(object) {
                Ok(_) => report.holds(object, "translated where a policy is about it or its Server"),
                Err(refusal) => report.refused(object, refusal, None),
            },
            (POLICY, kind) => {
                let why = format!("{kind} has no translation");
                report.refused(object, Refusal::at(object.node, why), None);
            }
            _ => report.ignored(object),
        }
    }
    report.note(
        "ports that no Server names: Linkerd lets in what its default policy says, here nothing is let in",
    );
}

fn add(object: &Object<'_>, drafts: Result<Vec<Draft>, Refusal>, report: &mut Report) {
    let drafts = drafts.and_then(|drafts| match drafts.iter().find_map(Draft::problem) {
        Some(problem) => Err(Refusal::at(object.node, problem)),
        None => Ok(drafts),
    });
    match drafts {
        Ok(drafts) => report.translated(object, drafts),
        Err(refusal) => report.refused(object, refusal, None),
    }
}

impl<'o> Index<'o> {
    fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&'o Object<'o>> {
        self.objects.iter().find(|it| (it.kind, it.namespace, it.name) == (kind, namespace, name))
    }

    fn servers(&self, namespace: &str) -> Vec<&'o Object<'o>> {
        let is_one =
            |it: &&Object<'_>| it.group == POLICY && it.kind == "Server" && it.namespace == namespace;
        self.objects.iter().filter(is_one).collect()
    }

    fn authorization(&self, object: &Object<'_>) -> Result<Vec<Draft>, Refusal> {
        let spec = object.spec()?.ok_or_else(|| Refusal::at(object.node, "a policy without `spec`"))?;
        only(spec, &["targetRef", "requiredAuthenticationRefs"])?;
        let from = caller::sources(self, object, spec)?;
        let targets = self.targets(object, spec)?;
        let several = targets.len() > 1;
        let mut drafts = Vec::new();
        for target in targets {
            let name = if several {
                format!("{}-{}", object.name, target.server.name)
            } else {
                object.name.to_owned()
            };
            drafts.push(self.draft(object, name, &target, &from)?);
        }
        Ok(drafts)
    }

    /// A Server may let callers in by itself; the default is that it does not.
    fn access(&self, object: &'o Object<'o>) -> Result<Vec<Draft>, Refusal> {
        let spec = object.spec()?.ok_or_else(|| Refusal::at(object.node, "a Server without `spec`"))?;
        only(spec, &["podSelector", "port", "proxyProtocol", "accessPolicy"])?;
        let Some(access) = spec.get("accessPolicy")? else {
            return Ok(Vec::new());
        };
        match access.text()? {
            "deny" => Ok(Vec::new()),
            "all-authenticated" => {
                let target = Target { server: object, route: None };
                let name = format!("server-{}", object.name);
                Ok(vec![self.draft(object, name, &target, &[self.everybody()])?])
            }
            other => {
                Err(Refusal::at(access, format!("accessPolicy {other} lets in callers without an identity")))
            }
        }
    }

    fn targets(&self, object: &Object<'_>, spec: &Node) -> Result<Vec<Target<'o>>, Refusal> {
        let target =
            spec.get("targetRef")?.ok_or_else(|| Refusal::at(spec, "a policy without `targetRef`"))?;
        only(target, &["group", "kind", "name", "namespace"])?;
        let text = |field| target.get(field)?.map(Node::text).transpose();
        let (kind, name) = (text("kind")?.unwrap_or_default(), text("name")?.unwrap_or_default());
        if text("namespace")?.is_some_and(|namespace| namespace != object.namespace) {
            return Err(Refusal::at(target, "a target in another namespace"));
        }
        let missing =
            || Refusal::at(target, format!("{kind} {}/{name} is not in these files", object.namespace));
        match kind {
            "Server" => {
                let server = self.find(kind, object.namespace, name).ok_or_else(missing)?;
                Ok(vec![Target { server, route: None }])
            }
            "Namespace" => {
                let servers = self.servers(name);
                if servers.is_empty() {
                    return Err(Refusal::at(target, format!("no Server of {name} is in these files")));
                }
                Ok(servers.into_iter().map(|server| Target { server, route: None }).collect())
            }
            "HTTPRoute" => {
                let route = self.find(kind, object.namespace, name).ok_or_else(missing)?;
                let servers = self.parents(route)?;
                Ok(servers.into_iter().map(|server| Target { server, route: Some(route) }).collect())
            }
            _ => Err(Refusal::at(target, format!("the target {kind} has no translation"))),
        }
    }

    /// The Servers that a route belongs to.
    fn parents(&self, route: &Object<'_>) -> Result<Vec<&'o Object<'o>>, Refusal> {
        let mut servers = Vec::new();
        let parents = route.node.at(&["spec", "parentRefs"])?;
        for parent in parents.map(Node::items).transpose()?.unwrap_or_default() {
            let text = |field| parent.get(field)?.map(Node::text).transpose();
            if text("kind")? != Some("Server") {
                return Err(Refusal::at(parent, "a parent that is no Server"));
            }
            let namespace = text("namespace")?.unwrap_or(route.namespace);
            let name = text("name")?.unwrap_or_default();
            let missing = || Refusal::at(parent, format!("Server {namespace}/{name} is not in these files"));
            servers.push(self.find("Server", namespace, name).ok_or_else(missing)?);
        }
        if servers.is_empty() {
            return Err(Refusal::at(route.node, "a route without a Server"));
        }
        Ok(servers)
    }

    /// What a route matches.
    fn route(&self, route: &Object<'_>) -> Result<Vec<Reach>, Refusal> {
        if route.kind != "HTTPRoute" {
            return Err(Refusal::at(route.node, format!("{} has no translation", route.kind)));
        }
        self.parents(route)?;
        route::reach(route)
    }

    fn draft(
        &self,
        object: &Object<'_>,
        name: String,
        target: &Target<'o>,
        from: &[Fields],
    ) -> Result<Draft, Refusal> {
        let port = port(target.server)?;
        let reached = self.reached(target)?;
        let mut rules = Vec::new();
        for (number, reach) in (1_usize..).zip(reached) {
            let mut to = reach.fields;
            to.insert("ports".to_owned(), json!([port]));
            rules.push(Rule {
                name: format!("rule-{number}"),
                from: from.to_vec(),
                to: vec![to],
                jwt: None,
                when: reach.when,
            });
        }
        Ok(Draft {
            origin: format!("{} {}, {}", object.kind, object.name, object.place()),
            namespace: target.server.namespace.to_owned(),
            name,
            selector: selector(target.server)?,
            action: Action::Allow,
            is_shadow: false,
            rules,
        })
    }

    /// What of a server is reached. Where it has routes, only what one of them matches; and a request belongs to the
    /// most specific of them alone, so that routes must be apart for a policy about one to be exact.
    fn reached(&self, target: &Target<'o>) -> Result<Vec<Reach>, Refusal> {
        let mut routes = Vec::new();
        for object in self.objects.iter().filter(|it| matches!(it.group, POLICY | GATEWAY)) {
            if matches!(object.kind, "HTTPRoute" | "GRPCRoute") && self.is_of(object, target.server) {
                routes.push((object, self.route(object)?));
            }
        }
        let Some(own) = target.route else {
            if routes.is_empty() {
                return Ok(vec![Reach::default()]);
            }
            return Ok(routes.into_iter().flat_map(|(_, reach)| reach).collect());
        };
        let is_own = |object: &Object<'_>| (object.namespace, object.name) == (own.namespace, own.name);
        let (own_routes, others): (Vec<_>, Vec<_>) =
            routes.into_iter().partition(|(object, _)| is_own(object));
        let reached: Vec<Reach> = own_routes.into_iter().flat_map(|(_, reach)| reach).collect();
        for (object, reach) in others {
            if reach.iter().any(|other| reached.iter().any(|one| !one.is_apart(other))) {
                let why = format!("its route and {} of the same Server may match one request", object.name);
                return Err(Refusal::at(own.node, why));
            }
        }
        Ok(reached)
    }

    fn is_of(&self, route: &Object<'_>, server: &Object<'_>) -> bool {
        // A route whose parents are not understood is refused where it is read.
        self.parents(route).is_ok_and(|parents| {
            parents.iter().any(|it| (it.namespace, it.name) == (server.namespace, server.name))
        })
    }

    /// Any identity of the mesh.
    fn everybody(&self) -> Fields {
        [("trustDomains".to_owned(), json!([self.trust_domain.to_string()]))].into_iter().collect()
    }
}

fn port(server: &Object<'_>) -> Result<u16, Refusal> {
    let port = server
        .node
        .at(&["spec", "port"])?
        .ok_or_else(|| Refusal::at(server.node, "a Server without `port`"))?;
    let text = port.scalar()?;
    let named =
        || Refusal::at(port, format!("the port {text:?} is named by its pods, which are not known here"));
    text.parse().map_err(|_| named())
}

fn selector(server: &Object<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let selector = server.node.at(&["spec", "podSelector"])?;
    let selector = selector.ok_or_else(|| Refusal::at(server.node, "a Server that selects no pods"))?;
    only(selector, &["matchLabels"])?;
    let Some(labels) = selector.get("matchLabels")? else {
        return Ok(BTreeMap::new());
    };
    let label = |(key, value): &(String, Node)| Ok((key.clone(), value.text()?.to_owned()));
    labels.fields()?.iter().map(label).collect()
}

const POLICY: &str = "policy.linkerd.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
