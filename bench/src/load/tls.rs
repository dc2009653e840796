//! TLS of the load client. It is as cheap as possible because it shares its CPU with the backends: rustls
//! decrypts in the client's own buffer and keeps none of its own (`rustls::unbuffered`).

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{
    AppDataRecord, ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};

use super::exchange::{ExchangeError, Fed};
use crate::certificate;

/// Kind of handshakes that connections use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshakes {
    /// Full handshake on every connection.
    Full,
    /// Resumption with a ticket of the previous connection; the first one of each place is full.
    Resumed,
}

/// TLS settings shared by all connections of a client.
#[derive(Clone)]
pub(crate) struct TlsSettings {
    config: Arc<ClientConfig>,
    handshakes: Handshakes,
}

impl TlsSettings {
    /// Creates settings for TLS 1.3 with one cipher suite and one group, so that all servers do the same
    /// work. The server's certificate must be signed by `authority`.
    pub(crate) fn new(authority: CertificateDer<'static>, handshakes: Handshakes) -> io::Result<Self> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(io::Error::other)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), handshakes })
    }
}

/// TLS session of one place of a client, kept across its connections.
pub(super) struct TlsStream {
    config: Arc<ClientConfig>,
    handshakes: Handshakes,
    /// Whether a connection here got a response, and so a ticket.
    has_ticket: bool,
    session: Session,
}

/// TLS state of one connection.
struct Session {
    side: UnbufferedClientConnection,
    /// Start of an incomplete record.
    partial: Vec<u8>,
    /// Encrypted bytes, and how many of them are sent.
    outgoing: Vec<u8>,
    sent: usize,
    /// Whether the current request is in `outgoing` or sent.
    asked: bool,
    /// Whether a response came after the expected kind of handshake.
    known: bool,
}

/// Initial size for encoding a TLS message; rustls reports the size of a longer one.
const MESSAGE: usize = 1024;
/// Overhead of a record for a request: header, type and tag.
const OVERHEAD: usize = 22;

impl TlsStream {
    pub(super) fn new(tls: &TlsSettings) -> io::Result<Self> {
        let mut config = tls.config.clone();
        if tls.handshakes == Handshakes::Resumed {
            // One session store per place: in a shared one, rustls keeps eight tickets for a server.
            Arc::make_mut(&mut config).resumption = Resumption::in_memory_sessions(1);
        }
        let session = Session::new(&config)?;
        Ok(Self { config, handshakes: tls.handshakes, has_ticket: false, session })
    }

    /// Starts another connection after the last one ended normally.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.session = Session::new(&self.config)?;
        Ok(())
    }

    /// Queues a request: encrypted now, or when the handshake is complete.
    pub(super) fn send_request(&mut self, request: &[u8]) -> Result<(), ExchangeError> {
        self.session.asked = false;
        let mut partial = std::mem::take(&mut self.session.partial);
        let used = self.session.process(&mut partial, request, |_| Err(ExchangeError::Length))?;
        self.session.partial = partial.split_off(used);
        Ok(())
    }

    /// Copies an incomplete record to the front of the receive buffer and returns its length.
    pub(super) fn restore(&self, buffer: &mut [u8]) -> usize {
        let kept = &self.session.partial;
        buffer[..kept.len()].copy_from_slice(kept);
        kept.len()
    }

    /// Decrypts received bytes, restored ones included, and passes on the plaintext.
    pub(super) fn take(
        &mut self,
        incoming: &mut [u8],
        request: &[u8],
        mut feed: impl FnMut(&[u8]) -> Result<Fed, ExchangeError>,
    ) -> Result<Fed, ExchangeError> {
        let mut fed = Fed::More;
        let used = self.session.process(incoming, request, |plain| {
            // No bytes are expected after a complete response.
            fed = if fed == Fed::Whole { Err(ExchangeError::Length) } else { feed(plain) }?;
            Ok(())
        })?;
        self.session.partial.clear();
        self.session.partial.extend_from_slice(&incoming[used..]);
        if fed == Fed::Whole && !self.session.known {
            self.know()?;
        }
        Ok(fed)
    }

    /// Checks that the handshake was of the expected kind.
    fn know(&mut self) -> Result<(), ExchangeError> {
        let wanted = match self.handshakes {
            Handshakes::Resumed if self.has_ticket => HandshakeKind::Resumed,
            Handshakes::Resumed | Handshakes::Full => HandshakeKind::Full,
        };
        self.has_ticket = true;
        self.session.known = self.session.side.handshake_kind() == Some(wanted);
        if self.session.known { Ok(()) } else { Err(ExchangeError::Handshake) }
    }

    /// Returns the bytes to send.
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.session.outgoing[self.session.sent..]
    }

    pub(super) fn has_sent(&mut self, count: usize) {
        let session = &mut self.session;
        session.sent += count;
        if session.sent == session.outgoing.len() {
            session.outgoing.clear();
            session.sent = 0;
        }
    }
}

impl Session {
    fn new(config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(certificate::NAME).map_err(io::Error::other)?;
        let side = UnbufferedClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        Ok(Self {
            side,
            partial: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            // The handshake starts with the first request.
            asked: true,
            known: false,
        })
    }

