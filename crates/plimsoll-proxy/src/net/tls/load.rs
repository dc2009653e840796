//! How certificates, keys and authorities are read from files, and what is wrong when they cannot be.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, sign};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a file of TLS cannot be used.
#[derive(Debug)]
pub struct TlsError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

impl std::error::Error for TlsError {}

pub(crate) fn tls_error(file: &Path, what: impl fmt::Display) -> TlsError {
    TlsError { file: file.to_owned(), what: what.to_string() }
}

/// A number that changes with what `words` say and with what is in `files`.
pub(crate) fn fingerprint<'f>(
    words: &impl fmt::Debug,
    files: impl IntoIterator<Item = &'f Path>,
) -> Result<u64, TlsError> {
    let mut hasher = std::hash::DefaultHasher::new();
    format!("{words:?}").hash(&mut hasher);
    for file in files {
        let bytes =
            std::fs::read(file).map_err(|error| tls_error(file, format!("cannot be read: {error}")))?;
        bytes.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// A certificate with its chain and its key, and what stands in it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) key: std::sync::Arc<sign::CertifiedKey>,
    /// DNS names it is for, lower case; a wildcard as `*.example.com`.
    pub(crate) names: Vec<String>,
    /// Seconds since 1970 from which on it is no longer valid.
    pub(crate) not_after: i64,
}

/// Reads a certificate chain and its key, and makes sure that they belong together.
pub(crate) fn identity(cert: &Path, key: &Path) -> Result<Identity, TlsError> {
    let chain = certificates(cert)?;
    let (names, not_after) = describe(cert, &chain[0])?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| tls_error(key, unreadable(&error, "a private key")))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = sign::CertifiedKey::from_der(chain, secret, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => tls_error(key, format!("is not the key of {}", cert.display())),
        other => tls_error(key, other),
    })?;
    Ok(Identity { key: std::sync::Arc::new(key), names, not_after })
}

/// The certificates in a file, at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file)
        .map_err(|error| tls_error(file, unreadable(&error, "a certificate")))?;
    let chain: Vec<_> = read
        .collect::<Result<_, _>>()
        .map_err(|error| tls_error(file, unreadable(&error, "a certificate")))?;
    match chain.is_empty() {
        true => Err(tls_error(file, "holds no certificate in PEM form")),
        false => Ok(chain),
    }
}

/// The authorities in a file: every one of them must be usable, because one that is skipped is one whose
/// clients or servers are refused for no reason anybody can see.
pub(crate) fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| tls_error(file, error))?;
    }
    Ok(roots)
}

/// Never shows a byte of the file: it may be a key.
fn unreadable(error: &rustls::pki_types::pem::Error, what: &str) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => format!("cannot be read: {error}"),
        Error::NoItemsFound => format!("holds no {} in PEM form", what.trim_start_matches("a ")),
        _ => format!("does not hold {what} in PEM form"),
    }
}

fn describe(file: &Path, der: &CertificateDer<'_>) -> Result<(Vec<String>, i64), TlsError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| tls_error(file, error))?;
    let not_after = parsed.validity().not_after.timestamp();
    let names = parsed.subject_alternative_name().map_err(|error| tls_error(file, error))?;
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok((names.collect(), not_after))
}
