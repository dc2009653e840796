//! What rustls makes of records: ciphertext in, plaintext out, and the other way.

use std::io;

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    AppDataRecord, ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedStatus,
};

/// Plaintext of one record at most (RFC 8446 section 5.1).
pub(crate) const RECORD: usize = 16 * 1024;
/// What a record's head, padding and tag add at most (RFC 8446 section 5.2).
pub(crate) const RECORD_OVERHEAD: usize = 256 + 5;
/// Most messages of a handshake are no longer; one that is tells its size.
const MESSAGE: usize = 2048;

/// Ciphertext on its way out. What was there before is overwritten and not zeroed first.
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
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// At least `size` bytes to write into.
    fn room(&mut self, size: usize) -> &mut [u8] {
        if self.bytes.len() < self.len + size {
            self.bytes.resize(self.len + size, 0);
        }
        &mut self.bytes[self.len..]
    }

    /// Appends what `write` puts into the room it is given, which is larger when that was too small. `false`
    /// when it failed for good.
    fn append(
        &mut self,
        likely: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
    ) -> bool {
        let mut size = likely;
        loop {
            match write(self.room(size)) {
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

/// Where plaintext goes: to the reader's buffer, and what has no room there aside.
pub(crate) struct Room<'b> {
    pub(crate) buffer: &'b mut [u8],
    pub(crate) filled: usize,
    pub(crate) spill: &'b mut Vec<u8>,
}

impl Room<'_> {
    fn put(&mut self, plain: &[u8]) {
        let n = plain.len().min(self.buffer.len() - self.filled);
        self.buffer[self.filled..self.filled + n].copy_from_slice(&plain[..n]);
        self.filled += n;
        self.spill.extend_from_slice(&plain[n..]);
    }
}

/// What rustls has twice, once for each side, and not as a trait.
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

pub(crate) struct TakenIn {
    pub(crate) used: usize,
    pub(crate) ended: bool,
}

/// Feeds ciphertext to one side until it wants more.
///
/// rustls must see whatever it did not discard again, at the front, in every call: it may hold places in it.
pub(crate) fn take_in<S: Records>(
    side: &mut S,
    incoming: &mut [u8],
    room: &mut Room<'_>,
    unsent: &mut Outgoing,
) -> Result<TakenIn, rustls::Error> {
    let mut taken = TakenIn { used: 0, ended: false };
    loop {
        let UnbufferedStatus { mut discard, state, .. } = side.process(&mut incoming[taken.used..]);
        let mut wants_more = false;
        let mut wrong = None;
        match state {
            Ok(ConnectionState::ReadTraffic(mut records)) => {
                while let Some(record) = records.next_record() {
                    let AppDataRecord { discard: more, payload } = record?;
                    discard += more;
                    room.put(payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(message)) => encode(message, unsent),
            // It is in `unsent`, which leaves before anything else.
            Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
            Ok(ConnectionState::PeerClosed) => taken.ended = true,
            Ok(ConnectionState::Closed) => (taken.ended, wants_more) = (true, true),
            Ok(_) => wants_more = true,
            Err(error) => wrong = Some(error),
        }
        taken.used += discard;
        if let Some(error) = wrong {
            // Once more for the alert that tells the peer. After that this side must not be asked again.
            if side.wants_write()
                && let Ok(ConnectionState::EncodeTlsData(alert)) =
                    side.process(&mut incoming[taken.used..]).state
            {
                encode(alert, unsent);
            }
            return Err(error);
        }
        if wants_more {
            return Ok(taken);
        }
    }
}

/// Puts plaintext into records, or with `None` the notice that there is no more. `partial` is what came in
/// and was not used up; answers how much of it was now.
pub(crate) fn put_out<S: Records>(
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

/// A message of TLS itself goes out.
fn encode<D>(mut message: EncodeTlsData<'_, D>, to: &mut Outgoing) {
    to.append(MESSAGE, |to| match message.encode(to) {
        Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
        other => other.map_err(|_| None),
    });
}
