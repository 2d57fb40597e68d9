//! The shape of a policy as a JSON Schema: for editors, and for the reference that is generated from it. The fields are
//! those of `model`; what a file holds as text has a named kind here. The readers decide: what the schema takes may
//! still be refused, with a reason that a schema cannot give.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform};

use crate::{
    ClaimName, ClaimTest, ClaimText, ClaimValue, Condition, Date, GrpcMethod, GrpcService, HostPattern,
    IpBlock, Method, Name, PathPattern, Reason, ServiceAccount, limits,
    model::{AnyForm, OneOf},
};

/// The shape of one document of a policies file: that of one of the kinds, which `$defs` has by their names.
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12().with_transform(transform::RecursiveTransform(without_null));
    settings.into_generator().into_root_schema_for::<AnyForm<'_>>()
}

/// A field that is left out is not written: `null` is an error.
fn without_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(types) = object.get_mut("type").and_then(serde_json::Value::as_array_mut) {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(serde_json::Value::Array(mut choices)) = object.remove("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
        match choices.as_slice() {
            [serde_json::Value::Object(only)] => object.extend(only.clone()),
            _ => {
                object.insert("anyOf".to_owned(), choices.into());
            }
        }
    }
}

impl<T: JsonSchema> JsonSchema for OneOf<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("list-of-{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "minItems": 1, "items": items })
    }
}

/// Describes a kind of text.
macro_rules! kind {
    ($kind:ty, $name:literal, $description:literal, $($example:literal),+) => {
        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $description, "examples": [$($example),+] })
            }
        }
    };
}

/// A SPIFFE ID as text: only ever a type in a schema, never a value, as the next three.
pub(crate) enum Id {}
pub(crate) enum Domain {}
pub(crate) enum Port {}
pub(crate) enum ClaimTests {}

kind!(
    Id,
    "spiffe-id",
    "The URI of an identity, compared byte for byte.",
    "spiffe://shop.test/ns/shop/sa/payments"
);
kind!(
    Domain,
    "trust-domain",
    "A SPIFFE trust domain without its scheme: `a` to `z`, `0` to `9`, `.`, `-` and `_`.",
    "shop.test"
);
kind!(
    Name,
    "name",
    "Up to 128 of letters, digits, `-`, `_` and `.`, a letter or digit at both ends.",
    "payments",
    "orders-charge"
);
kind!(ServiceAccount, "service-account", "`namespace/account`.", "shop/orders");
kind!(
    IpBlock,
    "ip-block",
    "An address, or a block in CIDR form without bits beyond its prefix. An IPv4-mapped IPv6 address is the IPv4 address.",
    "10.0.0.0/8",
    "10.0.0.7",
    "fd00::/8"
);
kind!(Method, "method", "An HTTP method, in upper case.", "GET", "POST");
kind!(
    PathPattern,
    "path-pattern",
    "A path by whole segments: `{name}` is one segment, `/**` at the end is everything below.",
    "/charge",
    "/charge/{id}",
    "/refund/**"
);
kind!(
    HostPattern,
    "host",
    "An HTTP host without port, in any case; `*.` before a domain is one or more labels.",
    "payments",
    "*.shop.test"
);
kind!(GrpcService, "grpc-service", "The full name of a gRPC service, with its package.", "shop.v1.Payments");
kind!(GrpcMethod, "grpc-method", "The name of a gRPC method.", "Charge");
kind!(
    ClaimText,
    "claim-text",
    "What a claim is, compared byte for byte.",
    "https://login.corp.test",
    "orders:read"
);
kind!(
    ClaimName,
    "claim-name",
    "The name of a claim, or the way to one inside of another.",
    "email",
    "realm_access[roles]"
);
kind!(Date, "date", "A day, from 00:00 UTC of which something is over.", "2027-01-31");
kind!(Reason, "reason", "A text for people, of up to 512 bytes.", "Probes of the load balancer (OPS-411)");

