//! Message bodies: framing, decoding and chunked encoding (RFC 9112 sections 6 and 7).

use std::fmt;
use std::ops::Range;

use super::HeaderEdits;
use super::fields::is_allowed_in_trailers;

/// How the end of a body is determined (RFC 9112 section 6.3).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The message has no body.
    Empty,
    /// The body has this number of bytes.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// The end of the connection; responses only.
    UntilClose,
}

/// The chunked coding of a body is malformed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MalformedBody(&'static str);

impl fmt::Display for MalformedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a chunked body, found a {}", self.0)
    }
}

impl std::error::Error for MalformedBody {}

/// Decoder of one message body, which finds its end in the bytes of a connection.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    /// Valid trailer lines, each with its CR LF.
    trailers: Vec<u8>,
    /// Bytes of chunk headers and trailers since the last data: bounded, so that framing cannot be a flood.
    overhead: usize,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    Size { digits: u8, value: u64 },
    SizeSpace { value: u64 },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    TrailerLine { start: usize },
    TrailerLf { start: usize },
    EndLf,
}

/// Result of [`BodyReader::decode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Range of the buffer that holds the decoded bytes, in one piece.
    pub data: Range<usize>,
    /// Number of bytes consumed; the bytes behind them belong to the next message once the body is complete.
    pub consumed: usize,
}

impl BodyReader {
    /// Longest chunk header with its extensions, and longest trailer section, in bytes.
    const MAX_OVERHEAD: usize = 8 * 1024;

    /// Builds a decoder for a body with this framing.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Size { digits: 0, value: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, trailers: Vec::new(), overhead: 0 }
    }

    /// Builds a decoder of a body that was received completely by other means, with these trailer lines.
    pub fn ended(trailers: Vec<u8>) -> Self {
        Self { state: State::Done, trailers, overhead: 0 }
    }

    /// Reports whether the body is in the chunked coding.
    pub fn is_chunked(&self) -> bool {
        !matches!(self.state, State::Done | State::Length(_) | State::UntilClose)
    }

    /// The whole body was read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reports whether only the end of the connection ends this body.
    pub fn ends_with_connection(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Returns the trailer lines to forward, complete once [`is_done`](Self::is_done).
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Decodes the part of the body at the front of `buffer`; the data of several chunks is moved together in place.
    ///
    /// # Errors
    /// [`MalformedBody`]: where the next message begins is unknown, so the connection must be closed.
    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<Decoded, MalformedBody> {
        match self.state {
            State::Done => Ok(Decoded { data: 0..0, consumed: 0 }),
            State::UntilClose => Ok(Decoded { data: 0..buffer.len(), consumed: buffer.len() }),
            State::Length(left) => {
                let taken = left.min(buffer.len() as u64);
                self.state = if taken == left { State::Done } else { State::Length(left - taken) };
                Ok(Decoded { data: 0..taken as usize, consumed: taken as usize })
            }
            _ => self.decode_chunks(buffer),
        }
    }

    fn decode_chunks(&mut self, buffer: &mut [u8]) -> Result<Decoded, MalformedBody> {
        let mut at = 0;
        let mut data = 0..0;
        while at < buffer.len() && self.state != State::Done {
            if let State::Data(left) = self.state {
                let taken = left.min((buffer.len() - at) as u64) as usize;
                if data.is_empty() {
                    data = at..at + taken;
                } else {
                    buffer.copy_within(at..at + taken, data.end);
                    data.end += taken;
                }
                at += taken;
                let left = left - taken as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                self.overhead = 0;
            } else {
                self.step(buffer[at])?;
                at += 1;
            }
        }
        Ok(Decoded { data, consumed: at })
    }

    /// Advances by one byte of framing.
    fn step(&mut self, byte: u8) -> Result<(), MalformedBody> {
        self.overhead += 1;
        if self.overhead > Self::MAX_OVERHEAD {
            return Err(MalformedBody("chunk header or trailer section that is too long"));
        }
        self.state = match (self.state, byte) {
            (State::Size { digits, value }, b) if b.is_ascii_hexdigit() => {
                if digits == 15 {
                    return Err(MalformedBody("chunk size of more than 15 digits"));
                }
                let digit = char::from(b).to_digit(16).unwrap_or(0);
                State::Size { digits: digits + 1, value: value << 4 | u64::from(digit) }
            }
            (State::Size { digits: 1.., value } | State::SizeSpace { value }, b'\r') => {
                State::SizeLf { value }
            }
            (State::Size { digits: 1.., value } | State::SizeSpace { value }, b' ' | b'\t') => {
                State::SizeSpace { value }
            }
            // An extension begins with a semicolon (RFC 9112 section 7.1.1).
            (State::Size { digits: 1.., value } | State::SizeSpace { value }, b';') => {
                State::Extension { value }
            }
            (State::Extension { value }, b'\r') => State::SizeLf { value },
            (State::Extension { value }, b'\t' | b' '..=b'~' | 0x80..) => State::Extension { value },
            (State::SizeLf { value: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { value }, b'\n') => State::Data(value),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0, value: 0 },
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => State::Done,
            (State::TrailerStart, b) if b != b'\n' => {
                let start = self.trailers.len();
                self.trailers.push(b);
                State::TrailerLine { start }
            }
            (State::TrailerLine { start }, b'\r') => State::TrailerLf { start },
            (State::TrailerLine { start }, b) if b != b'\n' => {
                self.trailers.push(b);
                State::TrailerLine { start }
            }
            (State::TrailerLf { start }, b'\n') => {
                self.end_trailer(start)?;
                State::TrailerStart
            }
            _ => return Err(MalformedBody("malformed chunk")),
        };
        Ok(())
    }

    /// Keeps a trailer line if it is valid and allowed; fields for framing, routing and hop-by-hop use are not
    /// (RFC 9110 section 6.5.1).
    fn end_trailer(&mut self, start: usize) -> Result<(), MalformedBody> {
        self.trailers.extend_from_slice(b"\r\n\r\n");
        let mut slots = [httparse::EMPTY_HEADER; 1];
        let parsed = httparse::parse_headers(&self.trailers[start..], &mut slots);
        let Ok(httparse::Status::Complete((_, [header]))) = parsed else {
            return Err(MalformedBody("malformed trailer"));
        };
        let keep = is_allowed_in_trailers(header.name);
        let len = self.trailers.len();
        self.trailers.truncate(if keep { len - 2 } else { start });
        Ok(())
    }
}