    /// Runs rustls until it needs more bytes or the request is encrypted; returns the bytes consumed.
    fn process(
        &mut self,
        incoming: &mut [u8],
        request: &[u8],
        mut plain: impl FnMut(&[u8]) -> Result<(), ExchangeError>,
    ) -> Result<usize, ExchangeError> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.side.process_tls_records(&mut incoming[used..]);
            let mut wants_more = false;
            match state.map_err(|_| ExchangeError::Tls)? {
                ConnectionState::ReadTraffic(mut records) => {
                    while let Some(record) = records.next_record() {
                        let AppDataRecord { discard: more, payload } =
                            record.map_err(|_| ExchangeError::Tls)?;
                        discard += more;
                        plain(payload)?;
                    }
                }
                ConnectionState::EncodeTlsData(message) => encode(message, &mut self.outgoing)?,
                // The request is in `outgoing`, which is sent before anything is received.
                ConnectionState::TransmitTlsData(message) => message.done(),
                ConnectionState::WriteTraffic(traffic) => {
                    if !self.asked {
                        encrypt(traffic, request, &mut self.outgoing)?;
                        self.asked = true;
                    }
                    wants_more = true;
                }
                ConnectionState::PeerClosed => {}
                _ => wants_more = true,
            }
            used += discard;
            if wants_more {
                return Ok(used);
            }
        }
    }
}

fn encode(
    mut message: EncodeTlsData<'_, ClientConnectionData>,
    to: &mut Vec<u8>,
) -> Result<(), ExchangeError> {
    append(to, MESSAGE, |to| match message.encode(to) {
        Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
        other => other.map_err(|_| None),
    })
}

fn encrypt(
    mut traffic: WriteTraffic<'_, ClientConnectionData>,
    request: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), ExchangeError> {
    append(to, request.len() + OVERHEAD, |to| match traffic.encrypt(request, to) {
        Err(EncryptError::InsufficientSize(size)) => Err(Some(size)),
        other => other.map_err(|_| None),
    })
}

/// Appends the output of `write`, with a larger buffer if the first one was too small.
fn append(
    to: &mut Vec<u8>,
    likely: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), ExchangeError> {
    let start = to.len();
    let mut size = likely;
    loop {
        to.resize(start + size, 0);
        match write(&mut to[start..]) {
            Ok(written) => {
                to.truncate(start + written);
                return Ok(());
            }
            Err(Some(more)) if more.required_size > size => size = more.required_size,
            Err(_) => return Err(ExchangeError::Tls),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;
    use crate::certificate::Certificate;
    use crate::proxies;

    const REQUEST: &[u8] = b"ping";

    fn certificate() -> (tempfile::TempDir, Certificate) {
        let folder = proxies::folder().expect("a folder");
        let certificate = Certificate::make(folder.path()).expect("a certificate");
        (folder, certificate)
    }

    fn server(certificate: &Certificate, tickets: usize) -> Arc<ServerConfig> {
        let chain = vec![CertificateDer::from_pem_file(&certificate.cert).expect("PEM")];
        let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("PEM");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        config.ticketer = aws_lc_rs::Ticketer::new().expect("a ticketer");
        config.send_tls13_tickets = tickets;
        Arc::new(config)
    }

    /// Requests an echo on a new connection, with ciphertext in pieces of this size.
    fn echo(secure: &mut TlsStream, server: &Arc<ServerConfig>, piece: usize) -> Result<(), ExchangeError> {
        let mut server = ServerConnection::new(server.clone()).expect("a server");
        let (mut buffer, mut answer) = (vec![0; 64 * 1024], Vec::new());
        secure.send_request(REQUEST)?;
        loop {
            let sent = secure.outgoing().to_vec();
            secure.has_sent(sent.len());
            server.read_tls(&mut sent.as_slice()).expect("room");
            server.process_new_packets().map_err(|_| ExchangeError::Tls)?;
            let mut plain = [0; 100];
            if let Ok(count) = io::Read::read(&mut server.reader(), &mut plain) {
                io::Write::write_all(&mut server.writer(), &plain[..count]).expect("room");
            }
            let mut back = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut back).expect("room");
            }
            assert!(!back.is_empty() || !sent.is_empty(), "nothing moves");
            for piece in back.chunks(piece) {
                let kept = secure.restore(&mut buffer);
                buffer[kept..kept + piece.len()].copy_from_slice(piece);
                let fed = secure.take(&mut buffer[..kept + piece.len()], REQUEST, |plain| {
                    answer.extend_from_slice(plain);
                    Ok(if answer == REQUEST { Fed::Whole } else { Fed::More })
                })?;
                if fed == Fed::Whole {
                    return Ok(());
                }
            }
        }
    }

    fn secure(certificate: &Certificate, handshakes: Handshakes) -> TlsStream {
        let tls = TlsSettings::new(certificate.authority.clone(), handshakes).expect("tls");
        TlsStream::new(&tls).expect("a client")
    }

    #[test]
    fn a_response_is_read_for_every_fragmentation_of_records() {
        let (_folder, certificate) = certificate();
        let server = server(&certificate, 1);
        for piece in [1, 7, 1000, 100_000] {
            let mut secure = secure(&certificate, Handshakes::Full);
            for _ in 0..2 {
                assert_eq!(echo(&mut secure, &server, piece), Ok(()), "in pieces of {piece}");
                secure.renew().expect("another");
            }
        }
    }

    #[test]
    fn every_connection_but_the_first_must_resume() {
        let (_folder, certificate) = certificate();
        let mut secure = secure(&certificate, Handshakes::Resumed);
        let with_tickets = server(&certificate, 1);
        for _ in 0..3 {
            assert_eq!(echo(&mut secure, &with_tickets, 100_000), Ok(()));
            secure.renew().expect("another");
        }
        assert_eq!(echo(&mut secure, &server(&certificate, 0), 100_000), Err(ExchangeError::Handshake));
    }

    #[test]
    fn another_authority_is_not_trusted() {
        let ((_folder, believed), (_another, shown)) = (certificate(), certificate());
        let mut secure = secure(&believed, Handshakes::Full);
        assert_eq!(echo(&mut secure, &server(&shown, 1), 100_000), Err(ExchangeError::Tls));
    }
}