impl JsonSchema for Condition {
    fn schema_name() -> Cow<'static, str> {
        "condition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": limits::CONDITION_BYTES,
            "description": "A condition in the bounded part of CEL that docs/policy.md describes.",
            "examples": ["request.headers[\"x-tenant\"] in [\"a\", \"b\"]"],
        })
    }
}

impl JsonSchema for ClaimTests {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "claims".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (names, test) = (generator.subschema_for::<ClaimName>(), generator.subschema_for::<ClaimTest>());
        json_schema!({
            "type": "object",
            "minProperties": 1,
            "maxProperties": limits::CLAIMS,
            "propertyNames": names,
            "additionalProperties": test,
        })
    }
}

impl JsonSchema for ClaimValue {
    fn schema_name() -> Cow<'static, str> {
        "claim-value".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer", "boolean"],
            "description": "The value of a claim: a text, a whole number, `true` or `false`.",
            "examples": ["admin", 3, true],
        })
    }
}

impl JsonSchema for Port {
    fn schema_name() -> Cow<'static, str> {
        "port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer",
            "minimum": 1,
            "maximum": u16::MAX,
            "description": "A port of the application, 1 to 65535.",
            "examples": [8080],
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::parse_yaml;

    /// The reader tells what it knows where it finds something that it does not.
    fn known_at(text: &str) -> Vec<String> {
        let message = parse_yaml("a.yaml", text, None).expect_err("nobody knows this field").message;
        let (_, known) = message.split_once("known here: ").expect("the fields that are known");
        let mut known: Vec<String> = known.split(", ").map(str::to_owned).collect();
        known.sort();
        known
    }

    fn fields(schema: &Value) -> Vec<String> {
        assert_eq!(schema["additionalProperties"], Value::Bool(false));
        schema["properties"].as_object().expect("an object").keys().cloned().collect()
    }

    #[test]
    fn the_schema_has_the_fields_that_the_reader_knows() {
        const HEAD: &str = "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\n";
        let rule = |rule: &str| {
            format!("{HEAD}metadata: {{name: a, namespace: b}}\nspec: {{action: Allow, rules: [{rule}]}}\n")
        };
        let schema = schema();
        let schema = schema.as_value();
        for (kind, text) in [
            ("metadata", format!("{HEAD}metadata: {{zzzzzz: 1}}\nspec: {{}}\n")),
            ("spec", format!("{HEAD}metadata: {{name: a, namespace: b}}\nspec: {{zzzzzz: 1}}\n")),
            ("rule", rule("{zzzzzz: 1}")),
            ("source", rule("{from: [{zzzzzz: 1}]}")),
            ("operation", rule("{to: [{zzzzzz: 1}]}")),
            ("grpc", rule("{to: [{grpc: {zzzzzz: 1}}]}")),
            ("jwt", rule("{jwt: {zzzzzz: 1}}")),
            ("claim", rule("{jwt: {issuer: a, claims: {b: {zzzzzz: 1}}}}")),
        ] {
            assert_eq!(fields(&schema["$defs"][kind]), known_at(&text), "{kind}");
        }
        for kind in ["AuthorizationPolicy", "EgressPolicy", "PlaintextException"] {
            assert_eq!(fields(&schema["$defs"][kind]), known_at("zzzzzz: 1\n"), "{kind}");
        }
        let egress = |spec: &str| {
            format!(
                "apiVersion: sidegate.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: a, namespace: b}}\nspec: {spec}\n"
            )
        };
        for (kind, spec) in [
            ("egress-spec", "{zzzzzz: 1}"),
            ("egress-rule", "{rules: [{zzzzzz: 1}]}"),
            ("egress-source", "{rules: [{from: [{zzzzzz: 1}]}]}"),
            ("egress-destination", "{rules: [{to: [{zzzzzz: 1}]}]}"),
        ] {
            assert_eq!(fields(&schema["$defs"][kind]), known_at(&egress(spec)), "{kind}");
        }
        let exception = |spec: &str| {
            format!(
                "apiVersion: sidegate.dev/v1alpha1\nkind: PlaintextException\nmetadata: {{name: a, namespace: b}}\nspec: {spec}\n"
            )
        };
        for (kind, spec) in [
            ("plaintext-spec", "{zzzzzz: 1}"),
            ("plaintext-source", "{from: [{zzzzzz: 1}]}"),
            ("plaintext-operation", "{from: [{ipBlocks: [10.0.0.7]}], to: [{zzzzzz: 1}]}"),
        ] {
            assert_eq!(fields(&schema["$defs"][kind]), known_at(&exception(spec)), "{kind}");
        }
    }

