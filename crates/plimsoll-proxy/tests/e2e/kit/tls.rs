//! TLS for tests: certificate authorities, configurations, and a socket with or without TLS.

use std::io::{self, Read, Write};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use plimsoll_config::model::{CertificateFiles, ClientTls, ServerTls};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    PKCS_RSA_SHA256, RevokedCertParams, RsaKeySize,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use socket2::Socket;

use super::TempPath;
use plimsoll_proxy::Clock;

/// A socket with or without TLS.
#[derive(Debug)]
pub(crate) enum MaybeTlsSocket {
    Plain(Socket),
    Client(Box<StreamOwned<ClientConnection, Socket>>),
    Server(Box<StreamOwned<ServerConnection, Socket>>),
}

impl MaybeTlsSocket {
    pub(crate) fn client(socket: Socket, config: Arc<ClientConfig>, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).expect("a host name");
        let connection = ClientConnection::new(config, name).expect("a client");
        Self::Client(Box::new(StreamOwned::new(connection, socket)))
    }

    pub(crate) fn server(socket: Socket, config: Arc<ServerConfig>) -> Self {
        let connection = ServerConnection::new(config).expect("a server");
        Self::Server(Box::new(StreamOwned::new(connection, socket)))
    }

    /// Completes the handshake.
    pub(crate) fn handshake(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Client(tls) => tls.conn.complete_io(&mut tls.sock).map(drop),
            Self::Server(tls) => tls.conn.complete_io(&mut tls.sock).map(drop),
        }
    }

    /// Sends close_notify if the socket has TLS.
    pub(crate) fn send_close_notify(&mut self) {
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

impl Deref for MaybeTlsSocket {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Client(tls) => &tls.sock,
            Self::Server(tls) => &tls.sock,
        }
    }
}

impl Read for MaybeTlsSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Client(tls) => tls.read(buffer),
            Self::Server(tls) => tls.read(buffer),
        }
    }
}

impl Write for MaybeTlsSocket {
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

/// A certificate authority of a test.
pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    name: String,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = authority(name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem, name: name.into() }
    }

    /// Writes its certificate to a file and returns the path.
    pub(crate) fn file(&self) -> PathBuf {
        write(&format!("{}-ca.pem", self.name), &self.pem)
    }

    /// Issues a certificate for these names and writes it to files.
    pub(crate) fn issue(&self, names: &[&str]) -> CertificateFiles {
        self.issue_for(names, KeyPair::generate().expect("a key"))
    }

    /// Issues a certificate with an RSA key.
    pub(crate) fn issue_rsa(&self, names: &[&str]) -> CertificateFiles {
        self.issue_for(names, KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key"))
    }

    fn issue_for(&self, names: &[&str], key: KeyPair) -> CertificateFiles {
        self.issue_with(names, key, |_| {})
    }

    /// Issues a certificate that expires at this time, in seconds since 1970.
    pub(crate) fn issue_until(&self, names: &[&str], not_after: u64) -> CertificateFiles {
        self.issue_with(names, KeyPair::generate().expect("a key"), |params| {
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(not_after);
        })
    }

    /// Issues a certificate with this serial number.
    pub(crate) fn issue_numbered(&self, names: &[&str], serial: u64) -> CertificateFiles {
        self.issue_with(names, KeyPair::generate().expect("a key"), |params| {
            params.serial_number = Some(serial.into());
        })
    }

    /// Issues a certificate under `depth` intermediate authorities, all of them in its file.
    pub(crate) fn issue_below(&self, names: &[&str], depth: usize) -> CertificateFiles {
        let Some(above) = depth.checked_sub(1) else { return self.issue(names) };
        let mut issuers = vec![TestCa::new("intermediate-0")];
        let mut chain = vec![issuers[0].signed_by(self)];
        for n in 0..above {
            let next = TestCa::new(&format!("intermediate-{}", n + 1));
            chain.push(next.signed_by(&issuers[n]));
            issuers.push(next);
        }
        let files = issuers[above].issue(names);
        let own = std::fs::read_to_string(&files.cert).expect("just written");
        chain.reverse();
        std::fs::write(&files.cert, own + &chain.concat()).expect("a file");
        files
    }

    /// Returns the certificate of this authority as issued by another, in PEM form.
    fn signed_by(&self, issuer: &TestCa) -> String {
        authority(&self.name).signed_by(self.issuer.key(), &issuer.issuer).expect("a certificate").pem()
    }

    /// Writes a revocation list of these serial numbers to a file and returns the path.
    pub(crate) fn revocation_list(&self, serials: &[u64]) -> PathBuf {
        let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_seconds());
        let revoked = |&serial: &u64| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - Duration::from_secs(60),
            next_update: now + Duration::from_secs(3600),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list").pem().expect("PEM");
        write(&format!("{}-crl.pem", self.name), &list)
    }

    fn issue_with(
        &self,
        names: &[&str],
        key: KeyPair,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("good names");
        params.distinguished_name.push(rcgen::DnType::CommonName, names.first().map_or("unnamed", |n| n));
        edit(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let cert = write(&format!("{}-cert.pem", self.name), &certificate.pem());
        CertificateFiles::new(cert, write(&format!("{}-key.pem", self.name), &key.serialize_pem()))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("a certificate");
        roots
    }

    /// Returns a client configuration that trusts this authority and presents `identity` on request.
    pub(crate) fn client(&self, identity: Option<&CertificateFiles>) -> Arc<ClientConfig> {
        self.client_of(rustls::DEFAULT_VERSIONS, identity)
    }

    /// Returns a client configuration for these TLS versions only.
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

    /// Returns the bytes of a ClientHello for `name`.
    pub(crate) fn client_hello(&self, name: &str) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).expect("a host name");
        let mut connection = ClientConnection::new(self.client(None), name).expect("a client");
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).expect("memory");
        hello
    }

    /// Returns a TLS 1.2 client configuration with RSA cipher suites only.
    pub(crate) fn client_of_rsa(&self) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("versions");
        Arc::new(builder.with_root_certificates(self.roots()).with_no_client_auth())
    }

    /// Returns a server configuration; with `clients`, it requires certificates of that authority.
    pub(crate) fn server(files: &CertificateFiles, clients: Option<&TestCa>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(ca.roots());
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().expect("roots"))
            }
        };
        let (chain, key) = read(files);
        Arc::new(builder.with_single_cert(chain, key).expect("a pair"))
    }
}

/// Returns the parameters of an authority's certificate.
fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

/// Returns the wall clock in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    Clock::wall().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn read(files: &CertificateFiles) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&files.cert).expect("PEM").map(|c| c.expect("PEM")).collect();
    (chain, PrivateKeyDer::from_pem_file(&files.key).expect("PEM"))
}

/// Writes a file to the system's temporary directory.
fn write(name: &str, text: &str) -> PathBuf {
    let path = TempPath::new(name).keep();
    std::fs::write(&path, text).expect("a writable directory");
    path
}

/// Returns a listener's TLS configuration with these certificates.
pub(crate) fn server_tls(certificates: &[&CertificateFiles]) -> ServerTls {
    ServerTls::new(certificates.iter().map(|&files| files.clone()).collect())
}

/// Returns a pool's TLS configuration that trusts `ca`.
pub(crate) fn client_tls(ca: &TestCa, server_name: &str) -> ClientTls {
    let mut tls = ClientTls::default();
    tls.ca = Some(ca.file());
    tls.server_name = Some(server_name.into());
    tls
}
