//! Server-side TLS configuration of a listener: certificates by name, client authentication and session tickets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use plimsoll_config::model::{ClientAuth, ServerTls, TlsVersion};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::net::tls::client_verifier::ClientVerifier;
use crate::net::tls::load::{self, TlsError};

/// Number of session tickets per TLS 1.3 handshake. Each costs time, and clients rarely use two.
const TICKETS: usize = 1;

/// TLS configuration of a listener, shared by all workers, so that each accepts the tickets of the others.
#[derive(Debug)]
pub(crate) struct ServerTlsConfig {
    pub(crate) config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    /// Verifier of client certificates, if they are requested.
    client_verifier: Option<Arc<ClientVerifier>>,
    /// Fingerprint of the configuration and all its files.
    fingerprint: u64,
    /// Fingerprint of the client authentication.
    client_auth_fingerprint: u64,
}

/// Expiry of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// First DNS name of the certificate, or its file.
    pub name: String,
    /// End of its validity, in seconds since 1970.
    pub not_after: i64,
}

impl ServerTlsConfig {
    /// Loads the files of `tls`; returns `before` if nothing has changed.
    ///
    /// Session tickets stay valid while the client authentication is unchanged.
    ///
    /// # Errors
    /// A file cannot be used. A listener never serves with less than was configured.
    pub(crate) fn renewed(
        tls: &ServerTls,
        alpn: &[&[u8]],
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, TlsError> {
        let (ClientAuth::Optional(ca) | ClientAuth::Required(ca)) = &tls.client_auth else {
            return Self::with_fingerprints(tls, alpn, before, load::fingerprint(&tls.client_auth, [])?);
        };
        let files = [ca.as_path()].into_iter().chain(tls.client_crl.as_deref());
        let client_auth_fingerprint = load::fingerprint(&tls.client_auth, files)?;
        Self::with_fingerprints(tls, alpn, before, client_auth_fingerprint)
    }

    fn with_fingerprints(
        tls: &ServerTls,
        alpn: &[&[u8]],
        before: Option<&Arc<Self>>,
        client_auth_fingerprint: u64,
    ) -> Result<Arc<Self>, TlsError> {
        let files = tls.certificates.iter().flat_map(|pair| [pair.cert.as_path(), pair.key.as_path()]);
        let fingerprint = load::fingerprint(&(client_auth_fingerprint, alpn, tls), files)?;
        if let Some(before) = before.filter(|before| before.fingerprint == fingerprint) {
            return Ok(before.clone());
        }
        let tickets = match before.filter(|before| before.client_auth_fingerprint == client_auth_fingerprint)
        {
            Some(before) => before.config.ticketer.clone(),
            None => rustls::crypto::aws_lc_rs::Ticketer::new()
                .map_err(|error| load::tls_error(&tls.certificates[0].key, error))?,
        };
        let certificates = Arc::new(Certificates::load(tls)?);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client_verifier = ClientVerifier::load(tls, provider.clone())?;
        let mut config = Self::config(tls, alpn, provider, client_verifier.clone(), certificates.clone())?;
        config.ticketer = tickets;
        Ok(Arc::new(Self {
            config: Arc::new(config),
            certificates,
            client_verifier,
            fingerprint,
            client_auth_fingerprint,
        }))
    }

    fn config(
        tls: &ServerTls,
        alpn: &[&[u8]],
        provider: Arc<CryptoProvider>,
        client_verifier: Option<Arc<ClientVerifier>>,
        certificates: Arc<Certificates>,
    ) -> Result<ServerConfig, TlsError> {
        let versions: &[_] = match tls.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let first = &tls.certificates[0].cert;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| load::tls_error(first, error))?;
        let builder = match client_verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(certificates);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.send_tls13_tickets = TICKETS;
        // Sessions are kept in tickets only: a cache would need a lock shared by all workers.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    /// Verifies the certificates of a client that resumed a session.
    ///
    /// # Errors
    /// They are not valid any more.
    pub(crate) fn verify_resumed(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let Some(verifier) = &self.client_verifier else { return Ok(()) };
        verifier.verify_resumed(chain, UnixTime::now())
    }

    /// Reports whether the certificate served for `sni` covers `host`, too, so that a client may send requests for both
    /// on one connection (RFC 9110 section 7.4).
    pub(crate) fn cert_covers_host(&self, sni: &str, host: &str) -> bool {
        let served = self.certificates.of(Some(sni));
        served.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => host.split_once('.').is_some_and(|(_, rest)| domain.eq_ignore_ascii_case(rest)),
            None => name.eq_ignore_ascii_case(host),
        })
    }

    /// Returns the expiry of each certificate.
    pub(crate) fn expiries(&self) -> Vec<Expiry> {
        self.certificates
            .all
            .iter()
            .map(|c| Expiry { name: c.label.clone(), not_after: c.not_after })
            .collect()
    }
}

