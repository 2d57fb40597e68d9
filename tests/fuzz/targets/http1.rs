//! One connection of an application, through the whole path: outbound listener → mutual TLS → inbound listener → the
//! application behind it. Any bytes go in; the oracle is that application: it reads by the letter of RFC 9112 and ends
//! the run over whatever could be read in two ways, was not permitted, or claims what nobody has proven.
//!
//! One real sidecar with both directions runs in this process, so that the fuzzer sees which code an input reaches.
#![no_main]

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use sidegate_proxy::cli;
use time::OffsetDateTime;

const CALLER: &str = "spiffe://shop.test/ns/shop/sa/payments";

/// The oracle knows these rules too, in `is_permitted`.
const POLICIES: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  action: Allow
  rules:
  - name: public
    from: [{serviceAccounts: [shop/payments]}]
    to: [{methods: [GET, POST], paths: [/, /a, '/a/**']}]
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec:
  action: Deny
  rules: [{name: admin, to: [{paths: ['/a/admin/**']}]}]
";

/// Its arguments are read as the command line's are.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Sidecar {
    #[command(flatten)]
    args: cli::Args,
}

fuzz_target!(|bytes: &[u8]| {
    static OUTBOUND: OnceLock<SocketAddr> = OnceLock::new();
    let outbound = OUTBOUND.get_or_init(start);
    let mut connection = TcpStream::connect(outbound).expect("the sidecar listens");
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
    // It may have been refused in the middle.
    let _ = connection.write_all(bytes);
    let _ = connection.shutdown(std::net::Shutdown::Write);
    let mut answers = Vec::new();
    if let Err(error) = connection.read_to_end(&mut answers) {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "the connection hangs: {}", bytes.escape_ascii());
    }
    let text = answers.to_ascii_lowercase();
    let leaks = |secret: &[u8]| text.windows(secret.len()).any(|window| window == secret);
    assert!(!leaks(b"spiffe://"), "an answer names an identity: {}", answers.escape_ascii());
});

/// What the application accepts of one request: anything else ends the run.
struct Request {
    method: String,
    path: String,
    fields: Vec<(String, String)>,
}

impl Request {
    /// RFC 9112 §3 and §5, without any of the leniencies.
    fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let request_line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let [method, target, "HTTP/1.1"] = request_line[..] else {
            panic!("not a request line: {request_line:?}");
        };
        assert!(
            target.starts_with('/') || (method, target) == ("OPTIONS", "*"),
            "not in origin-form: {target}"
        );
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a field: {line:?}"));
                assert!(!name.is_empty() && name.bytes().all(is_token), "not a field name: {name:?}");
                assert_eq!(value, value.trim_matches([' ', '\t']), "blanks around a value");
                (name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        Self { method: method.to_owned(), path, fields }
    }

    fn only(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(field, _)| field == name);
        let value = values.next().map(|(_, value)| &**value);
        assert!(values.next().is_none(), "two fields {name}");
        value
    }

    fn check(&self) {
        assert!(self.is_permitted(), "{} {} was not permitted", self.method, self.path);
        assert!(
            !self.path.contains("//") && !self.path.split('/').any(|segment| matches!(segment, "." | ".."))
        );
        assert!(!self.path.bytes().any(|byte| b";\\#".contains(&byte)), "{}", self.path);
        assert_eq!(self.only("x-sidegate-peer"), Some(CALLER), "the caller that was proven, once");
        let host = self.only("host").expect("one Host");
        assert_eq!(host, host.to_ascii_lowercase());
        assert!(!host.is_empty() && !host.contains(['@', ',', ' ', '/', '%']), "{host}");
        let id = self.only("x-request-id").expect("one request id");
        assert!((1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
        assert!(self.only("expect").is_none_or(|expected| expected == "100-continue"));
        for (name, _) in &self.fields {
            let plain = name.replace('_', "-");
            assert!(!HOP_BY_HOP.contains(&&*plain), "{name} belongs to another hop");
            let asks = matches!(name.as_str(), "connection" | "upgrade");
            assert!(!asks || self.opens_a_websocket(), "{name}, and no WebSocket");
            let claims =
                CLAIMS.contains(&&*plain) || CLAIM_PREFIXES.iter().any(|start| plain.starts_with(start));
            assert!(!claims, "{name} came through");
            assert!(!plain.starts_with("x-sidegate-") || name == "x-sidegate-peer", "{name} came through");
        }
    }

    /// The one thing that an application may be asked to become.
    fn opens_a_websocket(&self) -> bool {
        self.method == "GET"
            && self.only("connection") == Some("upgrade")
            && self.only("upgrade") == Some("websocket")
    }

    fn is_permitted(&self) -> bool {
        let is_public = matches!(&*self.path, "/" | "/a") || self.path.starts_with("/a/");
        let is_admin = self.path.starts_with("/a/admin/") || self.path == "/a/admin";
        matches!(&*self.method, "GET" | "POST") && is_public && !is_admin
    }

    /// Reads the body by its one framing; `None` if it breaks off.
    fn read_body(&self, from: &mut impl BufRead) -> Option<()> {
        match (self.only("content-length"), self.only("transfer-encoding")) {
            (None, None) => Some(()),
            (Some(length), None) => {
                assert!(!length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()), "{length}");
                let length: u64 = length.parse().expect("a length that can be read");
                let read = std::io::copy(&mut from.take(length), &mut std::io::sink()).ok()?;
                (read == length).then_some(())
            }
            (None, Some("chunked")) => read_chunks(from),
            framing => panic!("not one framing: {framing:?}"),
        }
    }
}

