//! Receives the exceptions that let one workload be reached without TLS; hands on whether what comes so may be listened
//! to, and judges it: there is no caller to it, so no rule that names one is about it. The exception stands in the place of
//! an Allow; Deny and Require hold beside it. Refuses whatever no exception names.

use std::{net::IpAddr, sync::Arc};

use sidegate_codes::Code;
use sidegate_identity::TrustDomain;

use crate::{
    Decision, Document, Policies, PolicyError, PolicySet, Request, Sourced, Workload,
    compile::{CompiledRule, Stages},
    judge::Found,
    limits,
    model::{Mode, PlaintextException},
    set::declared_tcp,
};

impl PolicySet {
    /// The exceptions to mutual TLS that select the workload, in the order of names.
    pub fn exceptions(&self, workload: &Workload<'_>) -> impl Iterator<Item = &Sourced<PlaintextException>> {
        self.documents_selecting(workload).filter_map(|document| match document {
            Document::Plaintext(sourced) => Some(sourced),
            Document::Authorization(_) | Document::Egress(_) => None,
        })
    }

    /// Refuses exceptions that last longer than an exception may, at `now` in seconds since the Unix epoch. What passes once
    /// passes ever after.
    pub fn refuse_lasting_exceptions(&self, now: u64) -> Result<(), Vec<PolicyError>> {
        let errors: Vec<_> = self.documents().filter_map(|document| lasting(document, now)).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

impl Policies {
    /// Whether an exception is for what comes from `ip` to `port` without TLS; if none is, there is no need to read on. What
    /// it asks for beside that is for [`Policies::judge`] to say.
    pub fn takes_plaintext(&self, port: u16, ip: IpAddr, now: u64) -> bool {
        self.enforced.plaintext.rules().any(|CompiledRule { rule, .. }| {
            let is_over = rule.expires.is_none_or(|day| day.has_begun(now));
            let mut blocks = rule.from.iter().flat_map(|from| from.iter()).flat_map(|it| it.ip_blocks.iter());
            let mut ports = rule.to.iter().flat_map(|to| to.iter()).flat_map(|it| it.ports.iter());
            !is_over
                && blocks.any(|blocks| blocks.iter().any(|block| block.contains(ip)))
                && ports.any(|ports| ports.contains(&port))
        })
    }
}

impl Stages {
    pub(crate) fn except(&mut self, sourced: &Sourced<PlaintextException>, local: Option<&TrustDomain>) {
        let rule = sourced.policy().rule();
        let rule = CompiledRule {
            order: self.plaintext.len(),
            policy: Arc::clone(sourced.name()),
            mode: Mode::Enforce,
            name: rule.name.shared(),
            source: Arc::clone(sourced.source()),
            rule,
        };
        self.plaintext.add(rule, local);
    }

    /// Judges what came without TLS.
    pub(crate) fn judge_plaintext(&self, request: &Request<'_>) -> Decision<'_> {
        match self.plaintext.find(None, request) {
            Found::Match(clause) => self
                .forbidden(None, request)
                .or_else(|| self.unmet(None, request))
                .unwrap_or_else(|| Decision::ALLOWED.by(clause)),
            Found::Doubt(_) | Found::Nothing => Decision::denied(Code::NoVerifiedPeer),
        }
    }
}

/// Operations of the exception that ask one of the workload's `opaque` ports for something of HTTP.
pub(crate) fn asking_http_of(sourced: &Sourced<PlaintextException>, opaque: &[u16]) -> Vec<PolicyError> {
    let operations = sourced.policy().spec.to.iter().enumerate();
    let asking = operations.filter(|(_, operation)| operation.asks_http());
    let ports =
        asking.flat_map(|(position, operation)| operation.ports.iter().map(move |port| (position, port)));
    let named = ports.filter(|(_, port)| opaque.contains(port));
    let error = |(position, port): (usize, &u16)| {
        sourced.error(Code::PolicyBadValue, &format!("spec.to[{position}]"), declared_tcp(*port))
    };
    named.map(error).collect()
}

fn lasting(document: &Document, now: u64) -> Option<PolicyError> {
    let Document::Plaintext(sourced) = document else { return None };
    let (day, most) = (sourced.policy().spec.expires, u64::from(limits::EXCEPTION_DAYS));
    let away = day.days_after(now);
    (away > most).then(|| {
        let message = format!(
            "{day} is {away} days away; an exception lasts {most} days at most, and can be given a new day then"
        );
        sourced.error(Code::PolicyBadValue, "spec.expires", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_yaml;

    /// An exception that is over on this day.
    fn exception(to: &str, expires: &str) -> PolicySet {
        let text = format!(
            "apiVersion: sidegate.dev/v1alpha1\nkind: PlaintextException\nmetadata: {{name: x}}\nspec:\n  \
             from: [{{ipBlocks: [10.0.0.7]}}]\n  to: [{to}]\n  expires: {expires}\n  reason: a test\n"
        );
        PolicySet::new(parse_yaml("a.yaml", &text, Some("shop")).unwrap()).unwrap()
    }

    #[test]
    fn an_exception_that_asks_http_of_an_opaque_port_is_refused() {
        let labels = [].into();
        let workload =
            Workload { namespace: "shop", labels: &labels, trust_domain: "shop.test", root_namespace: None };
        for asks in ["methods: [GET]", "paths: [/a]"] {
            let set = exception(&format!("{{ports: [80]}}, {{ports: [80, 5432], {asks}}}"), "2027-01-31");
            let errors = set.refuse_http_on(&workload, &[5432]).unwrap_err();
            let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert!(shown[0].starts_with("a.yaml:1:1: spec.to[1]: port 5432 is declared tcp"), "{shown:?}");
            assert_eq!(shown.len(), 1, "{shown:?}");
        }
        assert!(exception("{ports: [5432]}", "2027-01-31").refuse_http_on(&workload, &[5432]).is_ok());
    }

    #[test]
    fn an_exception_lasts_ninety_days_at_most_and_what_passed_once_passes_ever_after() {
        const DAY: u64 = 86_400;
        // 2027-01-31
        let end = 1_801_353_600;
        let set = exception("{ports: [80]}", "2027-01-31");
        let is_taken = |now: u64| set.refuse_lasting_exceptions(now).is_ok();
        assert!(is_taken(end - 90 * DAY) && is_taken(end) && is_taken(end + DAY));
        assert!(!is_taken(end - 90 * DAY - 1) && !is_taken(0));
        let errors = set.refuse_lasting_exceptions(end - 91 * DAY).unwrap_err();
        let shown = "a.yaml:1:1: spec.expires: 2027-01-31 is 91 days away; an exception lasts 90 days at most, and can be \
                     given a new day then (SG0212)";
        assert_eq!(errors[0].to_string(), shown);
    }
}
