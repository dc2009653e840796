//! Header fields: classification, parsing of values, copying of lines.

/// Header fields that an intermediary acts upon. All others are forwarded unchanged.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// `Host`, the authority of a request.
    Host,
    /// `Connection`, options of this hop.
    Connection,
    /// `Content-Length`, the length of a body.
    ContentLength,
    /// `Transfer-Encoding`, the coding of a body.
    TransferEncoding,
    /// `Expect`, such as `100-continue`.
    Expect,
    /// `Upgrade`, a switch of protocols.
    Upgrade,
    /// Fields of this hop that are never forwarded: `Keep-Alive`, `Proxy-Connection`, `TE`, `HTTP2-Settings`,
    /// `Proxy-Authenticate`, `Proxy-Authorization`.
    HopByHop,
    /// `X-Forwarded-For`, accepted from trusted peers only.
    ForwardedFor,
    /// `X-Forwarded-Proto`, accepted from trusted peers only.
    ForwardedProto,
    /// `X-Forwarded-Host`, accepted from trusted peers only.
    ForwardedHost,
    /// `Forwarded` and other `X-Forwarded-*` fields, accepted from trusted peers only.
    ForwardedOther,
    /// `Client-Cert` and `Client-Cert-Chain` (RFC 9440), accepted from trusted peers only.
    ClientCert,
    /// `Via`, the intermediaries so far.
    Via,
    /// Fields that are forwarded unchanged.
    Other,
}

/// Classifies a field by its name. Length and first letter decide nearly always; one comparison confirms.
#[inline]
pub fn classify_field(name: &str) -> Field {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let Some(first) = name.as_bytes().first() else { return Field::Other };
    match (name.len(), first | 0x20) {
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

/// Splits a comma-separated list into its trimmed, non-empty members (RFC 9110 section 5.6.1).
#[inline]
pub fn list_members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|m| !m.is_empty())
}

/// Most fields that `Connection` may nominate: each costs a comparison per header line.
const MAX_NOMINATED: usize = 16;

/// Options in the `Connection` lines of one message (RFC 9110 section 7.6.1).
#[derive(Debug, Default)]
pub struct ConnectionOptions<'b> {
    /// True if `close` is among them.
    pub close: bool,
    /// True if `keep-alive` is among them.
    pub keep_alive: bool,
    /// True if `upgrade` is among them.
    pub upgrade: bool,
    nominated: [&'b [u8]; MAX_NOMINATED],
    count: usize,
}

impl<'b> ConnectionOptions<'b> {
    /// Adds the options of one `Connection` line; returns `false` if they nominate too many fields.
    pub fn add(&mut self, value: &'b [u8]) -> bool {
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

    /// Reports whether the field `name` is nominated to end at this hop.
    pub fn nominates(&self, name: &str) -> bool {
        self.nominated[..self.count].iter().any(|n| n.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Reports whether the field `name` is nominated and may be: a client cannot remove the forwarding fields.
    pub fn nominates_removable(&self, name: &str) -> bool {
        use Field::{ForwardedFor, ForwardedHost, ForwardedOther, ForwardedProto};
        let is_forwarding =
            matches!(classify_field(name), ForwardedFor | ForwardedProto | ForwardedHost | ForwardedOther);
        !is_forwarding && self.nominates(name)
    }

    /// Reports whether any field is nominated.
    pub fn any_nominated(&self) -> bool {
        self.count > 0
    }
}

/// Parses a `Content-Length`: only decimal digits, without overflow.
#[inline]
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |n, &digit| n * 10 + u64::from(digit - b'0')))
}

/// Copies header lines, runs of adjacent lines at once. A line that does not end in CR LF right behind its value is
/// written anew, so the output always has the form `name: value CR LF`.
#[derive(Debug)]
pub struct LineCopier<'b> {
    input: &'b [u8],
    run: std::ops::Range<usize>,
}

impl<'b> LineCopier<'b> {
    /// Builds a copier of lines from `input`, the buffer that the headers point into.
    #[inline]
    pub fn new(input: &'b [u8]) -> Self {
        Self { input, run: 0..0 }
    }

    /// Copies one line to `out`, at once or with the lines that follow it.
    #[inline]
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

    /// Copies the lines that are still pending to `out`.
    #[inline]
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.input[self.run.clone()]);
        self.run = 0..0;
    }

    fn offset(&self, part: &[u8]) -> usize {
        part.as_ptr().addr() - self.input.as_ptr().addr()
    }
}

/// Appends `name: value CR LF` to `out`.
#[inline]
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal digits to `out`, without the cost of a formatter.
#[inline]
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
    fn content_length_has_digits_only() {
        assert_eq!(content_length(b"0"), Some(0));
        assert_eq!(content_length(b"9999999999999999999"), Some(9_999_999_999_999_999_999));
        for bad in ["", "+1", "-1", "1 ", "0x1", "1,1", "99999999999999999999"] {
            assert_eq!(content_length(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn connection_options_nominate_a_bounded_number_of_fields() {
        let mut options = ConnectionOptions::default();
        assert!(options.add(b"close, X-Secret ,,Upgrade"));
        assert!(options.close && options.upgrade && options.nominates("x-secret"));
        let many = vec!["a"; 17].join(",");
        assert!(!ConnectionOptions::default().add(many.as_bytes()));
    }

    #[test]
    fn fields_are_classified_whatever_their_case() {
        assert_eq!(classify_field("HOST"), Field::Host);
        assert_eq!(classify_field("tRansfer-encoding"), Field::TransferEncoding);
        assert_eq!(classify_field("X-Forwarded-Port"), Field::ForwardedOther);
        assert_eq!(classify_field("X-Forwarded"), Field::Other);
        assert_eq!(classify_field("x"), Field::Other);
    }

    #[test]
    fn decimals_have_no_leading_zeros() {
        let mut out = Vec::new();
        write_decimal(&mut out, 0);
        write_decimal(&mut out, u64::MAX);
        assert_eq!(out, b"018446744073709551615");
    }
}