fn read_chunks(from: &mut impl BufRead) -> Option<()> {
    loop {
        let size = read_line(from)?;
        let size = u64::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("not a chunk's size: {size:?}"));
        if size == 0 {
            break;
        }
        let read = std::io::copy(&mut from.take(size), &mut std::io::sink()).ok()?;
        if read < size {
            return None;
        }
        assert_eq!(read_line(from)?, "", "a chunk ends with its line");
    }
    loop {
        let trailer = read_line(from)?;
        if trailer.is_empty() {
            return Some(());
        }
        let (name, _) = trailer.split_once(": ").unwrap_or_else(|| panic!("not a trailer: {trailer:?}"));
        let name = name.to_ascii_lowercase().replace('_', "-");
        let forbidden = ["host", "content-length", "transfer-encoding", "authorization", "cookie"];
        assert!(
            !forbidden.contains(&&*name) && !name.starts_with("x-forwarded"),
            "a trailer {name} came through"
        );
        assert!(!name.starts_with("x-sidegate-"), "a trailer {name} came through");
    }
}

/// A line that ends with CRLF and holds neither alone; `None` if it breaks off.
fn read_line(from: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8(line).ok()?;
    if !line.ends_with('\n') {
        return None;
    }
    let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a bare LF: {line:?}"));
    assert!(!line.contains('\r'), "a bare CR: {line:?}");
    Some(line.to_owned())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn serve_application(connection: TcpStream) {
    let mut writer = connection.try_clone().expect("a second handle");
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => head.extend_from_slice(&line),
            }
        }
        head.truncate(head.len() - 4);
        // Values may hold any bytes above ASCII; names and the request line may not.
        let head: String = head.iter().map(|byte| char::from(*byte)).collect();
        let request = Request::parse(&head);
        request.check();
        if request.read_body(&mut reader).is_none() {
            return;
        }
        if writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

/// Starts the application and the sidecar, and says where the latter takes the application's calls.
fn start() -> SocketAddr {
    ignore_broken_pipes();
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let forward = application.local_addr().expect("it is bound");
    thread::spawn(move || {
        for connection in application.incoming() {
            let connection = connection.expect("a connection");
            thread::spawn(move || serve_application(connection));
        }
    });
    let [inbound, outbound] = [free_address(), free_address()];
    let folder = tempfile::tempdir().expect("a folder").keep();
    configure(&folder, forward, inbound, outbound);
    thread::spawn(move || {
        let config = folder.join("proxy.yaml").into_os_string();
        let Sidecar { args } = Sidecar::parse_from(["--config".into(), config, "--log-level=error".into()]);
        // It runs until the fuzzer ends; an end before that is a finding.
        let code = cli::run(args);
        panic!("the sidecar has ended: {code:?}");
    });
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(outbound).is_err() {
        assert!(Instant::now() < deadline, "the sidecar does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    outbound
}

/// As every Rust program with a `main` does, and this one has none. A handler once installed stays.
fn ignore_broken_pipes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::pipe()).expect("a handler"));
}

fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("it is bound")
}

fn configure(folder: &Path, forward: SocketAddr, inbound: SocketAddr, outbound: SocketAddr) {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    (root.not_before, root.not_after) = (now - Duration::from_secs(60), now + Duration::from_hours(24));
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.subject_alt_names = vec![SanType::URI(CALLER.try_into().expect("a URI"))];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = (root.not_before, root.not_after);
    let key = || KeyPair::generate().expect("randomness");
    let root = CertifiedIssuer::self_signed(root, key()).expect("a root");
    let key = key();
    let leaf = leaf.signed_by(&key, &root).expect("a leaf");
    let configuration = format!(
        "trustDomain: shop.test\n\
         workload: {{namespace: shop, serviceAccount: payments}}\n\
         identity: {{files: {{certificate: svid.pem, privateKey: key.pem, trustBundle: bundle.pem}}}}\n\
         policies: policies.yaml\n\
         workers: 1\n\
         accessLog: off\n\
         inbound: [{{listen: '{inbound}', forward: '{forward}', protocol: http}}]\n\
         outbound: [{{listen: '{outbound}', service: payments, identities: ['{CALLER}'], endpoints: ['{inbound}'], protocol: http}}]\n"
    );
    let (bundle, key) = (root.pem(), key.serialize_pem());
    let files = [
        ("svid.pem", leaf.pem()),
        ("key.pem", key),
        ("bundle.pem", bundle),
        ("policies.yaml", POLICIES.to_owned()),
    ];
    for (name, text) in files.into_iter().chain([("proxy.yaml", configuration)]) {
        let path = folder.join(name);
        fs::write(&path, text).expect("the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    }
}

const HOP_BY_HOP: [&str; 5] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
];
/// Of identity, or of another path or method than the one that is judged.
const CLAIMS: [&str; 6] = [
    "forwarded",
    "x-real-ip",
    "x-client-cert",
    "client-cert",
    "x-rewrite-url",
    "x-http-method-override",
];
const CLAIM_PREFIXES: [&str; 4] = ["client-cert-", "x-forwarded-", "x-ssl-client-", "x-original-"];
/// Beyond every bound that the sidecar puts on an input without further bytes.
const PATIENCE: Duration = Duration::from_secs(8);
