//! What a judgement costs at 10 to 10,000 rules, and what loading them costs. Every size is measured with the rules
//! spread over callers and with all of them on one caller: neither may make the request pay for rules that are not its.

use std::{collections::BTreeMap, fmt::Write, hint::black_box, net::IpAddr, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sidegate_identity::SpiffeId;
use sidegate_policy::{
    Document, Http, Policies, PolicySet, Request, Source, Verdict, Workload, parse_json, parse_yaml,
};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const LOADED: usize = 10_000;
const RULES_PER_CALLER: usize = 5;
/// Requests differ from one to the next, so that the caches hold what a busy sidecar's would.
const REQUESTS: usize = 64;

/// Whose rules they are.
#[derive(Clone, Copy)]
enum Callers {
    Spread,
    One,
}

fn judge(criterion: &mut Criterion) {
    for (name, callers) in [("spread", Callers::Spread), ("one-caller", Callers::One)] {
        let mut group = criterion.benchmark_group(format!("judge/{name}"));
        for rules in SIZES {
            let policies =
                compile(parse_yaml("bench.yaml", &yaml(rules, callers), None).expect("valid policies"));
            for (outcome, method, verdict) in
                [("allowed", "GET", Verdict::Allow), ("denied", "DELETE", Verdict::Deny)]
            {
                let asked: Vec<Asked> =
                    (0..REQUESTS).map(|index| Asked::of(index * rules / REQUESTS, callers, method)).collect();
                let requests: Vec<Request<'_>> = asked.iter().map(Asked::request).collect();
                let mut next = requests.iter().cycle();
                group.bench_function(BenchmarkId::new(outcome, rules), |bencher| {
                    bencher.iter(|| {
                        let request = next.next().expect("a cycle has no end");
                        let decision = policies.judge(black_box(request)).verdict;
                        assert_eq!(decision, verdict);
                    });
                });
            }
        }
    }
}

/// Every rule has a `when`, and every request has the headers of a browser before those that it asks for.
fn when(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("judge/when");
    let condition = "    when: request.headers[\"x-tenant\"] == \"a\" && request.headers[\"x-role\"] in [\"admin\", \"clerk\"]\n";
    let text = yaml(1_000, Callers::Spread).replace("{id}\"]}\n", &format!("{{id}}\"]}}\n{condition}"));
    let policies = compile(parse_yaml("bench.yaml", &text, None).expect("valid policies"));
    for (outcome, role, verdict) in [("allowed", "clerk", Verdict::Allow), ("denied", "guest", Verdict::Deny)]
    {
        let mut headers: Vec<(String, String)> =
            (0..14).map(|index| (format!("x-header-{index}"), "text/html, */*".to_owned())).collect();
        headers
            .extend([("x-tenant", "a"), ("x-role", role)].map(|(name, value)| (name.into(), value.into())));
        let asked = Asked::of(500, Callers::Spread, "GET");
        let request = asked.request();
        let http = request.http.map(|http| Http { headers: &headers, ..http });
        let request = Request { http, ..request };
        group.bench_function(outcome, |bencher| {
            bencher.iter(|| assert_eq!(policies.judge(black_box(&request)).verdict, verdict));
        });
    }
}

fn load(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    let text = yaml(LOADED, Callers::Spread);
    let policies = parse_yaml("bench.yaml", &text, None).expect("valid policies");
    let json: Vec<String> = policies.iter().map(Document::to_json).collect();
    group.bench_function("yaml", |bencher| {
        bencher.iter(|| parse_yaml("bench.yaml", &text, None).expect("valid policies"));
    });
    group.bench_function("json", |bencher| {
        bencher.iter(|| -> Vec<Document> {
            json.iter().map(|text| parse_json(text, "wire").expect("our own JSON")).collect()
        });
    });
    for (name, callers) in [("compile/spread", Callers::Spread), ("compile/one-caller", Callers::One)] {
        let policies = parse_yaml("bench.yaml", &yaml(LOADED, callers), None).expect("valid policies");
        let set = PolicySet::new(policies).expect("a valid set");
        group.bench_function(name, |bencher| {
            bencher.iter(|| set.compile(&workload(&BTreeMap::new())));
        });
    }
}

/// The request that a rule of the set is for.
struct Asked {
    caller: SpiffeId,
    method: &'static str,
    path: String,
}

impl Asked {
    fn of(rule: usize, callers: Callers, method: &'static str) -> Self {
        let id = format!("spiffe://shop.test/ns/shop/sa/{}", caller(rule, callers));
        Self {
            caller: SpiffeId::parse(&id).expect("a valid ID"),
            method,
            path: format!("/api/v1/resource-{rule}/17"),
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            source: Source { identity: Some(&self.caller), ip: IpAddr::from([10, 0, 0, 7]) },
            port: 8080,
            http: Some(Http {
                method: self.method,
                host: "payments.shop.test",
                path: &self.path,
                headers: &(),
                claims: None,
            }),
            sni: None,
            now: 1_780_000_000,
        }
    }
}

fn caller(rule: usize, callers: Callers) -> String {
    match callers {
        Callers::Spread => format!("caller-{}", rule / RULES_PER_CALLER),
        Callers::One => "caller".to_owned(),
    }
}

fn yaml(rules: usize, callers: Callers) -> String {
    let mut text = "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: bench, namespace: shop}\n\
                    spec:\n  action: Allow\n  rules:\n"
        .to_owned();
    for rule in 0..rules {
        let caller = caller(rule, callers);
        writeln!(
            text,
            "  - name: rule-{rule}\n    from:\n    - serviceAccounts: [shop/{caller}]\n    to:\n    \
             - {{methods: [GET, POST], ports: [8080], paths: [\"/api/v1/resource-{rule}/{{id}}\"]}}"
        )
        .expect("text takes every line");
    }
    text
}

fn compile(policies: Vec<Document>) -> Policies {
    PolicySet::new(policies).expect("a valid set").compile(&workload(&BTreeMap::new()))
}

fn workload(labels: &BTreeMap<String, String>) -> Workload<'_> {
    Workload { namespace: "shop", labels, trust_domain: "shop.test", root_namespace: None }
}

fn brief() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = brief(); targets = judge, when, load }
criterion_main!(benches);
