//! The attacks on tokens that have names, each against a token that is good but for it.

use std::fs;

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};

use super::{keys::KeySet, refusal::Refusal, token::Signed, *};

const NOW: u64 = 1_800_000_000;

/// An issuer with an EC key `ec` and an RSA key `rsa`, and a set with the public halves of both.
struct Issuer {
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
    modulus: Vec<u8>,
}

impl Issuer {
    fn new() -> Self {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // RFC 8017 §A.1.1: the modulus of a key of this size begins behind nine bytes, and 65537 is the end.
        let der = rsa.public_key().as_ref().to_vec();
        Self {
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            modulus: der[9..265].to_vec(),
            rsa,
        }
    }

    fn jwk_ec(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig",
               "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..])})
    }

    fn jwk_rsa(&self) -> Value {
        json!({"kty": "RSA", "kid": "rsa", "n": BASE64.encode(&self.modulus), "e": "AQAB"})
    }

    fn keys(&self) -> KeySet {
        keys(&[self.jwk_ec(), self.jwk_rsa()]).unwrap()
    }

    /// Signed as the header says, or with nothing if that is no algorithm that this test can use.
    fn sign(&self, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims));
        let random = SystemRandom::new();
        let rsa = |how| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(how, &random, signed.as_bytes(), &mut signature).unwrap();
            signature
        };
        let signature = match header["alg"].as_str() {
            Some("ES256") => self.ec.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Some("RS256") => rsa(&RSA_PKCS1_SHA256),
            Some("PS256") => rsa(&RSA_PSS_SHA256),
            _ => Vec::new(),
        };
        format!("{signed}.{}", BASE64.encode(signature))
    }
}

fn keys(jwks: &[Value]) -> Result<KeySet, String> {
    KeySet::parse(json!({"keys": jwks}).to_string().as_bytes()).map_err(|error| error.to_string())
}

fn ec() -> Value {
    json!({"alg": "ES256", "kid": "ec", "typ": "JWT"})
}

fn claims() -> Value {
    json!({"iss": "corp", "aud": "pay", "sub": "ann", "exp": NOW + 60})
}

/// The checks of a token, without the network: the second at which it ends, or why it is none.
fn checked(token: &str, keys: &KeySet) -> Result<u64, Refusal> {
    let signed = Signed::parse(token.as_bytes())?;
    signed.verify(keys.find(signed.kid(), signed.algorithm())?)?;
    let ends = signed.check_dates(NOW)?;
    signed.check_audience(&["pay".to_owned()])?;
    Ok(ends)
}

#[test]
fn a_token_of_each_kind_of_key_is_taken() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let token = |header: Value| issuer.sign(&header, &claims().to_string());
    assert_eq!(checked(&token(ec()), &keys), Ok(NOW + 60 + 30));
    assert!(checked(&token(json!({"alg": "RS256", "kid": "rsa"})), &keys).is_ok());
    // Without a name, where only one key can be meant.
    assert!(checked(&token(json!({"alg": "ES256"})), &keys).is_ok());
    for kind in ["jwt", "at+jwt", "application/at+JWT"] {
        assert!(checked(&token(json!({"alg": "ES256", "kid": "ec", "typ": kind})), &keys).is_ok(), "{kind}");
    }
}

#[test]
fn no_header_makes_a_token_pass_that_its_own_key_did_not_sign() {
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let keys = issuer.keys();
    let claims = claims().to_string();
    for (header, refusal) in [
        // No signature, in the spellings that were once taken.
        (json!({"alg": "none", "kid": "ec"}), Refusal::Algorithm),
        (json!({"alg": "None", "kid": "ec"}), Refusal::Algorithm),
        (json!({"alg": "nOnE"}), Refusal::Algorithm),
        (json!({"alg": ""}), Refusal::Algorithm),
        // Verified with the public key as if it were a secret.
        (json!({"alg": "HS256", "kid": "rsa"}), Refusal::Algorithm),
        (json!({"alg": "es256", "kid": "ec"}), Refusal::Algorithm),
        // Another algorithm than the one that the key is for, though the key could do it.
        (json!({"alg": "PS256", "kid": "rsa"}), Refusal::UnknownKey),
        (json!({"alg": "RS512", "kid": "rsa"}), Refusal::UnknownKey),
        (json!({"alg": "RS256", "kid": "ec"}), Refusal::UnknownKey),
        (json!({"alg": "ES256", "kid": "rsa"}), Refusal::UnknownKey),
        // Names that are no names of keys.
        (json!({"alg": "ES256", "kid": "../../dev/null"}), Refusal::UnknownKey),
        (json!({"alg": "ES256", "kid": "' OR '1'='1"}), Refusal::UnknownKey),
        (json!({"alg": "ES256", "kid": ""}), Refusal::UnknownKey),
        // Kinds of tokens that the same key signs for something else.
        (json!({"alg": "ES256", "kid": "ec", "typ": "logout+jwt"}), Refusal::Kind),
        (json!({"alg": "ES256", "kid": "ec", "typ": "dpop+jwt"}), Refusal::Kind),
        // What must be understood and is not.
        (json!({"alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": false}), Refusal::Critical),
        (json!({"alg": "ES256", "kid": "ec", "crit": null}), Refusal::Critical),
        (json!({"kid": "ec"}), Refusal::Malformed("the header is no header")),
        (json!({"alg": "ES256", "kid": 7}), Refusal::Malformed("the header is no header")),
        (json!({"alg": ["ES256"]}), Refusal::Malformed("the header is no header")),
    ] {
        assert_eq!(checked(&issuer.sign(&header, &claims), &keys), Err(refusal), "{header}");
    }
    // The key comes along, or its address: it is not looked at.
    for field in ["jwk", "jku", "x5u", "x5c"] {
        let mut header = ec();
        header[field] = if field == "jwk" { stranger.jwk_ec() } else { json!("https://evil.test/keys") };
        assert_eq!(checked(&stranger.sign(&header, &claims), &keys), Err(Refusal::Signature), "{field}");
    }
}

