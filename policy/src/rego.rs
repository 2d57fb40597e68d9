//! The `rego` of a rule: a module in Rego whose `allow` must be true. Receives what a request says of itself and of its
//! caller; hands on yes, no or doubt: what is undefined, fails, takes too long or is no boolean is in doubt, and doubt denies.
//!
//! A peer chooses what a module computes with, so what makes much of little is refused at load: of the built-in functions only
//! those in [`CALLED`] can be called, a module has no functions of its own, which could call themselves, there is no `with`, and how
//! deep a module is is bounded, since an engine that runs out of stack takes the process with it.
//! Without the feature `rego` there is no engine, and every module is refused.

use std::{fmt, str::FromStr, sync::Arc};

use sidegate_identity::SpiffeId;

use crate::{InvalidValue, Request, condition::Outcome};

#[cfg(feature = "rego")]
mod engine;
#[cfg(not(feature = "rego"))]
mod engine {
    use super::{InvalidValue, Outcome, Request, SpiffeId};

    /// There is none.
    #[derive(Debug)]
    pub(super) struct Engine;

    impl Engine {
        pub(super) fn compile(_: &str) -> Result<Self, InvalidValue> {
            Err(InvalidValue::because("this program was built without Rego (cargo feature `rego`)"))
        }

        #[expect(clippy::unused_self, reason = "the signature of the engine that there is with the feature")]
        pub(super) fn judge(&self, _: Option<&SpiffeId>, _: &Request<'_>) -> Outcome {
            Outcome::Unknown
        }
    }
}
mod words;

use engine::Engine;

/// A module in Rego, compiled.
#[derive(Clone, Debug)]
pub struct Rego {
    /// As its author wrote it.
    text: Arc<str>,
    engine: Arc<Engine>,
}

impl Rego {
    /// Whether `allow` is true.
    pub(crate) fn judge(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Outcome {
        self.engine.judge(caller, request)
    }

    /// What kept it from being true, for people.
    pub(crate) fn miss(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Option<String> {
        match self.judge(caller, request) {
            Outcome::Yes => None,
            Outcome::No => Some("rego: allow is false".to_owned()),
            Outcome::Unknown => Some("rego: allow is undefined, no boolean, or failed".to_owned()),
        }
    }
}

impl FromStr for Rego {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        words::check(text)?;
        Ok(Self { engine: Arc::new(Engine::compile(text)?), text: text.into() })
    }
}

impl fmt::Display for Rego {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// By what they say: what was compiled from it is the same.
impl PartialEq for Rego {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Rego {}

#[cfg(all(test, not(feature = "rego")))]
mod tests {
    use super::*;

    #[test]
    fn without_an_engine_every_module_is_refused() {
        let refused = "package sidegate\nallow := true".parse::<Rego>().unwrap_err();
        assert!(refused.to_string().contains("built without Rego"), "{refused}");
    }
}
