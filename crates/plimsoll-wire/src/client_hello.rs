//! The TLS ClientHello: detection of TLS, and the server name (SNI), without judging the rest of the message.
//!
//! Only what leads to the server name is parsed. Versions, cipher suites and all other extensions are for the server
//! that ends the handshake, so a client of TLS 1.0 is routed like any other.

use std::borrow::Cow;
use std::fmt;

/// Longest ClientHello that is read, as a handshake message. With post-quantum key shares it has about 2 KiB.
pub const MAX_CLIENT_HELLO: usize = 64 * 1024;
/// Maximum number of records that a ClientHello may be split into, so that each read costs a bounded time.
const MAX_RECORDS: usize = 64;
/// Maximum bytes of a record's fragment (RFC 8446 section 5.1).
const MAX_FRAGMENT: usize = 16 * 1024;

/// Content type of a handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// Major version of all records since SSL 3.0.
const MAJOR_VERSION: u8 = 3;
/// Message type of a ClientHello (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;
/// Bytes of a handshake message before its body: type and length.
const MESSAGE_HEADER: usize = 4;
/// Type of the extension `server_name`, and of a host name in it (RFC 6066 section 3).
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Longest host name (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;

/// A complete ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name the client asks for, in lower case (RFC 6066 section 3).
    pub server_name: Option<String>,
}

/// The bytes are not a TLS ClientHello, or it is longer than [`MAX_CLIENT_HELLO`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct NotClientHello;

impl fmt::Display for NotClientHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a TLS ClientHello of at most {MAX_CLIENT_HELLO} bytes, found other bytes")
    }
}

impl std::error::Error for NotClientHello {}

/// Reports whether a connection that begins with `first` begins with a TLS handshake.
#[inline]
pub fn is_tls_handshake(first: &[u8]) -> bool {
    first.first() == Some(&HANDSHAKE)
}

/// Parses the ClientHello at the front of `bytes`. `Ok(None)`: more bytes are needed.
///
/// A message with malformed content is a ClientHello without a server name: the server rejects it.
///
/// # Errors
/// [`NotClientHello`] if no further bytes can make it one.
pub fn parse(bytes: &[u8]) -> Result<Option<ClientHello>, NotClientHello> {
    let message = message(bytes)?;
    Ok(message.map(|message| ClientHello { server_name: server_name(&message).and_then(normalized) }))
}

/// Returns the body of the handshake message at the front of `bytes`, which may be split over records.
fn message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, NotClientHello> {
    let (mut rest, mut have) = (bytes, 0);
    let mut header = [0; MESSAGE_HEADER];
    for records in 1..=MAX_RECORDS {
        let Some(fragment) = fragment(&mut rest)? else { return Ok(None) };
        for (to, &byte) in header.iter_mut().skip(have).zip(fragment.bytes) {
            *to = byte;
        }
        have += fragment.bytes.len();
        if have > 0 && header[0] != CLIENT_HELLO {
            return Err(NotClientHello);
        }
        let [_, high, middle, low] = header.map(usize::from);
        let end = MESSAGE_HEADER + (high << 16 | middle << 8 | low);
        if have >= MESSAGE_HEADER && end > MAX_CLIENT_HELLO {
            return Err(NotClientHello);
        }
        if have >= end.max(MESSAGE_HEADER) {
            return Ok(Some(match records {
                1 => Cow::Borrowed(&fragment.bytes[MESSAGE_HEADER..end]),
                _ => Cow::Owned(joined(bytes, have)?[MESSAGE_HEADER..end].to_vec()),
            }));
        }
        if !fragment.is_complete {
            return Ok(None);
        }
    }
    Err(NotClientHello)
}

/// The part of a handshake message in one record.
struct Fragment<'b> {
    bytes: &'b [u8],
    is_complete: bool,
}

/// Takes the next record; `None` if its header is incomplete.
fn fragment<'b>(rest: &mut &'b [u8]) -> Result<Option<Fragment<'b>>, NotClientHello> {
    let starts_with = |at: usize, expected: u8| rest.get(at).is_none_or(|&byte| byte == expected);
    if !starts_with(0, HANDSHAKE) || !starts_with(1, MAJOR_VERSION) {
        return Err(NotClientHello);
    }
    let Some((&[_, _, _, high, low], after)) = rest.split_first_chunk() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len == 0 || len > MAX_FRAGMENT {
        return Err(NotClientHello);
    }
    let (bytes, after) = after.split_at_checked(len).unwrap_or((after, &[]));
    *rest = after;
    Ok(Some(Fragment { bytes, is_complete: bytes.len() == len }))
}

/// Returns the first `len` bytes of the handshake stream, copied together.
fn joined(bytes: &[u8], len: usize) -> Result<Vec<u8>, NotClientHello> {
    let (mut rest, mut joined) = (bytes, Vec::with_capacity(len));
    while joined.len() < len {
        let Some(fragment) = fragment(&mut rest)? else { break };
        joined.extend_from_slice(fragment.bytes);
    }
    Ok(joined)
}

