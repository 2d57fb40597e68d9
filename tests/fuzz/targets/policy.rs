//! The text of policies, and the claims of tokens: whatever is taken prints as what reads back the same, and is judged without
//! a panic, as it is explained.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate_policy::{
    Claims, Document, Http, PolicySet, Request, Source, Verdict, Workload, parse_json, parse_yaml,
};

fuzz_target!(|text: &str| {
    let claims = Claims::parse(text).ok();
    // The wire's form, and the file's.
    let of_wire = parse_json(text, "fuzz");
    let Ok(policies) = parse_yaml("fuzz.yaml", text, Some("shop")) else { return };
    if let Ok(of_wire) = of_wire {
        assert_eq!(
            policies.iter().map(Document::to_json).collect::<Vec<_>>(),
            [of_wire.to_json()],
            "JSON is YAML"
        );
    }
    for sourced in &policies {
        let json = sourced.to_json();
        let again = parse_json(&json, "fuzz").unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(again.to_json(), json);
    }
    let Ok(set) = PolicySet::new(policies) else { return };
    let labels = [("app".to_owned(), "a".to_owned())].into();
    let workload = Workload {
        namespace: "shop",
        labels: &labels,
        trust_domain: "shop.test",
        root_namespace: Some("root"),
    };
    let compiled = set.compile(&workload);
    let caller = "spiffe://shop.test/ns/shop/sa/web".parse().expect("a literal");
    let headers = vec![("x-a".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())];
    for path in [None, Some("/"), Some("/a/b"), Some("*"), Some("")] {
        let http = path.map(|path| Http {
            method: "GET",
            host: "a.test",
            path,
            headers: &headers,
            claims: claims.as_ref(),
        });
        for identity in [Some(&caller), None] {
            let source = Source { identity, ip: [10, 0, 0, 7].into() };
            let request = Request { source, port: 80, http, sni: None, now: 1_800_000_000 };
            let decision = compiled.judge(&request);
            assert_eq!(compiled.explain(&request).decision, decision);
            let is_taken = identity.is_some() || compiled.takes_plaintext(80, source.ip, request.now);
            assert!(is_taken || decision.verdict == Verdict::Deny, "plaintext that nobody listens to");
        }
    }
});
