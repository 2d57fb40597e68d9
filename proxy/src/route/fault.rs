//! Lets requests wait or fail on purpose, as a rule says in so many words. Whoever looks sees it: a warning when such a
//! rule comes in force, a count, and a code of its own in the access log. It never speaks for a policy.

use std::sync::Arc;

use sidegate_codes::Code;

use crate::{
    config::{Config, RouteRule, ServiceName},
    error::Error,
    telemetry::{Record, metrics::FaultLabels},
    worker::Worker,
};

/// Waits, or fails, if this request is one of those that the rule has it do so.
pub(crate) async fn inject(
    rule: &RouteRule,
    service: &ServiceName,
    record: &mut Record,
    worker: &Worker,
) -> Result<(), Error> {
    let Some(faults) = &rule.faults else { return Ok(()) };
    let count = |kind| {
        let labels = FaultLabels { service: service.clone(), rule: Arc::clone(&rule.name), kind };
        worker.metrics.faults.add(labels);
    };
    if let Some((share, delay)) = faults.delay
        && worker.chance.is_in(share)
    {
        count("delay");
        record.told(Code::FaultInjected);
        tokio::time::sleep(delay).await;
    }
    if let Some((share, status)) = faults.abort
        && worker.chance.is_in(share)
    {
        count("abort");
        return Err(Error::FaultInjected { rule: Arc::clone(&rule.name), status });
    }
    Ok(())
}

/// Says which rules of `config` let requests fail on purpose.
pub(crate) fn warn_of_faults(config: &Config) {
    for (service, said) in &config.services {
        for rule in said.routes.iter().filter(|rule| rule.faults.is_some()) {
            let (code, rule) = (Code::FaultInjected, &*rule.name);
            tracing::warn!(%code, %service, rule, "requests of this rule wait or fail on purpose");
        }
    }
}
