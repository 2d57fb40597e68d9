//! Reads policies and `mesh.yaml` as their owners read them, and keeps the text for snippets. Refuses, with all that
//! is wrong, what would not load there.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use sidegate_control_plane::config::{Config, EgressDefault, Service};
use sidegate_identity::{SpiffeId, TrustDomain};
use sidegate_policy::{PolicyError, PolicySet, parse_yaml};

use crate::{
    exit::Exit,
    failure::Failure,
    short,
    terminal::{Charset, Paint, paint},
};

/// What is known beside the policies.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Around {
    /// The control plane's file: services and their labels, trust domain, root namespace, policies folder.
    #[arg(long, value_name = "FILE")]
    mesh: Option<PathBuf>,
    /// The trust domain of the workloads, where there is no `mesh.yaml`.
    #[arg(long, value_name = "NAME", conflicts_with = "mesh")]
    trust_domain: Option<TrustDomain>,
    /// The namespace whose policies hold for the whole mesh, where there is no `mesh.yaml`.
    #[arg(long, value_name = "NAME", conflicts_with = "mesh")]
    root_namespace: Option<String>,
}

/// The form of findings about files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Table,
    /// Exactly one JSON document, `apiVersion: cli.sidegate.dev/v1`.
    Json,
    /// SARIF 2.1.0, for code hosts and editors.
    Sarif,
}

/// The mesh that the policies are for, as far as it is known.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) root_namespace: Option<String>,
    /// What becomes of what wants to leave and no rule names.
    pub(crate) egress: EgressDefault,
    /// `None` without a `mesh.yaml`.
    pub(crate) services: Option<Vec<Service>>,
    pub(crate) policies: Option<Kept>,
}

/// Where a mesh has its own policies.
#[derive(Debug)]
pub(crate) enum Kept {
    Folder(PathBuf),
    /// At a running control plane: the texts that it has read and judged, by the names of their files.
    InForce(BTreeMap<String, String>),
}

/// Policies that load, and the text they were read from.
#[derive(Debug)]
pub(crate) struct Policies {
    pub(crate) set: PolicySet,
    texts: BTreeMap<String, String>,
}

impl Around {
    /// Whether the control plane's file was named.
    pub(crate) fn has_mesh(&self) -> bool {
        self.mesh.is_some()
    }

    /// An option given that stands in for that file.
    pub(crate) fn in_place_of_mesh(&self) -> Option<&'static str> {
        let given = [
            ("--trust-domain", self.trust_domain.is_some()),
            ("--root-namespace", self.root_namespace.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }

    pub(crate) fn read(&self) -> Result<Mesh, Failure> {
        let Some(path) = &self.mesh else {
            return Ok(Mesh {
                trust_domain: self.trust_domain.clone(),
                root_namespace: self.root_namespace.clone(),
                egress: EgressDefault::Deny,
                services: None,
                policies: None,
            });
        };
        let config = Config::load(path).map_err(|problems| {
            refused("the mesh's file cannot be used", &problems, "sidegate reference mesh")
        })?;
        Ok(Mesh {
            trust_domain: Some(config.trust_domain),
            root_namespace: config.root_namespace,
            egress: config.egress,
            services: Some(config.services),
            policies: Some(Kept::Folder(config.policies)),
        })
    }
}

impl Mesh {
    /// Reads the folder that was named, or else the mesh's own. A policy without namespace is one of
    /// `default_namespace`, as in a sidecar; a control plane wants it written.
    pub(crate) fn policies(
        &self,
        named: Option<&Path>,
        default_namespace: Option<&str>,
    ) -> Result<Policies, Failure> {
        let default_namespace = default_namespace.filter(|_| self.services.is_none());
        let folder = match (named, &self.policies) {
            (Some(folder), _) => folder,
            (None, Some(Kept::Folder(folder))) => folder,
            (None, Some(Kept::InForce(texts))) => return Policies::in_force(texts),
            (None, None) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "there are no policies to read",
                    "neither a policies folder nor a mesh.yaml was named",
                    "name the folder, or add --mesh mesh.yaml",
                ));
            }
        };
        Policies::read(folder, default_namespace)?.lasting_no_longer_than_allowed()
    }
}

impl Policies {
    /// Reads a file, or every `*.yaml` and `*.yml` directly in a folder.
    pub(crate) fn read(path: &Path, default_namespace: Option<&str>) -> Result<Self, Failure> {
        let mut texts = BTreeMap::new();
        for path in list(path)? {
            let text = text(&path)?;
            texts.insert(path.display().to_string(), text);
        }
        Self::parse(texts, default_namespace)
    }

    /// Those that a control plane has accepted; it has judged what lasts too long.
    fn in_force(texts: &BTreeMap<String, String>) -> Result<Self, Failure> {
        Self::parse(texts.clone(), None).map_err(|failure| {
            let what = "this program cannot read the policies in force";
            let next = "ask with a program of the control plane's release: compare `sidegate version` and `sidegate status -o json`";
            let why = failure.why().to_owned();
            let code = failure.code().unwrap_or(sidegate_codes::Code::PolicySyntax);
            Failure::new(Exit::Unreachable, what, why, next).coded(code)
        })
    }

    /// Refuses exceptions that would be refused today where they are to be in force.
    pub(crate) fn lasting_no_longer_than_allowed(self) -> Result<Self, Failure> {
        self.set.refuse_lasting_exceptions(super::now()).map_err(|errors| do_not_load(&errors))?;
        Ok(self)
    }