#[test]
fn a_token_that_was_changed_in_any_part_is_none() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let token = issuer.sign(&ec(), &claims().to_string());
    let parts: Vec<&str> = token.split('.').collect();
    let richer = claims().to_string().replace("ann", "bob");
    let (header, signature) = (parts[0], parts[2]);
    let other = BASE64.encode(json!({"kid": "ec", "alg": "ES256"}).to_string());
    for changed in [
        format!("{header}.{}.{signature}", BASE64.encode(richer)),
        format!("{other}.{}.{signature}", parts[1]),
        format!("{header}.{}.", parts[1]),
        format!("{header}.{}.{}", parts[1], BASE64.encode([0; 64])),
        format!("{header}.{}.{}", parts[1], BASE64.encode([0; 7])),
    ] {
        assert_eq!(checked(&changed, &keys), Err(Refusal::Signature), "{changed}");
    }
    for broken in [
        String::new(),
        "a.b".to_owned(),
        format!("{token}.{signature}"),
        format!("{header}..{signature}"),
        format!("{header}=.{}.{signature}", parts[1]),
        format!("{header}.{}.{signature} ", parts[1]),
        format!("{header}.{}.{signature}, Bearer {token}", parts[1]),
        format!("{header}.{}+/.{signature}", parts[1]),
        format!("{}.{}.{signature}", BASE64.encode(r#"{"alg":"none","alg":"ES256","kid":"ec"}"#), parts[1]),
        format!("{}.{}.{signature}", BASE64.encode("[]"), parts[1]),
    ] {
        assert!(matches!(checked(&broken, &keys), Err(Refusal::Malformed(_))), "{broken}");
    }
    assert_eq!(checked(&"a".repeat(16 * 1024 + 1), &keys), Err(Refusal::TooLarge));
}

#[test]
fn claims_with_two_readings_are_none_even_if_they_are_signed() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let end = NOW + 60;
    for claims in [
        format!(r#"{{"iss":"corp","aud":"pay","exp":{end},"role":"user","role":"admin"}}"#),
        format!(r#"{{"iss":"corp","aud":"pay","exp":1,"exp":{end}}}"#),
        format!(r#"{{"iss":"corp","aud":"pay","exp":{end},"in":{{"a":1,"a":2}}}}"#),
        format!(r#"{{"iss":"corp","aud":[["pay"]],"exp":{end}}}"#),
        format!(r#"{{"iss":"corp","aud":{{"pay":1}},"exp":{end}}}"#),
        format!(r#"{{"aud":"pay","exp":{end}}}"#),
        format!(r#"{{"iss":["corp"],"aud":"pay","exp":{end}}}"#),
        format!(r#"{{"iss":"corp","aud":"pay","exp":{end}}}{{"iss":"corp"}}"#),
        format!(r#"{{"iss":"corp","aud":"pay","exp":{end},"deep":{}{}}}"#, "[".repeat(500), "]".repeat(500)),
        format!(r#"["iss",{end}]"#),
        "7".to_owned(),
    ] {
        let refused = checked(&issuer.sign(&ec(), &claims), &keys);
        assert!(matches!(refused, Err(Refusal::Malformed(_))), "{claims}: {refused:?}");
    }
}

#[test]
fn a_token_is_good_between_its_dates_and_for_its_audience() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let with = |field: &str, value: Value| {
        let mut claims = claims();
        claims[field] = value;
        checked(&issuer.sign(&ec(), &claims.to_string()), &keys)
    };
    for (field, value, refusal) in [
        ("exp", json!(NOW - 30), Refusal::Expired),
        ("exp", json!(0), Refusal::Expired),
        ("exp", json!(-1), Refusal::Expired),
        ("exp", json!(i64::MIN), Refusal::Expired),
        ("exp", json!(1.9e9), Refusal::Date("exp")),
        ("exp", json!("1900000000"), Refusal::Date("exp")),
        ("exp", json!(null), Refusal::Date("exp")),
        ("exp", json!(true), Refusal::Date("exp")),
        ("nbf", json!(NOW + 31), Refusal::NotYet("nbf")),
        ("nbf", json!(u64::MAX), Refusal::NotYet("nbf")),
        ("nbf", json!("0"), Refusal::Date("nbf")),
        ("iat", json!(NOW + 31), Refusal::NotYet("iat")),
        ("aud", json!("Pay"), Refusal::Audience),
        ("aud", json!("pa"), Refusal::Audience),
        ("aud", json!([]), Refusal::Audience),
        ("aud", json!(["a", "b"]), Refusal::Audience),
    ] {
        assert_eq!(with(field, value.clone()), Err(refusal), "{field}: {value}");
    }
    assert_eq!(with("exp", json!(NOW - 29)), Ok(NOW + 1));
    assert!(with("exp", json!(u64::MAX)).is_ok());
    assert!(with("nbf", json!(NOW + 30)).is_ok() && with("iat", json!(NOW)).is_ok());
    assert!(with("aud", json!(["x", "pay"])).is_ok());
    for missing in ["exp", "aud"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert!(checked(&issuer.sign(&ec(), &claims.to_string()), &keys).is_err(), "without {missing}");
    }
}

#[test]
fn of_a_key_set_only_keys_that_sign_tokens_are_taken_and_each_for_one_algorithm() {
    let issuer = Issuer::new();
    let with = |jwk: Value, field: &str, value: Value| {
        let mut jwk = jwk;
        jwk[field] = value;
        jwk
    };
    // Left out, so that they verify nothing.
    for left_out in [
        json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "brand-new", "kid": "n"}),
        with(issuer.jwk_rsa(), "use", json!("enc")),
        with(issuer.jwk_rsa(), "alg", json!("RSA-OAEP")),
        with(issuer.jwk_rsa(), "alg", json!("HS256")),
        with(issuer.jwk_rsa(), "key_ops", json!(["encrypt"])),
        with(issuer.jwk_ec(), "alg", json!("ES384")),
        with(issuer.jwk_ec(), "crv", json!("secp256k1")),
    ] {
        let shown = left_out.to_string();
        assert!(
            keys(std::slice::from_ref(&left_out)).is_err_and(|error| error.contains("no key that signs")),
            "{shown}"
        );
        assert!(keys(&[left_out, issuer.jwk_ec()]).is_ok(), "{shown}");
    }
    for (jwks, says) in [
        (vec![], "no key that signs"),
        (vec![issuer.jwk_ec(), issuer.jwk_ec()], "two keys for ES256 are named \"ec\""),
        (
            vec![with(issuer.jwk_rsa(), "n", json!(BASE64.encode(&issuer.modulus[..128])))],
            "less than 2048 bits",
        ),
        (vec![with(issuer.jwk_rsa(), "n", json!("?"))], "no base64url"),
        (vec![with(issuer.jwk_ec(), "x", json!("AAAA"))], "another length"),
        (vec![with(issuer.jwk_ec(), "y", json!(null))], "a part is missing"),
        (vec![issuer.jwk_ec(); 65], "at most 64"),
    ] {
        assert!(keys(&jwks).is_err_and(|error| error.contains(says)), "{says}");
    }
    // RSA for PS256, as it says, takes no RS256, and a name that nobody has is nobody's.
    let pss = keys(&[with(issuer.jwk_rsa(), "alg", json!("PS256"))]).unwrap();
    let token = |alg: &str| issuer.sign(&json!({"alg": alg, "kid": "rsa"}), &claims().to_string());
    assert!(checked(&token("PS256"), &pss).is_ok());
    assert_eq!(checked(&token("RS256"), &pss), Err(Refusal::UnknownKey));
    let two = keys(&[issuer.jwk_ec(), with(issuer.jwk_ec(), "kid", json!("other"))]).unwrap();
    let nameless = issuer.sign(&json!({"alg": "ES256"}), &claims().to_string());
    assert_eq!(checked(&nameless, &two), Err(Refusal::AmbiguousKey));
}

#[test]
fn the_field_holds_one_token_and_goes_no_further_unless_it_may() {
    let config =
        |header: &str, forward| config::Jwt { header: header.parse().unwrap(), forward, issuers: Vec::new() };
    let taken = |lines: &[(&'static str, &'static str)], config: &config::Jwt| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let taken = take(&mut headers, config);
        (taken.map(|it| it.map(|it| it.to_str().unwrap().to_owned())), headers.len())
    };
    let own = config("authorization", false);
    let some = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(taken(&[("authorization", "Bearer a.b.c")], &own), (some("a.b.c"), 0));
    assert_eq!(taken(&[("authorization", "bearer a.b.c")], &own), (some("a.b.c"), 0));
    assert_eq!(
        taken(&[("authorization", "Bearer a.b.c")], &config("authorization", true)),
        (some("a.b.c"), 1)
    );
    assert_eq!(taken(&[("authorization", "Basic YTpi")], &own), (Ok(None), 1));
    assert_eq!(taken(&[], &own), (Ok(None), 0));
    let two = [("authorization", "Bearer a.b.c"), ("authorization", "Bearer d.e.f")];
    assert_eq!(taken(&two, &own), (Err(Refusal::Several), 0));
    let basic = [("authorization", "Basic YTpi"), ("authorization", "Bearer a.b.c")];
    assert_eq!(taken(&basic, &own), (Err(Refusal::Several), 0));
    for line in ["Bearer", "Bearer\ta.b.c", "Bearer,Bearer a"] {
        assert_eq!(
            taken(&[("authorization", line)], &own),
            (Err(Refusal::Malformed("its field")), 0),
            "{line}"
        );
    }
    // Two in one field are no token.
    assert_eq!(
        taken(&[("authorization", "Bearer a.b.c, Bearer d.e.f")], &own).0,
        some("a.b.c, Bearer d.e.f")
    );
    let other = config("x-user-token", false);
    let both = [("authorization", "Bearer a.b.c"), ("x-user-token", "d.e.f")];
    assert_eq!(taken(&both, &other), (some("d.e.f"), 1));
    assert!(has_token("a=1&access_token=x") && has_token("ACCESS_TOKEN") && !has_token("a=access_token"));
}

/// An issuer whose keys are in a file, as the data path sees it.
fn issuers(issuer: &Issuer) -> (tempfile::TempDir, Arc<Issuers>, tokio::task::JoinHandle<()>) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("keys.json");
    fs::write(&path, json!({"keys": [issuer.jwk_ec()]}).to_string()).unwrap();
    let from = config::KeysFrom {
        origin: config::Origin::File(path),
        refresh: std::time::Duration::from_mins(5),
        max_stale: std::time::Duration::from_hours(1),
    };
    let issuer = config::Issuer { issuer: "corp".to_owned(), audiences: vec!["pay".to_owned()], keys: from };
    let config = config::Jwt { header: header::AUTHORIZATION, forward: false, issuers: vec![issuer] };
    let issuers = Arc::new(Issuers::new(Some(&config), &Issuers::default()));
    let feeding = Arc::clone(&issuers);
    let fed = tokio::spawn(async move {
        let never = Arc::clone(&feeding.sources()[0]).feed(Arc::default()).await;
        match never {}
    });
    (folder, issuers, fed)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_verified_is_known_until_it_ends_or_the_keys_change() {
    let issuer = Issuer::new();
    let (folder, issuers, fed) = issuers(&issuer);
    let cache = Cache::default();
    let token = issuer.sign(&ec(), &claims().to_string());
    let verify = async |now| issuers.verify(token.as_bytes(), &cache, now).await;
    let first = verify(|| NOW).await.unwrap();
    assert_eq!(first.claims(NOW).unwrap().issuer(), "corp");
    assert!(Arc::ptr_eq(&first, &verify(|| NOW).await.unwrap()));
    assert!(first.claims(NOW + 90).is_none(), "what is open when the token ends has none any more");
    assert_eq!(verify(|| NOW + 90).await.unwrap_err(), Refusal::Expired);

    // The key is taken back: what it signed is good no longer, cached or not.
    fs::write(folder.path().join("keys.json"), json!({"keys": [Issuer::new().jwk_ec()]}).to_string())
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(verify(|| NOW).await.unwrap_err(), Refusal::Signature);
    fed.abort();
}

#[tokio::test(start_paused = true)]
async fn a_token_of_an_issuer_that_is_not_configured_is_refused_without_a_look_at_any_key() {
    let issuer = Issuer::new();
    let (_folder, issuers, fed) = issuers(&issuer);
    let claims = claims().to_string().replace("corp", "Corp");
    let token = issuer.sign(&ec(), &claims);
    let refused = issuers.verify(token.as_bytes(), &Cache::default(), || NOW).await;
    assert_eq!(refused.unwrap_err(), Refusal::Issuer);
    fed.abort();
}