/// Appends the header of a chunk with `len` data bytes.
pub fn write_chunk_head(out: &mut Vec<u8>, len: usize) {
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[len >> (place * 4) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk and the trailer section. Fields that `edits` drop from headers are dropped from trailers
/// too.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: &[u8], edits: &HeaderEdits) {
    out.extend_from_slice(b"0\r\n");
    edits.keep_trailers(trailers).for_each(|line| out.extend_from_slice(line));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `wire` cut into pieces of `step` bytes. Returns the body, the trailers and the bytes left over.
    fn read(wire: &str, step: usize) -> Result<(String, String, String), MalformedBody> {
        let mut reader = BodyReader::new(Framing::Chunked);
        let (mut body, mut rest) = (Vec::new(), Vec::new());
        for piece in wire.as_bytes().chunks(step) {
            let mut piece = piece.to_vec();
            let decoded = reader.decode(&mut piece)?;
            body.extend_from_slice(&piece[decoded.data]);
            rest.extend_from_slice(&piece[decoded.consumed..]);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(reader.is_done() || rest.is_empty());
        Ok((text(&body), text(reader.trailers()), text(&rest)))
    }

    #[test]
    fn chunks_decode_wherever_they_are_cut() {
        let wire = "5\r\nhello\r\n6 ; x=\"y\"\r\n world\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\nGET /";
        for step in 1..=wire.len() {
            let (body, trailers, rest) = read(wire, step).expect("valid");
            assert_eq!((body.as_str(), trailers.as_str()), ("hello world", "X-Sum: 1\r\n"), "step {step}");
            assert_eq!(rest, "GET /", "step {step}");
        }
    }

    #[test]
    fn malformed_chunks_are_rejected() {
        for bad in [
            "\r\n",
            "g\r\n",
            "5\nhello",
            "5\r\nhello!\r\n",
            "5\r\nhello\n",
            "-1\r\n",
            "0x5\r\n",
            "5\rhello",
            "1000000000000000\r\n",
            "0\r\nbad trailer\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "0\r\n\n",
            "5;a\nb\r\n",
            "0\r\nA: b\rc\r\n\r\n",
            " 5\r\nhello\r\n",
            "5 x\r\nhello\r\n",
            "5\t x=y\r\nhello\r\n",
            "5 5\r\nhello\r\n",
        ] {
            assert!(read(bad, 1).is_err(), "{bad:?} must be rejected");
            assert!(read(bad, 64).is_err(), "{bad:?} must be rejected");
        }
        assert!(read(&format!("5;{}", "x".repeat(10_000)), 1000).is_err(), "endless extension");
        assert!(read(&format!("0\r\n{}", "A: b\r\n".repeat(3000)), 1000).is_err(), "endless trailers");
    }

    #[test]
    fn chunk_headers_are_plain_hexadecimal() {
        for len in [1, 9, 10, 15, 16, 255, 256, 65_536, 262_144] {
            let mut out = Vec::new();
            write_chunk_head(&mut out, len);
            assert_eq!(out, format!("{len:x}\r\n").into_bytes());
        }
    }

    #[test]
    fn a_length_consumes_its_bytes_and_no_more() {
        let mut reader = BodyReader::new(Framing::Length(5));
        let decoded = reader.decode(&mut b"hello world".to_vec()).expect("plain");
        assert_eq!((decoded.data, decoded.consumed, reader.is_done()), (0..5, 5, true));
    }
}
