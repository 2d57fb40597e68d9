//! The shape of `mesh.yaml` as a JSON Schema: for editors, and for the reference that is generated from it. What the
//! file holds as text has a named kind here; the parsers in `document.rs` decide.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The shape of `mesh.yaml`. A field's `default` is the value in force without it.
pub fn schema() -> Schema {
    schemars::schema_for!(super::document::Document)
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

kind!(Time, "duration", "Numbers with their units.", "500ms", "30s", "6h", "1825d");
kind!(Address, "address", "An IP address and a port.", "127.0.0.1:15110", "[::1]:15110");
kind!(
    File,
    "path",
    "A path, from the folder of this file if it is relative.",
    "policies/",
    "/var/lib/sidegate/"
);
kind!(
    Domain,
    "trust-domain",
    "A SPIFFE trust domain without its scheme: `a` to `z`, `0` to `9`, `.`, `-` and `_`.",
    "shop.test"
);
kind!(Url, "https-url", "An `https` URL.", "https://partner.test:15181/spiffe/bundle.json");
kind!(Cidr, "cidr", "An address range.", "10.0.0.0/8", "127.0.0.1/32");
kind!(Id, "spiffe-id", "A SPIFFE ID.", "spiffe://partner.test/ns/sidegate/sa/control-plane");
kind!(Label, "name", "1 to 63 of `a` to `z`, `0` to `9` and `-`, no `-` at the ends.", "payments");
kind!(
    Token,
    "token-digest",
    "`sha256:` and the SHA-256 of the token without its line end, as 64 lower-case hex digits.",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
);
