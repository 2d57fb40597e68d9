//! The engine: regorus, with nothing of it switched on that reads a clock, a file or the network for a module.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, time::Duration};

use regorus::{
    CompiledPolicy, PolicyModule, Value, compile_policy_with_entrypoint,
    utils::limits::{ExecutionTimerConfig, set_fallback_execution_timer_config},
};
use serde_json::{Map, json};
use sidegate_identity::SpiffeId;

use crate::{InvalidValue, Request, condition::Outcome};

/// A compiled module.
pub(super) struct Engine(CompiledPolicy);

impl Engine {
    pub(super) fn compile(text: &str) -> Result<Self, InvalidValue> {
        // Of the process: compiled modules have no other.
        set_fallback_execution_timer_config(Some(ExecutionTimerConfig {
            limit: LONGEST,
            check_interval: NonZeroU32::new(LOOKS_AT_THE_CLOCK).unwrap_or(NonZeroU32::MIN),
        }));
        let module = PolicyModule { id: "rego".into(), content: text.into() };
        compile_policy_with_entrypoint(Value::new_object(), &[module], ENTRY.into())
            .map(Self)
            .map_err(|error| InvalidValue::from(format!("{ENTRY}: {error}")))
    }

    pub(super) fn judge(&self, caller: Option<&SpiffeId>, request: &Request<'_>) -> Outcome {
        let Some(input) = input(caller, request) else { return Outcome::Unknown };
        match self.0.eval_with_input(input.into()) {
            Ok(Value::Bool(is_allowed)) => Outcome::of(is_allowed),
            Ok(_) | Err(_) => Outcome::Unknown,
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// By the names that `when` has. `None`: a value is no text, and would be shown as another.
fn input(caller: Option<&SpiffeId>, request: &Request<'_>) -> Option<serde_json::Value> {
    let mut input = Map::new();
    let mut source = Map::new();
    source.insert("ip".to_owned(), request.source.ip.to_canonical().to_string().into());
    // Without TLS there is no identity: what asks for one is undefined, and not null, which differs from every name.
    if let Some(caller) = caller {
        source.insert("principal".to_owned(), caller.as_str().into());
        source.insert("trustDomain".to_owned(), caller.trust_domain().into());
        source.insert("namespace".to_owned(), caller.namespace().into());
        source.insert("serviceAccount".to_owned(), caller.service_account().into());
    }
    input.insert("source".to_owned(), source.into());
    input.insert("destination".to_owned(), json!({"port": request.port}));
    if let Some(sni) = request.sni {
        input.insert("connection".to_owned(), json!({"sni": sni}));
    }
    if let Some(http) = request.http {
        let mut headers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut is_text = true;
        http.headers.visit(&mut |name, value| match std::str::from_utf8(value) {
            Ok(value) => headers.entry(name.to_ascii_lowercase()).or_default().push(value),
            Err(_) => is_text = false,
        });
        let claims = match http.claims {
            None => None,
            Some(claims) => Some(serde_json::from_str::<serde_json::Value>(claims.as_json()).ok()?),
        };
        let mut shown = json!({
            "method": http.method,
            "host": http.host.to_ascii_lowercase(),
            "path": http.path,
            "headers": headers,
        });
        if let (Some(claims), Some(shown)) = (claims, shown.as_object_mut()) {
            shown.insert("claims".to_owned(), claims);
        }
        input.insert("request".to_owned(), shown);
        is_text.then_some(())?;
    }
    Some(serde_json::Value::Object(input))
}

const ENTRY: &str = "data.sidegate.allow";
/// A request that takes longer to decide about is refused; others on its worker wait for so long.
const LONGEST: Duration = Duration::from_millis(50);
const LOOKS_AT_THE_CLOCK: u32 = 64;
