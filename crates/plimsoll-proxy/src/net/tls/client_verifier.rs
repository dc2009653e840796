//! Verification of client certificates: authorities, revocation lists, and the length of chains.

use std::path::Path;
use std::sync::Arc;

use plimsoll_config::model::{ClientAuth, ServerTls};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::net::tls::load::{self, TlsError};

/// Maximum number of certificates that a client may send. Each costs time, and real chains have two to four; OpenSSL and
/// HAProxy stop at 10 as well.
const MAX_CHAIN: usize = 10;

/// Verifier of client certificates.
#[derive(Debug)]
pub(crate) struct ClientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientVerifier {
    /// Loads the authorities and revocation lists of `tls`; `None` if client certificates are not requested.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn load(
        tls: &ServerTls,
        provider: Arc<CryptoProvider>,
    ) -> Result<Option<Arc<Self>>, TlsError> {
        let (ClientAuth::Optional(ca) | ClientAuth::Required(ca)) = &tls.client_auth else { return Ok(None) };
        let roots = Arc::new(load::authorities(ca)?);
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if let Some(crl) = &tls.client_crl {
            // As in HAProxy and nginx, a certificate without a valid list of its issuer is refused.
            verifier = verifier.with_crls(load::revocation_lists(crl)?).enforce_revocation_expiration();
        }
        if matches!(tls.client_auth, ClientAuth::Optional(_)) {
            verifier = verifier.allow_unauthenticated();
        }
        let file: &Path = tls.client_crl.as_deref().unwrap_or(ca);
        let verifier = verifier.build().map_err(|error| load::tls_error(file, error))?;
        Ok(Some(Arc::new(Self(verifier))))
    }

    /// Verifies the certificates of a resumed session again: one that was valid at the full handshake may have expired
    /// since.
    pub(super) fn verify_resumed(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        match chain {
            [] => Ok(()),
            [own, intermediates @ ..] => self.verify_client_cert(own, intermediates, now).map(drop),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
