//! `mesh.yaml` as it is written, and the checks that turn it into a `Config`. A field that is not known is an error.

mod federation;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, de::DeserializeOwned};
use serde_saphyr::Spanned;
use sidegate_codes::Code;
use sidegate_identity::{SpiffeId, TrustDomain};

use self::federation::FederatedDocument;
use super::{
    Config, EgressDefault, Enforcement, LocalUser, Places, RegistryPlace, Service, ServiceName, TokenDigest,
    bounds::{Bounds, LEAF_LIFE, REPORT_INTERVAL, RETENTION, ROOT_LIFE},
    control_plane_identity, is_label,
    local_user::ListedUsers,
    registry::RegistryDocument,
    schema,
};
use crate::problem::Problem;

/// Parses and checks; every wrong value is reported, not only the first.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let file = path.display().to_string();
    let document: Document = from_yaml(&file, text).map_err(|problem| vec![problem])?;
    let mut check = Check { file, problems: Vec::new() };
    let folder = path.parent().unwrap_or(Path::new(""));
    let config = check.document(folder, document);
    match config {
        Some(config) if check.problems.is_empty() => Ok(config),
        _ => Err(check.problems),
    }
}

/// Reads YAML as every file of the control plane is read: with its place in the file where it is not understood.
pub(crate) fn from_yaml<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Problem> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax_problem(file, &error))
}

/// The mesh as its control plane knows it, YAML. A field that is not listed here is an error.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "The file of a Sidegate control plane")]
pub(super) struct Document {
    /// The version of this form.
    #[schemars(with = "String", extend("const" = API_VERSION))]
    api_version: Spanned<String>,
    /// What this file is.
    #[schemars(with = "String", extend("const" = KIND))]
    kind: Spanned<String>,
    /// The trust domain that certificates are issued for.
    #[schemars(with = "schema::Domain")]
    trust_domain: Spanned<String>,
    /// Policies in this namespace hold for the whole mesh. Absent: each holds for its own namespace alone.
    #[serde(default)]
    #[schemars(with = "Option<schema::Label>")]
    root_namespace: Option<Spanned<String>>,
    /// What sidecars do with a denial.
    #[serde(default = "enforce")]
    enforcement: Enforcement,
    /// What becomes of what wants to leave the mesh and is named by no rule of an `EgressPolicy`.
    #[serde(default = "deny")]
    egress: EgressDefault,
    /// The folder of the policies.
    #[schemars(with = "schema::File")]
    policies: PathBuf,
    /// The file of the identities in quarantine, which `sidegate quarantine` writes. It need not exist.
    #[serde(default = "quarantine")]
    #[schemars(with = "Option<schema::File>")]
    quarantine: PathBuf,
    /// The folder, mode 0700, of the root with its key and of the registry. Whoever reads the key is the mesh.
    #[schemars(with = "schema::File")]
    state: PathBuf,
    /// Where a copy of `root.pem` is put at each start and by each rotation, for sidecars that cannot look into the state
    /// folder, such as containers. Absent: nowhere.
    #[serde(default)]
    #[schemars(with = "Option<schema::File>")]
    trust_bundle: Option<PathBuf>,
    /// Where certificates are put on record. Absent: in a file of the state folder.
    #[serde(default)]
    registry: Option<RegistryDocument>,
    /// Where it listens.
    listen: Listen,
    /// How long certificates live.
    #[serde(default)]
    certificates: Certificates,
    /// How often sidecars report their edges.
    #[serde(default)]
    #[schemars(with = "Option<schema::Time>", transform = |schema: &mut Schema| REPORT_INTERVAL.describe(schema))]
    report_interval: Option<Spanned<String>>,
    /// Other trust domains whose workloads may be peers, each under the authorities of its own bundle. Policies say what they
    /// may do.
    #[serde(default)]
    federation: Vec<FederatedDocument>,
    /// The services of the mesh. Who is not listed is issued nothing.
    services: Vec<ServiceDocument>,
}