/// Properties of a client's TLS connection.
#[derive(Debug, Default)]
pub(crate) struct ClientTlsInfo {
    /// Requested server name (SNI), in lower case.
    pub(crate) sni: Option<Box<str>>,
    /// Verified client certificate in the form of RFC 9440: DER in Base64, between colons.
    pub(crate) certificate: Option<Box<str>>,
}

/// Certificates for one set of names.
#[derive(Debug)]
struct Served {
    keys: Vec<Arc<CertifiedKey>>,
    names: Vec<String>,
    label: String,
    not_after: i64,
}

/// Certificates of a listener by DNS name. The first one is the default.
#[derive(Debug)]
struct Certificates {
    all: Vec<Served>,
    exact: HashMap<String, usize>,
    /// Index by the domain after `*.`.
    wildcard: HashMap<String, usize>,
}

impl Certificates {
    fn load(tls: &ServerTls) -> Result<Self, TlsError> {
        let mut all: Vec<Served> = Vec::new();
        for pair in &tls.certificates {
            let identity = load::identity(&pair.cert, &pair.key)?;
            // Certificates of different key types for the same names are alternatives.
            match all.iter_mut().find(|served| served.names == identity.names && !served.names.is_empty()) {
                Some(served) => {
                    served.keys.push(identity.key);
                    served.not_after = served.not_after.min(identity.not_after);
                }
                None => {
                    let label = identity.names.first().cloned();
                    all.push(Served {
                        keys: vec![identity.key],
                        label: label.unwrap_or_else(|| pair.cert.display().to_string()),
                        names: identity.names,
                        not_after: identity.not_after,
                    });
                }
            }
        }
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (index, served) in all.iter().enumerate() {
            for name in &served.names {
                match name.strip_prefix("*.") {
                    Some(domain) => wildcard.entry(domain.to_owned()).or_insert(index),
                    None => exact.entry(name.clone()).or_insert(index),
                };
            }
        }
        Ok(Self { all, exact, wildcard })
    }

    fn of(&self, name: Option<&str>) -> &Served {
        let name = name.map(str::to_ascii_lowercase);
        let found = name.and_then(|name| {
            let wild = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wild)
        });
        &self.all[found.copied().unwrap_or(0)]
    }
}

thread_local! {
    /// SNI of the ClientHello that was read last on this thread. The unbuffered API of rustls provides it only to the
    /// resolver; it is taken right after the call that set it.
    static LAST_SNI: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Returns the SNI of the ClientHello that was just read on this thread.
pub(crate) fn take_sni() -> Option<String> {
    LAST_SNI.take()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        LAST_SNI.replace(name.map(str::to_owned));
        let served = self.of(name);
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let strong = |key: &&Arc<CertifiedKey>| key.key.algorithm() != rustls::SignatureAlgorithm::RSA;
        let usable = || served.keys.iter().filter(fits);
        usable().find(strong).or_else(|| usable().next()).cloned()
    }
}