    #[test]
    fn what_the_schema_shows_as_an_example_is_read() {
        let schema = schema();
        for (kind, place) in [
            ("name", "{name: EXAMPLE, from: [{namespaces: [a]}]}"),
            ("spiffe-id", "{from: [{principals: [EXAMPLE]}]}"),
            ("service-account", "{from: [{serviceAccounts: [EXAMPLE]}]}"),
            ("trust-domain", "{from: [{trustDomains: [EXAMPLE]}]}"),
            ("ip-block", "{from: [{ipBlocks: [EXAMPLE]}]}"),
            ("method", "{to: [{methods: [EXAMPLE]}]}"),
            ("path-pattern", "{to: [{paths: [EXAMPLE]}]}"),
            ("host", "{to: [{hosts: [EXAMPLE]}]}"),
            ("port", "{to: [{ports: [EXAMPLE]}]}"),
            ("grpc-service", "{to: [{grpc: {service: EXAMPLE}}]}"),
            ("grpc-method", "{to: [{grpc: {service: a.B, method: EXAMPLE}}]}"),
            ("date", "{from: [{namespaces: [a]}], expires: EXAMPLE}"),
            ("condition", "{when: EXAMPLE}"),
            (
                "claim-text",
                "{jwt: {issuer: EXAMPLE, audiences: [EXAMPLE], claims: {a: {containsAny: [EXAMPLE]}}}}",
            ),
            ("claim-name", "{jwt: {issuer: a, claims: {EXAMPLE: {exists: false}}}}"),
            ("claim-value", "{jwt: {issuer: a, claims: {b: {equals: EXAMPLE}}}}"),
        ] {
            for example in schema.as_value()["$defs"][kind]["examples"].as_array().expect("examples") {
                let rule = place.replace("EXAMPLE", &example.to_string());
                let text = format!(
                    "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: b}}\n\
                     spec: {{action: Allow, rules: [{rule}]}}\n"
                );
                assert!(parse_yaml("a.yaml", &text, None).is_ok(), "{kind}: {rule}");
            }
        }
    }

    #[test]
    fn nothing_may_be_null_and_only_what_must_be_there_is_required() {
        let schema = schema();
        let schema = schema.as_value();
        assert!(!schema.to_string().contains("null"), "{schema}");
        let required = |kind: &str| schema["$defs"][kind]["required"].to_string();
        for kind in ["AuthorizationPolicy", "EgressPolicy", "PlaintextException"] {
            assert_eq!(required(kind), r#"["apiVersion","kind","metadata","spec"]"#);
        }
        assert_eq!(required("egress-spec"), r#"["rules"]"#);
        assert_eq!(required("egress-rule"), r#"["to"]"#);
        assert_eq!(required("egress-destination"), r#"["ports"]"#);
        assert_eq!(required("plaintext-spec"), r#"["from","to","expires","reason"]"#);
        assert_eq!(required("plaintext-source"), r#"["ipBlocks"]"#);
        assert_eq!(required("plaintext-operation"), r#"["ports"]"#);
        assert_eq!(required("metadata"), r#"["name"]"#);
        assert_eq!(required("spec"), r#"["action","rules"]"#);
        assert_eq!(required("rule"), "null");
        assert_eq!(required("grpc"), r#"["service"]"#);
        assert_eq!(required("jwt"), r#"["issuer"]"#);
        assert_eq!(required("claim"), "null");
    }
}
