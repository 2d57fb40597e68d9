//! What the one set lets out of the mesh and the other does not: one destination of each kind that the rules of either tell apart
//! is judged in both.

use std::collections::BTreeMap;

use sidegate_policy::{EgressRule, PolicySet};

use super::{Change, MOST_TRIED, Place, Report, decided_by};
use crate::policy::{
    files::Mesh,
    now,
    outside::{self, kinds},
};

pub(super) fn compare(
    report: &mut Report,
    place: &Place,
    mesh: &Mesh,
    before: &PolicySet,
    after: &PolicySet,
) {
    let workload = place.workload(mesh.root_namespace.as_deref());
    let selecting: Vec<_> =
        [before, after].into_iter().flat_map(|set| outside::selecting(set, &workload)).collect();
    let rules: Vec<&EgressRule> = outside::rules(&selecting).into_iter().map(|(_, rule, _)| rule).collect();
    if rules.is_empty() {
        return;
    }
    let (before, after) = (before.compile_egress(&workload), after.compile_egress(&workload));
    let callers = match &place.identity {
        Some(identity) => vec![identity.clone()],
        None => kinds::identities(&rules, &place.namespace, &place.trust_domain),
    };
    for caller in callers {
        let (destinations, is_complete) =
            kinds::destinations(&rules, MOST_TRIED.saturating_sub(report.tried));
        report.complete &= is_complete;
        report.tried += destinations.len();
        let mut changes: BTreeMap<_, Change> = BTreeMap::new();
        for destination in &destinations {
            let judged = |egress| destination.judge(egress, mesh.egress, &caller, now());
            let (was, is) = (judged(&before), judged(&after));
            if was.leaves == is.leaves {
                continue;
            }
            let decided = [&was, &is].map(|judged| decided_by(&judged.decision));
            let change =
                changes.entry((decided.clone(), destination.name.clone())).or_insert_with(|| Change {
                    newly: if is.leaves { "allowed" } else { "denied" },
                    caller: caller.to_string(),
                    called: OUTSIDE.to_owned(),
                    example: destination.to_string(),
                    kinds: 0,
                    before: decided[0].clone(),
                    after: decided[1].clone(),
                });
            change.kinds += 1;
        }
        report.changes.extend(changes.into_values());
    }
}

/// In the place of the workload that is called.
const OUTSIDE: &str = "outside the mesh";
