//! Certificate of the proxies and the authority that signed it, both created for every run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;

/// Server name that clients send.
pub(crate) const NAME: &str = "localhost";

/// Files of a run's certificate.
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Certificate and key in one file, as HAProxy expects.
    pub(crate) pair: PathBuf,
    /// Certificate authority that clients trust.
    pub(crate) authority: CertificateDer<'static>,
}

impl Certificate {
    /// Creates a P-256 certificate for [`NAME`], signed by an authority with a key of the same kind. The
    /// authority is not sent along, so every proxy sends as many bytes.
    pub(crate) fn make(folder: &Path) -> io::Result<Self> {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other);
        let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = key()?;
        let authority = params.self_signed(&own).map_err(io::Error::other)?;
        let issuer = Issuer::new(params, own);
        let params = CertificateParams::new(vec![NAME.to_owned()]).map_err(io::Error::other)?;
        let served = key()?;
        let cert = params.signed_by(&served, &issuer).map_err(io::Error::other)?.pem();
        let key = served.serialize_pem();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map(|()| path)
        };
        Ok(Self {
            pair: write("pair.pem", &format!("{cert}{key}"))?,
            cert: write("cert.pem", &cert)?,
            key: write("key.pem", &key)?,
            authority: authority.der().clone(),
        })
    }
}
