//! The shape of the file as a JSON Schema: for editors, and for the reference that is generated from it. What the
//! file holds as text has a named kind here; the parsers in `file.rs` decide.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The shape of a sidecar's file. A field's `default` is the value in force without it.
pub fn schema() -> Schema {
    schemars::schema_for!(super::file::ConfigFile)
}

/// Names a kind of text: only ever a type in a schema, never a value.
macro_rules! kind {
    ($kind:ident, $name:literal, $description:literal, $($example:literal),+) => {
        pub(super) enum $kind {}

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

kind!(Time, "duration", "Numbers with their units, more than nothing.", "500ms", "30s", "1m 30s", "6h");
kind!(Address, "address", "An IP address and a port.", "127.0.0.1:15106", "[::1]:15106");
kind!(
    ControlPlaneAddress,
    "control-plane-address",
    "An IP address or a name, and a port that is not 0; or `unix:` and a path, from the folder of this file if it is relative.",
    "127.0.0.1:15110",
    "control-plane.internal:15110",
    "unix:/run/sidegate/mesh/local.sock"
);
kind!(
    File,
    "path",
    "A path, from the folder of this file if it is relative.",
    "root.pem",
    "/etc/sidegate/root.pem"
);
kind!(
    Domain,
    "trust-domain",
    "A SPIFFE trust domain without its scheme: `a` to `z`, `0` to `9`, `.`, `-` and `_`.",
    "shop.test"
);
kind!(Id, "spiffe-id", "The URI of an identity.", "spiffe://shop.test/ns/shop/sa/payments");
kind!(
    Host,
    "host",
    "A name or an address without a port, or a wildcard for every name with at least one label more.",
    "payments",
    "payments.shop.svc.cluster.local",
    "*.payments.shop",
    "10.0.0.7",
    "[fd00::7]"
);
kind!(
    Name,
    "service-name",
    "`namespace/name`; without a namespace the workload's own is meant.",
    "shop/payments",
    "payments"
);
kind!(
    DecisionAddress,
    "decision-address",
    "`host:port`, or `unix:` and a path, from the folder of this file if it is relative.",
    "127.0.0.1:9191",
    "opa.authz.svc:9191",
    "unix:/run/opa/opa.sock"
);
kind!(Ip, "ip", "An IP address.", "10.96.0.10", "fd00::10");
kind!(Cidr, "cidr", "A range of IP addresses.", "10.0.0.0/8", "fd00::/64", "192.0.2.7/32");
kind!(
    Forward,
    "forward",
    "An IP address or a name, and a port that is not 0; or `captured`.",
    "127.0.0.1:8080",
    "localhost:8080",
    "captured"
);