/// Returns the first host name of the first `server_name` extension. `None` if there is none or it is malformed.
fn server_name(message: &[u8]) -> Option<&[u8]> {
    let mut rest = Rest(message);
    let (_version, _random) = (rest.take(2)?, rest.take(32)?);
    let (_session_id, _cipher_suites, _compression) = (rest.short()?, rest.long()?, rest.short()?);
    let mut extensions = Rest(rest.long()?);
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.long()?);
        if kind != SERVER_NAME {
            continue;
        }
        let mut names = Rest(Rest(data).long()?);
        while !names.0.is_empty() {
            let (kind, name) = (names.take(1)?, names.long()?);
            if kind == [HOST_NAME] {
                return Some(name);
            }
        }
        return None;
    }
    None
}

/// Returns a host name in lower case, without the dot of the root; `None` if it cannot be a host name.
fn normalized(name: &[u8]) -> Option<String> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && name.iter().all(u8::is_ascii_graphic);
    let name = str::from_utf8(name).ok().filter(|_| is_name)?;
    Some(name.to_ascii_lowercase())
}

/// Unparsed bytes of a message.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Takes a vector with a length of one byte.
    fn short(&mut self) -> Option<&'b [u8]> {
        let len = self.take(1)?[0];
        self.take(usize::from(len))
    }

    /// Takes a vector with a length of two bytes.
    fn long(&mut self) -> Option<&'b [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), long(data)].concat()
    }

    fn sni(name: &str) -> Vec<u8> {
        let entry = [&[HOST_NAME][..], &long(name.as_bytes())].concat();
        extension(SERVER_NAME, &long(&entry))
    }

    /// Builds the handshake message of a client of `version` with these extensions.
    fn hello(version: u16, extensions: &[u8]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend(long(&[0x00, 0x2f]));
        body.extend([1, 0]);
        body.extend(long(extensions));
        let len = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO][..], &len[1..], &body].concat()
    }

    /// Splits a message into records of `size` bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [vec![HANDSHAKE, 3, 1], long(part)].concat()).collect()
    }

    fn name(bytes: &[u8]) -> Option<String> {
        parse(bytes).expect("a ClientHello").expect("a whole one").server_name
    }

    #[test]
    fn other_protocols_are_rejected_at_their_first_bytes() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x16\x03"), Ok(None));
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(NotClientHello));
        assert_eq!(parse(b"\x16\x02"), Err(NotClientHello));
        assert_eq!(parse(b"\x16\x03\x01\0\x04\x02"), Err(NotClientHello), "a ServerHello");
        assert_eq!(parse(b"\x16\x03\x01\0\0"), Err(NotClientHello), "an empty record");
        assert!(is_tls_handshake(b"\x16") && !is_tls_handshake(b"G") && !is_tls_handshake(b""));
    }

    #[test]
    fn the_name_is_read_whatever_else_the_client_supports() {
        let duplicate =
            [extension(10, b"\0\x02\0\x17"), extension(10, b"\0\x02\0\x17"), sni("A.example")].concat();
        let large = [extension(21, &[0; 20_000]), sni("a.example.")].concat();
        let two = [sni("a.example"), sni("b.example")].concat();
        for (version, extensions) in [
            (0x0301, sni("a.example")),
            (0x0302, sni("a.Example")),
            (0x0303, duplicate),
            (0x0303, large),
            (0, two),
        ] {
            for size in [1 << 14, 1000] {
                let found = name(&records(&hello(version, &extensions), size));
                assert_eq!(found.as_deref(), Some("a.example"), "{version:x} in records of {size}");
            }
        }
    }

    #[test]
    fn a_hello_without_a_usable_name_has_none() {
        let no_extensions = records(&hello(0x0301, b"")[..], 1 << 14);
        assert_eq!(name(&no_extensions), None);
        for extensions in
            [sni(""), sni("a b"), sni("ä.example"), extension(0, b""), extension(0, b"\0\x09\0"), vec![1]]
        {
            assert_eq!(name(&records(&hello(0x0303, &extensions), 1 << 14)), None, "{extensions:?}");
        }
        assert_eq!(name(&records(&[CLIENT_HELLO, 0, 0, 0], 4)), None);
    }

    #[test]
    fn every_prefix_is_incomplete_and_no_byte_causes_a_panic() {
        for size in [1 << 14, 7] {
            let whole = records(&hello(0x0303, &sni("a.example")), size);
            for end in 0..whole.len() {
                assert_eq!(parse(&whole[..end]), Ok(None), "{end}");
                for byte in 0..=255 {
                    let mut changed = whole.clone();
                    changed[end] = byte;
                    let _any_result = parse(&changed);
                }
            }
        }
    }

    #[test]
    fn size_and_number_of_records_are_bounded() {
        assert_eq!(parse(&[22, 3, 1, 0, 4, 1, 1, 0, 0]), Err(NotClientHello), "64 KiB and more");
        let message = hello(0x0303, &[extension(21, &[0; 200]), sni("a.example")].concat());
        assert_eq!(name(&records(&message, message.len().div_ceil(64))).as_deref(), Some("a.example"));
        assert_eq!(parse(&records(&message, 1)), Err(NotClientHello));
    }
}