/// Where the control plane listens.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Listen {
    /// For sidecars: gRPC over TLS. Port 0: the system chooses, the log names it.
    #[schemars(with = "schema::Address")]
    grpc: Spanned<String>,
    /// For sidecars of this host: the same as `grpc` at a unix socket, where the `localUsers` of a service need no join token.
    /// Its folder must belong to root or the control plane's user and be writable for its owner alone; it is made if it is missing.
    /// Absent: there is none.
    #[serde(default)]
    #[schemars(with = "Option<schema::File>")]
    socket: Option<PathBuf>,
    /// For the operator: API, `/metrics` and `/livez`. A loopback address, since it asks nobody who they are.
    #[schemars(with = "schema::Address")]
    api: Spanned<String>,
    /// For other trust domains: the own trust bundle, at `/spiffe/bundle.json` over TLS under the control plane's SVID
    /// (`https_spiffe`). Absent: nowhere.
    #[serde(default)]
    #[schemars(with = "Option<schema::Address>")]
    bundle: Option<Spanned<String>>,
}

/// How long certificates live.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Certificates {
    /// Of a workload. It is renewed at half of it, so an outage of the control plane is survived for the other half.
    #[serde(default)]
    #[schemars(with = "Option<schema::Time>", transform = |schema: &mut Schema| LEAF_LIFE.describe(schema))]
    leaf_life: Option<Spanned<String>>,
    /// Of a root; counts when one is made, at the first start and by each rotation.
    #[serde(default)]
    #[schemars(with = "Option<schema::Time>", transform = |schema: &mut Schema| ROOT_LIFE.describe(schema))]
    root_life: Option<Spanned<String>>,
    /// How long the registry keeps a record after its certificate has ended. Changes with a restart.
    #[serde(default)]
    #[schemars(with = "Option<schema::Time>", transform = |schema: &mut Schema| RETENTION.describe(schema))]
    retention: Option<Spanned<String>>,
}

/// A service of the mesh and the workload behind it.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Service")]
struct ServiceDocument {
    /// Its namespace.
    #[schemars(with = "schema::Label")]
    namespace: Spanned<String>,
    /// Its name in the namespace.
    #[schemars(with = "schema::Label")]
    name: Spanned<String>,
    /// The account its workloads run under: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Absent: the
    /// name.
    #[serde(default)]
    #[schemars(with = "Option<schema::Label>")]
    service_account: Option<Spanned<String>>,
    /// What policies select it by. Absent: `app` with the name.
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// Who presents one of these tokens is a workload of this service. Two at a time let a token be replaced.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Token>")]
    join_tokens: Vec<Spanned<String>>,
    /// Whose processes on the control plane's host are workloads of this service when they connect to `listen.socket`: the kernel
    /// says whose they are, and no join token is needed. A user, or a user with a group, belongs to one service.
    #[serde(default)]
    #[schemars(with = "Vec<LocalUser>")]
    local_users: Vec<Spanned<LocalUser>>,
    /// The application's port that the service is reached on, where its sidecars have several inbound listeners.
    /// Absent: each sidecar's first listener.
    #[serde(default)]
    port: Option<NonZeroU16>,
    /// Endpoints besides those that sidecars register.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Address>")]
    endpoints: Vec<Spanned<String>>,
}

/// Collects what is wrong while the values are turned.
pub(super) struct Check {
    file: String,
    problems: Vec<Problem>,
}

