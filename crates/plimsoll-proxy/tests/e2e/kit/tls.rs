//! TLS for tests: authorities that vouch for whomever a test wants, and a socket with TLS on it.

use std::io::{self, Read, Write};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use plimsoll_config::model::{CertificateFiles, ClientAuth, ClientTls, ServerTls, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use socket2::Socket;

use super::Temporary;

/// A socket, with TLS on it or without.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(Socket),
    Client(Box<StreamOwned<ClientConnection, Socket>>),
    Server(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Wire {
    pub(crate) fn client(socket: Socket, config: Arc<ClientConfig>, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).expect("a host name");
        let connection = ClientConnection::new(config, name).expect("a client");
        Self::Client(Box::new(StreamOwned::new(connection, socket)))
    }

    pub(crate) fn server(socket: Socket, config: Arc<ServerConfig>) -> Self {
        let connection = ServerConnection::new(config).expect("a server");
        Self::Server(Box::new(StreamOwned::new(connection, socket)))
    }

    /// The handshake, to its end.
    pub(crate) fn shake_hands(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Client(tls) => tls.conn.complete_io(&mut tls.sock).map(drop),
            Self::Server(tls) => tls.conn.complete_io(&mut tls.sock).map(drop),
        }
    }

    /// Announces the end, where TLS wants that.
    pub(crate) fn announce_end(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Client(tls) => {
                tls.conn.send_close_notify();
                let _gone_already = tls.flush();
            }
            Self::Server(tls) => {
                tls.conn.send_close_notify();
                let _gone_already = tls.flush();
            }
        }
    }
}

impl Deref for Wire {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Client(tls) => &tls.sock,
            Self::Server(tls) => &tls.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Client(tls) => tls.read(buffer),
            Self::Server(tls) => tls.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Client(tls) => tls.write(bytes),
            Self::Server(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Client(tls) => tls.flush(),
            Self::Server(tls) => tls.flush(),
        }
    }
}

/// Who vouches for certificates of a test. Its files go when it does.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    name: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem, name: name.into() }
    }

    /// The file of its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        write(&format!("{}-ca.pem", self.name), &self.pem)
    }

    /// A certificate for these names, in files of its own.
    pub(crate) fn issue(&self, names: &[&str]) -> CertificateFiles {
        self.issue_for(names, KeyPair::generate().expect("a key"))
    }

    /// The same with an RSA key.
    pub(crate) fn issue_rsa(&self, names: &[&str]) -> CertificateFiles {
        self.issue_for(names, KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key"))
    }

    fn issue_for(&self, names: &[&str], key: KeyPair) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("good names");
        params.distinguished_name.push(rcgen::DnType::CommonName, names.first().map_or("nobody", |n| n));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        CertificateFiles {
            cert: write(&format!("{}-cert.pem", self.name), &certificate.pem()),
            key: write(&format!("{}-key.pem", self.name), &key.serialize_pem()),
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("a certificate");
        roots
    }

    /// A client that believes this authority, and shows `identity` if it is asked.
    pub(crate) fn client(&self, identity: Option<&CertificateFiles>) -> Arc<ClientConfig> {
        self.client_of(rustls::DEFAULT_VERSIONS, identity)
    }

    /// The same, of these versions only.
    pub(crate) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&CertificateFiles>,
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(self.roots());
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = read(files);
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        })
    }

    /// A client of TLS 1.2 that knows of RSA alone.
    pub(crate) fn client_of_rsa(&self) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("versions");
        Arc::new(builder.with_root_certificates(self.roots()).with_no_client_auth())
    }

    /// A server of `files`; it takes only clients of `clients`, if that is given.
    pub(crate) fn server(files: &CertificateFiles, clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(authority.roots());
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().expect("roots"))
            }
        };
        let (chain, key) = read(files);
        Arc::new(builder.with_single_cert(chain, key).expect("a pair"))
    }
}

fn read(files: &CertificateFiles) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&files.cert).expect("PEM").map(|c| c.expect("PEM")).collect();
    (chain, PrivateKeyDer::from_pem_file(&files.key).expect("PEM"))
}

/// A file that lies in the system's folder for such files; a test's process is short-lived.
fn write(name: &str, text: &str) -> PathBuf {
    let path = Temporary::new(name).keep();
    std::fs::write(&path, text).expect("room for a file");
    path
}

/// A listener's TLS with these certificates.
pub(crate) fn serves(certificates: &[&CertificateFiles]) -> ServerTls {
    ServerTls {
        certificates: certificates.iter().map(|&files| files.clone()).collect(),
        client_auth: ClientAuth::None,
        min_version: TlsVersion::V1_2,
    }
}

/// A pool's TLS that believes `authority`.
pub(crate) fn believes(authority: &Authority, server_name: &str) -> ClientTls {
    ClientTls {
        ca: Some(authority.file()),
        server_name: Some(server_name.into()),
        identity: None,
        verify: true,
    }
}
