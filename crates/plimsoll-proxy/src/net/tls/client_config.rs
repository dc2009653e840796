//! Client-side TLS configuration of a pool: verification of destinations, and the client certificate.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_config::model::{ClientTls, Destination, DestinationAddress};
use plimsoll_core::Name;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::net::socket_stream::SocketStream;
use crate::net::tls::load::{self, TlsError};
use crate::net::tls::tls_stream::TlsStream;

/// Number of sessions kept for resumption, per pool.
const SESSIONS: usize = 1024;

/// TLS configuration of a pool.
#[derive(Debug)]
pub(crate) struct ClientTlsConfig {
    pub(crate) config: Arc<ClientConfig>,
    /// Configuration that offers HTTP/1.1 only.
    http1: Arc<ClientConfig>,
    names: HashMap<Name, ServerName<'static>>,
    /// Fingerprint of the configuration and all its files.
    fingerprint: u64,
}

/// Protocols offered to a destination by ALPN.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum AlpnOffer {
    /// Protocols of the pool.
    Pool,
    /// HTTP/1.1, if the pool supports both.
    Http1,
    /// HTTP/2 only, for checks that use another protocol than the pool's requests.
    Http2,
}

impl ClientTlsConfig {
    /// Loads the files of `tls`; returns `before` if nothing has changed.
    ///
    /// # Errors
    /// A file cannot be used. A pool never trusts more than was configured.
    pub(crate) fn renewed(
        tls: &ClientTls,
        alpn: &[&[u8]],
        destinations: &[Destination],
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, TlsError> {
        let identity = tls.identity.iter().flat_map(|pair| [pair.cert.as_path(), pair.key.as_path()]);
        let addresses: Vec<_> = destinations.iter().map(|d| (&d.name, &d.address)).collect();
        let fingerprint =
            load::fingerprint(&(tls, alpn, addresses), tls.ca.as_deref().into_iter().chain(identity))?;
        if let Some(before) = before.filter(|before| before.fingerprint == fingerprint) {
            return Ok(before.clone());
        }
        let config = Arc::new(Self::config(tls, alpn)?);
        let http1 = match alpn {
            [_, _, ..] => {
                let mut http1 = ClientConfig::clone(&config);
                http1.alpn_protocols = vec![b"http/1.1".to_vec()];
                Arc::new(http1)
            }
            _ => config.clone(),
        };
        let name_of = |d: &Destination| (d.name.clone(), server_name(tls, &d.address));
        Ok(Arc::new(Self { config, http1, names: destinations.iter().map(name_of).collect(), fingerprint }))
    }

    fn http2(&self) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        if config.alpn_protocols != [b"h2"] {
            Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec()];
        }
        config
    }

    fn config(tls: &ClientTls, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| load::tls_error(std::path::Path::new("tls"), error))?;
        let builder = match (&tls.ca, tls.verify) {
            (_, false) => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
            }
            (Some(ca), true) => builder.with_root_certificates(load::authorities(ca)?),
            (None, true) => builder.with_root_certificates(system_authorities()?),
        };
        let mut config = match &tls.identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let identity = load::identity(&pair.cert, &pair.key)?;
                builder
                    .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.key)))
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(config)
    }

    /// Returns the server name of a destination. One that comes from a lookup is named `NAME/ADDRESS`.
    fn server_name_of(&self, destination: &str) -> Option<ServerName<'static>> {
        let looked_up = || self.names.get(destination.rsplit_once('/')?.0);
        self.names.get(destination).or_else(looked_up).cloned()
    }

    /// Performs the TLS handshake with `destination` on a new connection.
    ///
    /// # Errors
    /// The destination could not be verified, or the handshake failed.
    pub(crate) async fn handshake(
        &self,
        socket: SocketStream,
        destination: &Name,
        offer: AlpnOffer,
    ) -> io::Result<Box<TlsStream>> {
        let config = match offer {
            AlpnOffer::Pool => self.config.clone(),
            AlpnOffer::Http1 => self.http1.clone(),
            AlpnOffer::Http2 => self.http2(),
        };
        let name = self.server_name_of(destination).ok_or(io::ErrorKind::NotFound)?;
        let mut secured = Box::new(TlsStream::client(socket, config, name)?);
        std::future::poll_fn(|cx| secured.poll_handshake(cx)).await?;
        if offer == AlpnOffer::Http2 && secured.alpn() != Some(b"h2") {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the destination does not support HTTP/2",
            ));
        }
        Ok(secured)
    }
}

/// Returns the configured `server_name`, else the host of the address; a Unix socket is `localhost`.
fn server_name(tls: &ClientTls, address: &DestinationAddress) -> ServerName<'static> {
    let from_text = |text: &str| ServerName::try_from(text.to_owned()).ok();
    let named = tls.server_name.as_deref().and_then(from_text);
    let from_address = || match address {
        DestinationAddress::Socket(address) => Some(ServerName::from(address.ip())),
        DestinationAddress::Name(host, _) => from_text(host),
        DestinationAddress::Unix(_) => from_text("localhost"),
    };
    named.or_else(from_address).unwrap_or_else(|| ServerName::from(IpAddr::from([0, 0, 0, 0])))
}

/// Returns the authorities of the operating system. None is an error, because no destination could be verified.
fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err(load::tls_error(
            std::path::Path::new("certificate authorities of the system"),
            "none found; set `ca` or install ca-certificates",
        )),
        false => Ok(roots),
    }
}

/// Accepts any certificate (`verify: false`), so connections are not protected against interception.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
