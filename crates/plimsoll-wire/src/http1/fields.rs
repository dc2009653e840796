//! Which header lines are ours to read, drop or keep, and how kept lines are copied.

/// Header fields this proxy acts upon. Everything else is the destination's business and passes as it is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Expect,
    Upgrade,
    /// Ends at this hop and is never forwarded: `Keep-Alive`, `Proxy-Connection`, `TE`, `HTTP2-Settings`,
    /// `Proxy-Authenticate`, `Proxy-Authorization`.
    HopByHop,
    /// `X-Forwarded-*` and `Forwarded`: believed only from trusted peers.
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    ForwardedOther,
    /// `Client-Cert` and `Client-Cert-Chain` (RFC 9440): believed only from trusted peers.
    ClientCert,
    Via,
    Other,
}

/// Tells the field by its name: length and first letter decide almost every time, the comparison confirms.
pub fn classify_field(name: &str) -> Field {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match (name.len(), name.as_bytes()[0] | 0x20) {
        (2, b't') if is("te") => Field::HopByHop,
        (3, b'v') if is("via") => Field::Via,
        (4, b'h') if is("host") => Field::Host,
        (6, b'e') if is("expect") => Field::Expect,
        (7, b'u') if is("upgrade") => Field::Upgrade,
        (9, b'f') if is("forwarded") => Field::ForwardedOther,
        (10, b'c') if is("connection") => Field::Connection,
        (10, b'k') if is("keep-alive") => Field::HopByHop,
        (14, b'c') if is("content-length") => Field::ContentLength,
        (14, b'h') if is("http2-settings") => Field::HopByHop,
        (16, b'p') if is("proxy-connection") => Field::HopByHop,
        (17, b't') if is("transfer-encoding") => Field::TransferEncoding,
        (18, b'p') if is("proxy-authenticate") => Field::HopByHop,
        (19, b'p') if is("proxy-authorization") => Field::HopByHop,
        (11, b'c') if is("client-cert") => Field::ClientCert,
        (17, b'c') if is("client-cert-chain") => Field::ClientCert,
        (12.., b'x') if name.as_bytes()[..12].eq_ignore_ascii_case(b"x-forwarded-") => match () {
            () if is("x-forwarded-for") => Field::ForwardedFor,
            () if is("x-forwarded-proto") => Field::ForwardedProto,
            () if is("x-forwarded-host") => Field::ForwardedHost,
            () => Field::ForwardedOther,
        },
        _ => Field::Other,
    }
}

/// The list_members of a comma-separated list, trimmed, without empty ones (RFC 9110 section 5.6.1).
pub fn list_members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|m| !m.is_empty())
}

/// More nominated fields than this are refused: nobody needs them, and each costs a comparison a line.
const MAX_NOMINATED: usize = 16;

/// What the `Connection` lines of one message say.
#[derive(Debug, Default)]
pub struct ConnectionOptions<'b> {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    nominated: [&'b [u8]; MAX_NOMINATED],
    count: usize,
}

impl<'b> ConnectionOptions<'b> {
    /// Reads one `Connection` line; `false` when it nominates too many fields.
    pub fn read(&mut self, value: &'b [u8]) -> bool {
        for option in list_members(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                let Some(free) = self.nominated.get_mut(self.count) else { return false };
                *free = option;
                self.count += 1;
            }
        }
        true
    }

    /// Is this field nominated to end at this hop?
    pub fn nominates(&self, name: &str) -> bool {
        self.nominated[..self.count].iter().any(|n| n.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Is it nominated, and none of the fields in which this proxy speaks for the client?
    pub fn nominates_foreign(&self, name: &str) -> bool {
        use Field::{ForwardedFor, ForwardedHost, ForwardedOther, ForwardedProto};
        let ours =
            matches!(classify_field(name), ForwardedFor | ForwardedProto | ForwardedHost | ForwardedOther);
        !ours && self.nominates(name)
    }

    /// Does any line nominate anything?
    pub fn any_nominated(&self) -> bool {
        self.count > 0
    }
}

/// The number in a `Content-Length` line: digits and nothing else, no overflow.
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |n, &digit| n * 10 + u64::from(digit - b'0')))
}

/// Copies kept header lines to `out`, whole runs of adjacent lines at once. A line that does not end in
/// exactly CR LF right after its value is written anew, so what leaves is always `name: value CR LF`.
pub struct LineCopier<'b> {
    input: &'b [u8],
    run: std::ops::Range<usize>,
}

impl<'b> LineCopier<'b> {
    /// `input` is the buffer the header slices point into.
    pub fn new(input: &'b [u8]) -> Self {
        Self { input, run: 0..0 }
    }

    pub fn keep(&mut self, header: &httparse::Header<'b>, out: &mut Vec<u8>) {
        let start = self.offset(header.name.as_bytes());
        let value_end = match header.value {
            [] => start + header.name.len() + 1,
            value => self.offset(value) + value.len(),
        };
        if self.input[value_end..].starts_with(b"\r\n") && !header.value.is_empty() {
            if self.run.end != start {
                self.flush(out);
                self.run.start = start;
            }
            self.run.end = value_end + 2;
        } else {
            self.flush(out);
            write_field(out, header.name.as_bytes(), header.value);
        }
    }

    pub fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.input[self.run.clone()]);
        self.run = 0..0;
    }

    fn offset(&self, part: &[u8]) -> usize {
        part.as_ptr().addr() - self.input.as_ptr().addr()
    }
}

/// `name: value CR LF`.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A number in decimal digits, without a formatter.
pub fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_is_digits_only() {
        assert_eq!(content_length(b"0"), Some(0));
        assert_eq!(content_length(b"9999999999999999999"), Some(9_999_999_999_999_999_999));
        for bad in ["", "+1", "-1", "1 ", "0x1", "1,1", "99999999999999999999"] {
            assert_eq!(content_length(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn connection_options_nominate_fields_and_are_bounded() {
        let mut options = ConnectionOptions::default();
        assert!(options.read(b"close, X-Secret ,,Upgrade"));
        assert!(options.close && options.upgrade && options.nominates("x-secret"));
        let many = vec!["a"; 17].join(",");
        assert!(!ConnectionOptions::default().read(many.as_bytes()));
    }

    #[test]
    fn fields_are_told_apart_whatever_their_case() {
        assert_eq!(classify_field("HOST"), Field::Host);
        assert_eq!(classify_field("tRansfer-encoding"), Field::TransferEncoding);
        assert_eq!(classify_field("X-Forwarded-Port"), Field::ForwardedOther);
        assert_eq!(classify_field("X-Forwarded"), Field::Other);
        assert_eq!(classify_field("x"), Field::Other);
    }

    #[test]
    fn numbers() {
        let mut out = Vec::new();
        write_decimal(&mut out, 0);
        write_decimal(&mut out, u64::MAX);
        assert_eq!(out, b"018446744073709551615");
    }
}