impl Check {
    fn document(&mut self, folder: &Path, document: Document) -> Option<Config> {
        self.word(&document.api_version, "apiVersion", API_VERSION);
        self.word(&document.kind, "kind", KIND);
        let trust_domain = self
            .value(&document.trust_domain, "trustDomain", |text| TrustDomain::parse(text).map_err(display));
        let root_namespace =
            document.root_namespace.and_then(|name| self.value(&name, "rootNamespace", label));
        let grpc = self.value(&document.listen.grpc, "listen.grpc", socket_address);
        let api = self.value(&document.listen.api, "listen.api", loopback_address);
        let bundle = document.listen.bundle.as_ref();
        let bundle = bundle.and_then(|address| self.value(address, "listen.bundle", socket_address));
        let leaf_life =
            self.duration(document.certificates.leaf_life.as_ref(), "certificates.leafLife", LEAF_LIFE);
        let root_life =
            self.duration(document.certificates.root_life.as_ref(), "certificates.rootLife", ROOT_LIFE);
        let retention =
            self.duration(document.certificates.retention.as_ref(), "certificates.retention", RETENTION);
        let report_interval =
            self.duration(document.report_interval.as_ref(), "reportInterval", REPORT_INTERVAL);
        let trust_domain = trust_domain?;
        let registry = match document.registry {
            None => RegistryPlace::StateFolder,
            Some(registry) => registry.place(self, folder)?,
        };
        let state = folder.join(document.state);
        let federation = self.federation(&trust_domain, (folder, &state), document.federation);
        let socket = document.listen.socket.map(|path| folder.join(path));
        let services = self.services(&trust_domain, ListedUsers::new(socket.is_some()), document.services);
        Some(Config {
            trust_domain,
            root_namespace,
            enforcement: document.enforcement,
            egress: document.egress,
            policies: folder.join(document.policies),
            quarantine: folder.join(document.quarantine),
            state,
            registry,
            trust_bundle: document.trust_bundle.map(|path| folder.join(path)),
            grpc: grpc?,
            socket,
            api: api?,
            bundle,
            leaf_life: leaf_life?,
            root_life: root_life?,
            retention: retention?,
            report_interval: report_interval?,
            federation,
            places: Places::of(&services),
            services,
        })
    }

    fn services(
        &mut self,
        trust_domain: &TrustDomain,
        mut users: ListedUsers,
        documents: Vec<ServiceDocument>,
    ) -> Vec<Service> {
        let mut names = BTreeSet::new();
        let mut tokens = BTreeSet::new();
        let mut services = Vec::with_capacity(documents.len());
        for (position, document) in documents.into_iter().enumerate() {
            let place = format!("services[{position}]");
            let name_of_file = document.name.clone();
            for (index, token) in document.join_tokens.iter().enumerate() {
                // Two services with one token would make the attested identity a matter of order.
                if !tokens.insert(token.value.clone()) {
                    self.add(
                        token,
                        format!("{place}.joinTokens[{index}]"),
                        "this token is listed twice".into(),
                    );
                }
            }
            for (index, user) in document.local_users.iter().enumerate() {
                if let Err(message) = users.add(user.value) {
                    self.add(user, format!("{place}.localUsers[{index}]"), message);
                }
            }
            let Some(service) = self.service(trust_domain, &place, document) else {
                continue;
            };
            if names.insert(service.name.clone()) {
                services.push(service);
            } else {
                let message = format!("service {} is defined twice", service.name);
                self.add(&name_of_file, format!("{place}.name"), message);
            }
        }
        services
    }

    fn service(
        &mut self,
        trust_domain: &TrustDomain,
        place: &str,
        document: ServiceDocument,
    ) -> Option<Service> {
        let namespace = self.value(&document.namespace, &format!("{place}.namespace"), label);
        let name = self.value(&document.name, &format!("{place}.name"), label);
        let account = document.service_account.as_ref().unwrap_or(&document.name);
        let identity = namespace.as_ref().and_then(|namespace| {
            self.value(account, &format!("{place}.serviceAccount"), |account| {
                workload_identity(trust_domain, namespace, account)
            })
        });
        let join_tokens = self.each(&document.join_tokens, &format!("{place}.joinTokens"), token_digest);
        let endpoints = self.each(&document.endpoints, &format!("{place}.endpoints"), endpoint_address);
        let (namespace, name) = (namespace?, name?);
        let labels = document.labels.unwrap_or_else(|| BTreeMap::from([("app".to_owned(), name.clone())]));
        Some(Service {
            name: ServiceName { namespace, name },
            identity: identity?,
            labels,
            join_tokens,
            local_users: document.local_users.iter().map(|user| user.value).collect(),
            port: document.port,
            endpoints,
        })
    }

