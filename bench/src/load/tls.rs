//! How a connection of the load client speaks TLS: as cheaply as it can, since it shares its CPU with the
//! backends. rustls decrypts in the client's own buffer and keeps none of its own (`rustls::unbuffered`).

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

use super::exchange::{Fault, Fed};
use crate::certificate;

/// How connections begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshakes {
    /// Each as if it were the first.
    Full,
    /// With a ticket of the connection before it. The first one of each place has none.
    Resumed,
}

/// What all TLS connections of a client have in common.
#[derive(Clone)]
pub(crate) struct Terms {
    config: Arc<ClientConfig>,
    handshakes: Handshakes,
}

impl Terms {
    /// TLS 1.3 with one cipher suite and one group, so that all servers do the same work. The server must
    /// have a certificate of `authority`.
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

/// TLS in one place of a client: of the connection there, and of all that follow it there.
pub(super) struct Secure {
    config: Arc<ClientConfig>,
    handshakes: Handshakes,
    /// A connection here was answered, and so left a ticket.
    has_ticket: bool,
    session: Session,
}

/// TLS of one connection.
struct Session {
    side: UnbufferedClientConnection,
    /// A piece of a record that has not ended yet.
    partial: Vec<u8>,
    /// Encrypted, and from this place on not sent yet.
    outgoing: Vec<u8>,
    sent: usize,
    /// The request at hand is in `outgoing`, or was.
    asked: bool,
    /// An answer came, and the handshake was of the right kind.
    known: bool,
}

/// What encoding a message of TLS itself takes at first; a longer one tells its size.
const MESSAGE: usize = 1024;
/// What a record adds to a request: head, type and tag.
const OVERHEAD: usize = 22;

impl Secure {
    pub(super) fn new(terms: &Terms) -> io::Result<Self> {
        let mut config = terms.config.clone();
        if terms.handshakes == Handshakes::Resumed {
            // A memory for each place: of a common one, rustls keeps eight tickets for a server.
            Arc::make_mut(&mut config).resumption = Resumption::in_memory_sessions(1);
        }
        let session = Session::new(&config)?;
        Ok(Self { config, handshakes: terms.handshakes, has_ticket: false, session })
    }

    /// For another connection, after the one so far ended as it should.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.session = Session::new(&self.config)?;
        Ok(())
    }

    /// Takes up a request: encrypted now, or when the handshake is done.
    pub(super) fn ask(&mut self, request: &[u8]) -> Result<(), Fault> {
        self.session.asked = false;
        let mut partial = std::mem::take(&mut self.session.partial);
        let used = self.session.process(&mut partial, request, |_| Err(Fault::Length))?;
        self.session.partial = partial.split_off(used);
        Ok(())
    }

    /// Puts what is kept of a record to the front of the buffer that is received into, and says how long it is.
    pub(super) fn restore(&self, buffer: &mut [u8]) -> usize {
        let kept = &self.session.partial;
        buffer[..kept.len()].copy_from_slice(kept);
        kept.len()
    }

    /// Takes in ciphertext, the restored bytes included, and feeds the plaintext.
    pub(super) fn take(
        &mut self,
        incoming: &mut [u8],
        request: &[u8],
        mut feed: impl FnMut(&[u8]) -> Result<Fed, Fault>,
    ) -> Result<Fed, Fault> {
        let mut fed = Fed::More;
        let used = self.session.process(incoming, request, |plain| {
            // Nothing was asked for beyond a whole answer.
            fed = if fed == Fed::Whole { Err(Fault::Length) } else { feed(plain) }?;
            Ok(())
        })?;
        self.session.partial.clear();
        self.session.partial.extend_from_slice(&incoming[used..]);
        if fed == Fed::Whole && !self.session.known {
            self.know()?;
        }
        Ok(fed)
    }

