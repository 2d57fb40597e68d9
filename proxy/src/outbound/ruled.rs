//! A request that a rule of the called service's routes matches: it goes in checked, and the answer of whoever the rule
//! sends it to comes out, or the rule's own.

use std::{rc::Rc, sync::Arc};

use http::Version;

use super::choose::Chosen;
use crate::{
    config::PathMode,
    error::Error,
    http::{Checked, RequestBody},
    route::{self, Matched},
    snapshot::Snapshot,
    telemetry::Record,
    upstream::{Answer, peer::Reach},
    worker::Worker,
};

/// A request that a rule of the called service's routes matches.
#[derive(Clone, Copy)]
pub(super) struct Ruled<'a> {
    pub(super) matched: Matched<'a>,
    pub(super) called: Chosen<'a>,
    pub(super) paths: PathMode,
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) worker: &'a Rc<Worker>,
}

impl Ruled<'_> {
    /// As the rule says.
    pub(super) async fn send(
        self,
        mut checked: Checked<RequestBody>,
        version: Version,
        record: &mut Record,
    ) -> Result<Answer, Error> {
        let Self { matched, called, paths, snapshot, worker } = self;
        let rule = matched.rule;
        record.routed(&rule.name);
        if let Some(limiter) = matched.limiter {
            limiter.admit_own(&worker.metrics)?;
        }
        route::inject(rule, called.name, record, worker).await?;
        if let Some(answer) = route::answer(&matched, &checked)? {
            return Ok(route::changed(answer, rule, None));
        }
        let sends = route::backend(rule, (called.name, called.service), snapshot, &worker.chance)?;
        route::change(&mut checked, &matched, sends.backend, paths, &worker.limits)?;
        route::mirror(rule, &checked, version, record, snapshot, worker);
        // An endpoint that the application has called is one of the called service, and of no other.
        let only = called.only.filter(|_| sends.name == called.name);
        let to = Chosen { name: sends.name, service: sends.service, only };
        // In a box, since it would be in the future of every request otherwise.
        let retries =
            rule.retries.as_ref().map(|rule| Box::new(rule.over(&sends.service.resilience.retries)));
        let reach =
            Reach { per_try: rule.timeouts.backend_request, retries: retries.as_deref(), ..to.reach(worker) };
        let answer = super::send(checked, version, reach, record).await?;
        Ok(route::changed(answer, rule, sends.backend))
    }
}
