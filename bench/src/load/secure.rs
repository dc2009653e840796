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
    config: ClientConfig,
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
        Ok(Self { config, handshakes })
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
            config.resumption = Resumption::in_memory_sessions(1);
        }
        let config = Arc::new(config);
        let session = Session::new(&config)?;
        Ok(Self { config, handshakes: terms.handshakes, has_ticket: false, session })
    }

    /// For another connection, after the one so far ended as it should.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.session = Session::new(&self.config)?;
        Ok(())
    }

    /// Takes up a request: encrypted now, or when the handshake is done. A full request is asked for each time.
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
