//! TLS to clients and to destinations.

use std::path::PathBuf;

/// PEM files of a certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateFiles {
    /// Certificate chain, the own certificate first.
    pub cert: PathBuf,
    /// Private key in PKCS#8, PKCS#1 or SEC1 format.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Creates the pair of these two files.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { cert: cert.into(), key: key.into() }
    }
}

/// Requirement of client certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Client certificates are not requested.
    #[default]
    None,
    /// Client certificates are optional. One that is not of these authorities is rejected.
    Optional(PathBuf),
    /// Client certificates of these authorities are required.
    Required(PathBuf),
}

/// Minimum TLS version.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 and newer.
    #[default]
    V1_2,
    /// TLS 1.3 only.
    V1_3,
}

impl TlsVersion {
    /// All variants, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::V1_2, Self::V1_3];

    /// Returns the keyword of the configuration file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// TLS termination of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerTls {
    /// Certificates, at least one. They are selected by server name; the first is used if no name matches.
    pub certificates: Vec<CertificateFiles>,
    /// Requirement of client certificates.
    pub client_auth: ClientAuth,
    /// Certificate revocation lists of the clients' authorities; `None` = revocation is not checked.
    pub client_crl: Option<PathBuf>,
    /// Minimum TLS version.
    pub min_version: TlsVersion,
    /// Whether requests for hosts that neither the server name (SNI) nor the served certificate covers are rejected.
    pub strict_host: bool,
}

/// TLS to the destinations of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientTls {
    /// Certificate authorities of the destinations; `None` = those of the system.
    pub ca: Option<PathBuf>,
    /// Server name that destinations must present a certificate for; `None` = the host of the address.
    pub server_name: Option<String>,
    /// Client certificate, for destinations that require one.
    pub identity: Option<CertificateFiles>,
    /// Whether the certificates of destinations are verified.
    pub verify: bool,
}
