//! TLS records through rustls: decryption and encryption in buffers of the caller.

use std::io;

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    AppDataRecord, ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedStatus,
};

/// Maximum plaintext of a record (RFC 8446 section 5.1).
pub(crate) const RECORD: usize = 16 * 1024;
/// Maximum overhead of a record: header, padding and tag (RFC 8446 section 5.2).
pub(crate) const RECORD_OVERHEAD: usize = 256 + 5;
/// Buffer size for a handshake message; a longer one reports its size.
const MESSAGE: usize = 2048;

/// Buffer of outgoing ciphertext, reused without being zeroed.
#[derive(Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    len: usize,
}

impl Outgoing {
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Returns at least `size` bytes to write into.
    fn space(&mut self, size: usize) -> &mut [u8] {
        if self.bytes.len() < self.len + size {
            self.bytes.resize(self.len + size, 0);
        }
        &mut self.bytes[self.len..]
    }

    /// Appends the output of `write`, which is retried with a larger buffer if needed. Returns `false` if it failed.
    fn append(
        &mut self,
        likely: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
    ) -> bool {
        let mut size = likely;
        loop {
            match write(self.space(size)) {
                Ok(written) => {
                    self.len += written;
                    return true;
                }
                Err(Some(more)) if more.required_size > size => size = more.required_size,
                Err(_) => return false,
            }
        }
    }
}

/// Destination of plaintext: the reader's buffer, and a spill buffer for the rest.
pub(crate) struct PlaintextBuffer<'b> {
    pub(crate) buffer: &'b mut [u8],
    pub(crate) filled: usize,
    pub(crate) spill: &'b mut Vec<u8>,
}

impl PlaintextBuffer<'_> {
    fn put(&mut self, plain: &[u8]) {
        let n = plain.len().min(self.buffer.len() - self.filled);
        self.buffer[self.filled..self.filled + n].copy_from_slice(&plain[..n]);
        self.filled += n;
        self.spill.extend_from_slice(&plain[n..]);
    }
}

/// Operations that both unbuffered connection types of rustls have, without a common trait.
pub(crate) trait Records {
    type Data;

    fn wants_write(&self) -> bool;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

pub(crate) struct Decrypted {
    pub(crate) used: usize,
    pub(crate) ended: bool,
}

/// Decrypts ciphertext until more is needed.
///
/// rustls must get all bytes that it did not discard again, at the front, in each call: it may keep offsets into them.
pub(crate) fn decrypt<S: Records>(
    side: &mut S,
    incoming: &mut [u8],
    plaintext: &mut PlaintextBuffer<'_>,
    unsent: &mut Outgoing,
) -> Result<Decrypted, rustls::Error> {
    let mut decrypted = Decrypted { used: 0, ended: false };
    loop {
        let UnbufferedStatus { mut discard, state, .. } = side.process(&mut incoming[decrypted.used..]);
        let mut needs_more = false;
        let mut failure = None;
        match state {
            Ok(ConnectionState::ReadTraffic(mut records)) => {
                while let Some(record) = records.next_record() {
                    let AppDataRecord { discard: more, payload } = record?;
                    discard += more;
                    plaintext.put(payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(message)) => encode(message, unsent),
            // The message is in `unsent`, which is sent before anything else.
            Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
            Ok(ConnectionState::PeerClosed) => decrypted.ended = true,
            Ok(ConnectionState::Closed) => (decrypted.ended, needs_more) = (true, true),
            Ok(_) => needs_more = true,
            Err(error) => failure = Some(error),
        }
        decrypted.used += discard;
        if let Some(error) = failure {
            // One more call for the alert to the peer. After that this side must not be used again.
            if side.wants_write()
                && let Ok(ConnectionState::EncodeTlsData(alert)) =
                    side.process(&mut incoming[decrypted.used..]).state
            {
                encode(alert, unsent);
            }
            return Err(error);
        }
        if needs_more {
            return Ok(decrypted);
        }
    }
}

/// Encrypts plaintext into records, or a close_notify alert for `None`. `partial` holds received bytes that were not
/// used; returns how many of them were used now.
pub(crate) fn encrypt<S: Records>(
    side: &mut S,
    plain: Option<&[u8]>,
    partial: &mut [u8],
    outgoing: &mut Outgoing,
    ended: &mut bool,
) -> io::Result<usize> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state, .. } = side.process(&mut partial[used..]);
        match state.map_err(io::Error::other)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let len = plain.map_or(0, <[u8]>::len);
                let likely = len + (len / RECORD + 1) * RECORD_OVERHEAD;
                let done = outgoing.append(likely, |to| {
                    let written = match plain {
                        Some(plain) => traffic.encrypt(plain, to),
                        None => traffic.queue_close_notify(to),
                    };
                    written.map_err(|error| match error {
                        EncryptError::InsufficientSize(size) => Some(size),
                        _ => None,
                    })
                });
                return if done { Ok(used + discard) } else { Err(io::ErrorKind::BrokenPipe.into()) };
            }
            ConnectionState::EncodeTlsData(message) => encode(message, outgoing),
            ConnectionState::TransmitTlsData(message) => message.done(),
            ConnectionState::PeerClosed => *ended = true,
            _ => return Err(io::ErrorKind::NotConnected.into()),
        }
        used += discard;
    }
}

/// Appends a TLS message.
fn encode<D>(mut message: EncodeTlsData<'_, D>, to: &mut Outgoing) {
    to.append(MESSAGE, |to| match message.encode(to) {
        Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
        other => other.map_err(|_| None),
    });
}