    /// Whether the handshake was of the kind that was to be measured.
    fn know(&mut self) -> Result<(), Fault> {
        let wanted = match self.handshakes {
            Handshakes::Resumed if self.has_ticket => HandshakeKind::Resumed,
            Handshakes::Resumed | Handshakes::Full => HandshakeKind::Full,
        };
        self.has_ticket = true;
        self.session.known = self.session.side.handshake_kind() == Some(wanted);
        if self.session.known { Ok(()) } else { Err(Fault::Handshake) }
    }

    /// What is to be sent.
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
            // Until a request is at hand, the handshake does not begin.
            asked: true,
            known: false,
        })
    }

    /// Feeds rustls until it wants more, or the request is on its way; answers how much it used up.
    fn process(
        &mut self,
        incoming: &mut [u8],
        request: &[u8],
        mut plain: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<usize, Fault> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.side.process_tls_records(&mut incoming[used..]);
            let mut wants_more = false;
            match state.map_err(|_| Fault::Tls)? {
                ConnectionState::ReadTraffic(mut records) => {
                    while let Some(record) = records.next_record() {
                        let AppDataRecord { discard: more, payload } = record.map_err(|_| Fault::Tls)?;
                        discard += more;
                        plain(payload)?;
                    }
                }
                ConnectionState::EncodeTlsData(message) => encode(message, &mut self.outgoing)?,
                // It is in `outgoing`, which leaves before anything is received.
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

fn encode(mut message: EncodeTlsData<'_, ClientConnectionData>, to: &mut Vec<u8>) -> Result<(), Fault> {
    append(to, MESSAGE, |to| match message.encode(to) {
        Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
        other => other.map_err(|_| None),
    })
}

fn encrypt(
    mut traffic: WriteTraffic<'_, ClientConnectionData>,
    request: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), Fault> {
    append(to, request.len() + OVERHEAD, |to| match traffic.encrypt(request, to) {
        Err(EncryptError::InsufficientSize(size)) => Err(Some(size)),
        other => other.map_err(|_| None),
    })
}

/// Appends what `write` puts into a slice, which it is given again when it was too small.
fn append(
    to: &mut Vec<u8>,
    likely: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), Fault> {
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
            Err(_) => return Err(Fault::Tls),
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
    use crate::peers;

    const REQUEST: &[u8] = b"ping";

    fn certificate() -> (tempfile::TempDir, Certificate) {
        let folder = peers::folder().expect("a folder");
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

    /// Asks for an echo on a connection of its own; ciphertext comes in pieces of this size.
    fn echo(secure: &mut Secure, server: &Arc<ServerConfig>, piece: usize) -> Result<(), Fault> {
        let mut server = ServerConnection::new(server.clone()).expect("a server");
        let (mut buffer, mut answer) = (vec![0; 64 * 1024], Vec::new());
        secure.ask(REQUEST)?;
        loop {
            let sent = secure.outgoing().to_vec();
            secure.has_sent(sent.len());
            server.read_tls(&mut sent.as_slice()).expect("room");
            server.process_new_packets().map_err(|_| Fault::Tls)?;
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

    fn secure(certificate: &Certificate, handshakes: Handshakes) -> Secure {
        let terms = Terms::new(certificate.authority.clone(), handshakes).expect("terms");
        Secure::new(&terms).expect("a client")
    }

    #[test]
    fn a_request_is_answered_however_records_are_cut() {
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
    fn every_connection_but_the_first_must_resume_if_asked_to() {
        let (_folder, certificate) = certificate();
        let mut secure = secure(&certificate, Handshakes::Resumed);
        let with_tickets = server(&certificate, 1);
        for _ in 0..3 {
            assert_eq!(echo(&mut secure, &with_tickets, 100_000), Ok(()));
            secure.renew().expect("another");
        }
        assert_eq!(echo(&mut secure, &server(&certificate, 0), 100_000), Err(Fault::Handshake));
    }

    #[test]
    fn another_authority_is_not_believed() {
        let ((_folder, believed), (_another, shown)) = (certificate(), certificate());
        let mut secure = secure(&believed, Handshakes::Full);
        assert_eq!(echo(&mut secure, &server(&shown, 1), 100_000), Err(Fault::Tls));
    }
}
