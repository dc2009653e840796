//! Certificates, keys and authorities loaded from PEM files.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{RootCertStore, sign};

use crate::net::tls::certificate::CertificateInfo;

/// A TLS file that cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub struct TlsError {
    /// Path of the file.
    pub file: PathBuf,
    /// Problem with the file.
    pub what: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

impl std::error::Error for TlsError {}

/// Creates an error of a file.
pub(crate) fn tls_error(file: &Path, what: impl fmt::Display) -> TlsError {
    TlsError { file: file.to_owned(), what: what.to_string() }
}

/// Returns a hash of a configuration and the contents of its files.
pub(crate) fn fingerprint<'f>(
    config: &impl fmt::Debug,
    files: impl IntoIterator<Item = &'f Path>,
) -> Result<u64, TlsError> {
    let mut hasher = std::hash::DefaultHasher::new();
    format!("{config:?}").hash(&mut hasher);
    for file in files {
        let bytes =
            std::fs::read(file).map_err(|error| tls_error(file, format!("cannot be read: {error}")))?;
        bytes.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// A certificate chain with its key, names and expiry.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) key: std::sync::Arc<sign::CertifiedKey>,
    /// DNS names of the certificate, in lower case; a wildcard as `*.example.com`.
    pub(crate) names: Vec<String>,
    /// End of its validity, in seconds since 1970.
    pub(crate) not_after: i64,
}

/// Loads a certificate chain and its key, and verifies that they match.
pub(crate) fn identity(cert: &Path, key: &Path) -> Result<Identity, TlsError> {
    let chain = certificates(cert)?;
    let CertificateInfo { names, not_after } = CertificateInfo::parse(&chain[0])
        .map_err(|error| tls_error(cert, format!("cannot be read as X.509: {error}")))?;
    let secret = PrivateKeyDer::from_pem_slice(&read_pem(key)?)
        .map_err(|error| tls_error(key, unreadable(&error, "a private key")))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = sign::CertifiedKey::from_der(chain, secret, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            tls_error(key, format!("does not match the certificate {}", cert.display()))
        }
        other => tls_error(key, other),
    })?;
    Ok(Identity { key: std::sync::Arc::new(key), names, not_after })
}

/// Loads the certificates of a file, at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read_pem(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| tls_error(file, unreadable(&error, "a certificate")))?;
    match chain.is_empty() {
        true => Err(tls_error(file, "holds no certificate in PEM form")),
        false => Ok(chain),
    }
}

/// Loads the authorities of a file. Each must be usable: if one were skipped, its clients or servers would be rejected
/// without a visible reason.
pub(crate) fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| tls_error(file, error))?;
    }
    Ok(roots)
}

/// Loads the certificate revocation lists of a file, at least one.
pub(crate) fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    const WHAT: &str = "a certificate revocation list";
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&read_pem(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| tls_error(file, unreadable(&error, WHAT)))?;
    match lists.is_empty() {
        true => Err(tls_error(file, "holds no certificate revocation list in PEM form")),
        false => Ok(lists),
    }
}

/// Reads a PEM file without its byte-order marks. Some editors write one at the start, and files that are put together
/// have them in the middle, where the next certificate would be skipped without a word.
fn read_pem(file: &Path) -> Result<Vec<u8>, TlsError> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let mut bytes =
        std::fs::read(file).map_err(|error| tls_error(file, format!("cannot be read: {error}")))?;
    while let Some(at) = bytes.windows(BYTE_ORDER_MARK.len()).position(|part| part == BYTE_ORDER_MARK) {
        bytes.drain(at..at + BYTE_ORDER_MARK.len());
    }
    Ok(bytes)
}

/// Describes a PEM error without content of the file, which may be a key.
fn unreadable(error: &rustls::pki_types::pem::Error, what: &str) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => format!("cannot be read: {error}"),
        Error::NoItemsFound => format!("holds no {} in PEM form", what.trim_start_matches("a ")),
        _ => format!("does not hold {what} in PEM form"),
    }
}
