//! One certificate, read strictly. Receives DER that a peer or a file wrote, hands on the few fields that the
//! rules ask for, and refuses what two parsers could read in two ways: bytes after the end, an extension given
//! twice or not understood, a subject alternative name that cannot be read.

use std::{collections::HashSet, time::Duration};

use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use x509_parser::{
    asn1_rs::{Any, FromDer},
    certificate::X509Certificate,
    extensions::{GeneralName, KeyUsage, ParsedExtension, X509Extension},
    time::ASN1Time,
};

/// Why a certificate could not be read with certainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Not an X.509 certificate in DER.
    #[error("it is not a DER certificate")]
    Der,
    /// Bytes follow the certificate, or follow the value within an extension.
    #[error("bytes follow the end of it or of one of its extensions")]
    TrailingBytes,
    /// RFC 5280 §4.2: no extension more than once.
    #[error("an extension appears twice")]
    DuplicateExtension,
    /// An extension that the rules read has a broken value.
    #[error("an extension cannot be read")]
    Extension,
    /// A subject alternative name of an unreadable or unused kind, or with bytes that its kind forbids.
    #[error("a subject alternative name cannot be read")]
    Name,
    /// A validity before 1970, or one that ends before it begins.
    #[error("its validity period makes no sense")]
    Validity,
    /// The two parsers that read each certificate saw different contents.
    #[error("two parsers read it in two ways")]
    Ambiguous,
}

/// What the rules ask of one certificate. Borrows from its DER.
pub(crate) struct Certificate<'a> {
    /// The content of the serial number's INTEGER.
    pub(crate) serial: &'a [u8],
    /// The `SubjectPublicKeyInfo`, as DER.
    pub(crate) public_key: &'a [u8],
    pub(crate) validity: Validity,
    pub(crate) is_ca: bool,
    pub(crate) key_usage: Option<Critical<KeyUsage>>,
    pub(crate) purposes: Option<Purposes>,
    /// Every URI among the subject alternative names, in order.
    pub(crate) uris: Vec<&'a str>,
    pub(crate) alternative_names_critical: bool,
    pub(crate) subject_is_empty: bool,
}

/// From the first second of validity to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// An extension's value and whether the issuer marked it critical.
pub(crate) struct Critical<T> {
    pub(crate) value: T,
    pub(crate) critical: bool,
}

/// The extended key usages that matter for mutual TLS.
pub(crate) struct Purposes {
    pub(crate) server_auth: bool,
    pub(crate) client_auth: bool,
}

/// The certificates in `der`, which stand there one directly after the other, as the SPIFFE Workload API writes them.
/// Only where each begins and ends is looked at.
pub fn certificates_in_sequence(der: &[u8]) -> Result<Vec<CertificateDer<'static>>, Malformed> {
    let mut certificates = Vec::new();
    let mut rest = der;
    while !rest.is_empty() {
        let (after, _) = Any::from_der(rest).map_err(|_| Malformed::Der)?;
        let length = rest.len().saturating_sub(after.len());
        let one = rest.get(..length).ok_or(Malformed::Der)?;
        certificates.push(CertificateDer::from(one.to_vec()));
        rest = after;
    }
    Ok(certificates)
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let (rest, x509) = X509Certificate::from_der(der).map_err(|_| Malformed::Der)?;
        if !rest.is_empty() {
            return Err(Malformed::TrailingBytes);
        }
        let mut certificate = Self {
            serial: x509.raw_serial(),
            public_key: x509.tbs_certificate.subject_pki.raw,
            validity: Validity::read(x509.validity())?,
            is_ca: false,
            key_usage: None,
            purposes: None,
            uris: Vec::new(),
            alternative_names_critical: false,
            subject_is_empty: x509.subject().iter().next().is_none(),
        };
        let mut seen = HashSet::new();
        for extension in x509.extensions() {
            if !seen.insert(extension.oid.as_bytes()) {
                return Err(Malformed::DuplicateExtension);
            }
            certificate.take(extension)?;
        }
        Ok(certificate)
    }

    fn take(&mut self, extension: &X509Extension<'a>) -> Result<(), Malformed> {
        match extension.parsed_extension() {
            // Of no concern here. webpki refuses the certificate if the issuer marked it critical.
            ParsedExtension::UnsupportedExtension { .. } => return Ok(()),
            ParsedExtension::ParseError { .. } | ParsedExtension::Unparsed => {
                return Err(Malformed::Extension);
            }
            ParsedExtension::BasicConstraints(constraints) => self.is_ca = constraints.ca,
            ParsedExtension::KeyUsage(usage) => {
                self.key_usage = Some(Critical { value: *usage, critical: extension.critical });
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.purposes =
                    Some(Purposes { server_auth: usage.server_auth, client_auth: usage.client_auth });
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                self.alternative_names_critical = extension.critical;
                self.uris = uris(&names.general_names)?;
            }
            _ => {}
        }
        one_der_value(extension.value)
    }
}

impl Validity {
    fn read(validity: &x509_parser::certificate::Validity) -> Result<Self, Malformed> {
        let not_before = unix_time(&validity.not_before)?;
        let not_after = unix_time(&validity.not_after)?;
        if not_after < not_before {
            return Err(Malformed::Validity);
        }
        Ok(Self { not_before, not_after })
    }

    pub(crate) fn contains(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.not_after.as_secs().saturating_sub(self.not_before.as_secs()))
    }
}

/// The URIs among `names`.
///
/// Nothing is skipped: code that passes over names it cannot read does not see the second URI that another
/// program acts on. Kinds that no mesh certificate needs, and that hide bytes from the parsers (otherName,
/// X.400, EDI), are refused with them, and so are NUL and other bytes that do not print.
fn uris<'a>(names: &[GeneralName<'a>]) -> Result<Vec<&'a str>, Malformed> {
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => {
                printable(uri)?;
                uris.push(*uri);
            }
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) => printable(text)?,
            GeneralName::IPAddress(_) | GeneralName::DirectoryName(_) | GeneralName::RegisteredID(_) => {}
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::Invalid(..) => return Err(Malformed::Name),
        }
    }
    Ok(uris)
}

fn printable(text: &str) -> Result<(), Malformed> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if printable { Ok(()) } else { Err(Malformed::Name) }
}

/// x509-parser ignores what follows the value inside an extension's OCTET STRING.
fn one_der_value(bytes: &[u8]) -> Result<(), Malformed> {
    let (rest, _) = Any::from_der(bytes).map_err(|_| Malformed::Extension)?;
    if rest.is_empty() { Ok(()) } else { Err(Malformed::TrailingBytes) }
}

fn unix_time(time: &ASN1Time) -> Result<UnixTime, Malformed> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| Malformed::Validity)?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}