    /// Parses texts that are already read, by the names of their files.
    pub(crate) fn parse(
        texts: BTreeMap<String, String>,
        default_namespace: Option<&str>,
    ) -> Result<Self, Failure> {
        let (mut policies, mut errors) = (Vec::new(), Vec::new());
        for (name, text) in &texts {
            match parse_yaml(name, text, default_namespace) {
                Ok(read) => policies.extend(read),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(do_not_load(&errors));
        }
        let set = PolicySet::new(policies).map_err(|errors| do_not_load(&errors))?;
        Ok(Self { set, texts })
    }

    /// Why a text does not load; the first reason, if there are several.
    pub(crate) fn check(text: &str) -> Result<(), PolicyError> {
        let policies = parse_yaml("policies.yaml", text, None)?;
        match PolicySet::new(policies).map_err(|errors| errors.into_iter().next()) {
            Err(Some(error)) => Err(error),
            Ok(_) | Err(None) => Ok(()),
        }
    }

    /// The rule or policy at a place such as `policies/a.yaml:12`, and the line before it.
    pub(crate) fn snippet(&self, source: &str) -> String {
        let Some((text, line)) = self.place(source) else {
            return String::new();
        };
        let bar = match Charset::from_env() {
            Charset::Unicode => '│',
            Charset::Ascii => '|',
        };
        let last = line + length(text.lines().skip(line.saturating_sub(1)));
        let mut snippet = String::new();
        for (number, text) in (1..).zip(text.lines()).take(last.saturating_sub(1)) {
            let text = format!("{number:>4} {bar} {text}");
            let text = text.trim_end();
            if number == line {
                let _ = writeln!(snippet, "    > {text}");
            } else if number + 1 >= line {
                let _ = writeln!(snippet, "      {}", paint(Paint::Dim, text));
            }
        }
        snippet
    }

    fn place(&self, source: &str) -> Option<(&str, usize)> {
        let (file, line) = split(source);
        Some((self.texts.get(file)?, line?))
    }
}

/// How many lines belong to what begins with the first of them, as far as a snippet goes.
fn length<'t>(mut lines: impl Iterator<Item = &'t str>) -> usize {
    const MOST: usize = 10;
    let indent = |line: &str| line.len() - line.trim_start().len();
    let Some(first) = lines.next() else {
        return 0;
    };
    // An item of a list ends where the next begins; a document at its end.
    let is_item = first.trim_start().starts_with('-');
    let goes_on = |line: &&str| {
        if is_item {
            line.trim().is_empty() || indent(line) > indent(first)
        } else {
            !line.starts_with("---")
        }
    };
    lines.take_while(goes_on).take(MOST).count() + 1
}

/// `policies/a.yaml:12` as file and line.
pub(crate) fn split(source: &str) -> (&str, Option<usize>) {
    match source.rsplit_once(':').map(|(file, line)| (file, line.parse())) {
        Some((file, Ok(line))) => (file, Some(line)),
        _ => (source, None),
    }
}

/// `namespace/account` of the trust domain, or a SPIFFE ID.
pub(crate) fn identity(text: &str, trust_domain: Option<&TrustDomain>) -> Result<SpiffeId, Failure> {
    let unknown =
        |why: String, next: &str| Failure::new(Exit::Usage, "the identity is unknown", why, next).seen(text);
    if text.starts_with("spiffe://") {
        return SpiffeId::parse(text)
            .map_err(|error| unknown(error.to_string(), "write a SPIFFE ID, or namespace/account"));
    }
    let (namespace, account) = text.split_once('/').ok_or_else(|| {
        unknown("it is neither namespace/account nor a SPIFFE ID".to_owned(), "as in shop/orders")
    })?;
    let trust_domain = trust_domain.ok_or_else(|| {
        let why = "namespace/account names an identity of a trust domain, and which one is not known";
        unknown(why.to_owned(), "add --mesh mesh.yaml or --trust-domain, or write the SPIFFE ID")
    })?;
    SpiffeId::for_workload(trust_domain, namespace, account)
        .map_err(|error| unknown(error.to_string(), "as in shop/orders"))
}

/// The word for a caller without TLS, in place of an identity.
pub(crate) const PLAINTEXT: &str = "plaintext";

/// A caller as a person types it: an identity, or [`PLAINTEXT`] for none.
pub(crate) fn caller_of(text: &str, trust_domain: Option<&TrustDomain>) -> Result<Option<SpiffeId>, Failure> {
    if text == PLAINTEXT { Ok(None) } else { identity(text, trust_domain).map(Some) }
}

/// A caller as a table shows it.
pub(crate) fn caller(text: &str) -> String {
    if text == PLAINTEXT { text.to_owned() } else { short::identity(Some(text)) }
}

fn do_not_load(errors: &[PolicyError]) -> Failure {
    let next = "correct the file; docs/policy.md lists every field";
    let failure = refused("the policies do not load", errors, next);
    match errors.first() {
        Some(first) => failure.coded(first.code),
        None => failure,
    }
}

/// A file, or every YAML file directly in a folder.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|error| unreadable(path, &error))?;
    let mut paths: Vec<PathBuf> =
        entries.into_iter().map(|entry| entry.path()).filter(|path| is_policy_file(path)).collect();
    paths.sort();
    Ok(paths)
}

/// Hidden files are an editor's or a mount's own.
fn is_policy_file(path: &Path) -> bool {
    let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    is_yaml && !is_hidden
}

/// The text of a file. One byte over what the parser takes is enough for it to say that it is too much.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text))
        .map_err(|error| unreadable(path, &error))?;
    Ok(text)
}

/// One byte over what the parsers take.
pub(crate) const MOST_BYTES: u64 = sidegate_policy::FILE_BYTES as u64 + 1;

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Usage, "a file cannot be read", error.to_string(), "check the path")
        .seen(path.display().to_string())
}

fn refused<T: Display>(what: &str, problems: &[T], next: &str) -> Failure {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Failure::new(Exit::Usage, what, lines.join("\n        "), next)
}