    fn word(&mut self, text: &Spanned<String>, field: &str, expected: &str) {
        if text.value != expected {
            self.add(text, field.to_owned(), format!("{:?} is not {expected:?}", text.value));
        }
    }

    pub(super) fn duration(
        &mut self,
        text: Option<&Spanned<String>>,
        field: &str,
        bounds: Bounds,
    ) -> Option<Duration> {
        let Some(text) = text else {
            return Some(bounds.default);
        };
        self.value(text, field, |text| bounds.duration(text))
    }

    fn each<T>(
        &mut self,
        texts: &[Spanned<String>],
        field: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        texts
            .iter()
            .enumerate()
            .filter_map(|(index, text)| self.value(text, &format!("{field}[{index}]"), &parse))
            .collect()
    }

    /// The value, or `None` after its problem was noted: `parse` refuses the document if there is any.
    pub(super) fn value<T>(
        &mut self,
        text: &Spanned<String>,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(&text.value).map_err(|message| self.add(text, field.to_owned(), message)).ok()
    }

    fn add<T>(&mut self, at: &Spanned<T>, field: String, message: String) {
        self.problems.push(Problem {
            code: Code::ConfigBadValue,
            file: self.file.clone(),
            line: u32::try_from(at.referenced.line()).ok(),
            column: u32::try_from(at.referenced.column()).ok(),
            field: Some(field),
            message,
        });
    }
}

fn syntax_problem(file: &str, error: &serde_saphyr::Error) -> Problem {
    let location = error.location();
    Problem {
        code: Code::ConfigSyntax,
        file: file.to_owned(),
        line: location.and_then(|at| u32::try_from(at.line()).ok()),
        column: location.and_then(|at| u32::try_from(at.column()).ok()),
        field: None,
        message: error.without_snippet().to_string(),
    }
}

fn workload_identity(trust_domain: &TrustDomain, namespace: &str, account: &str) -> Result<SpiffeId, String> {
    let account = label(account)?;
    let id = SpiffeId::for_workload(trust_domain, namespace, &account).map_err(display)?;
    if id == control_plane_identity(trust_domain) {
        return Err(format!("{id} is the control plane's own identity"));
    }
    Ok(id)
}

fn token_digest(text: &str) -> Result<TokenDigest, String> {
    text.strip_prefix("sha256:")
        .and_then(crate::hex::decode)
        .map(TokenDigest)
        .ok_or_else(|| "is not sha256: and 64 lower-case hex digits".to_owned())
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address and port"))
}

fn endpoint_address(text: &str) -> Result<SocketAddr, String> {
    let address = socket_address(text)?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(format!("{text:?} cannot be connected to"));
    }
    Ok(address)
}

fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = socket_address(text)?;
    if !address.ip().is_loopback() {
        return Err(format!("{text:?} is not a loopback address; the API has no authentication yet"));
    }
    Ok(address)
}

fn label(text: &str) -> Result<String, String> {
    if !is_label(text) {
        return Err(format!("{text:?} is not a name: 1 to 63 of a-z, 0-9 and '-', no '-' at the ends"));
    }
    Ok(text.to_owned())
}

fn display(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn quarantine() -> PathBuf {
    "quarantine.yaml".into()
}

fn deny() -> EgressDefault {
    EgressDefault::Deny
}

fn enforce() -> Enforcement {
    Enforcement::Enforce
}

const API_VERSION: &str = "sidegate.dev/v1alpha1";
const KIND: &str = "Mesh";
