//! Header fields: classification, parsing of values, copying of lines.

use std::collections::HashSet;

use crate::field_names::{folds_to, folds_to_bytes};

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
    /// `Authorization`, the credentials of a client.
    Authorization,
    /// `Content-Type` and other fields that the proxy reads and forwards.
    Read,
    /// Another spelling of a field that the proxy acts upon, such as `X_Forwarded_For`. It is never forwarded: CGI,
    /// WSGI, PHP and Rack make one variable of both spellings.
    Alias,
    /// Fields that are forwarded unchanged.
    Other,
}

/// Classifies a field by its name. Length and first letter decide nearly always; one comparison confirms.
#[inline]
pub fn classify_field(name: &str) -> Field {
    let is = |known: &str, field| match is_same_token(name.as_bytes(), known.as_bytes()) {
        true => field,
        false => other(name, known),
    };
    let Some(first) = name.as_bytes().first() else { return Field::Other };
    match (name.len(), first | 0x20) {
        (2, b't') => is("te", Field::HopByHop),
        (3, b'v') => is("via", Field::Via),
        (4, b'h') => is("host", Field::Host),
        (6, b'e') => is("expect", Field::Expect),
        (7, b'u') => is("upgrade", Field::Upgrade),
        (9, b'f') => is("forwarded", Field::ForwardedOther),
        (10, b'c') => is("connection", Field::Connection),
        (10, b'k') => is("keep-alive", Field::HopByHop),
        (12, b'c') => is("content-type", Field::Read),
        (12, b'g') => is("grpc-timeout", Field::Read),
        (13, b'a') => is("authorization", Field::Authorization),
        (14, b'c') => is("content-length", Field::ContentLength),
        (14, b'h') => is("http2-settings", Field::HopByHop),
        (16, b'p') => is("proxy-connection", Field::HopByHop),
        (17, b't') => is("transfer-encoding", Field::TransferEncoding),
        (17, b's') => is("sec-websocket-key", Field::Read),
        (18, b'p') => is("proxy-authenticate", Field::HopByHop),
        (19, b'p') => is("proxy-authorization", Field::HopByHop),
        (11, b'c') => is("client-cert", Field::ClientCert),
        (17, b'c') => is("client-cert-chain", Field::ClientCert),
        (12.., b'x') => classify_forwarded(name),
        _ => Field::Other,
    }
}

/// Reports whether two tokens are equal regardless of case; `known` is in lower case. Words of eight bytes are compared,
/// because each field of each message comes here. In a token only letters differ by the bit that is set.
#[inline(always)]
fn is_same_token(name: &[u8], known: &[u8]) -> bool {
    const LOWER_CASE: u64 = u64::from_ne_bytes([0x20; 8]);
    let word = |bytes: &[u8], at: usize| {
        let chunk = bytes.get(at..).and_then(<[u8]>::first_chunk);
        chunk.map_or(0, |chunk| u64::from_ne_bytes(*chunk) | LOWER_CASE)
    };
    let len = known.len();
    if name.len() != len {
        return false;
    }
    if len < 8 {
        return name.iter().zip(known).all(|(a, b)| a | 0x20 == *b | 0x20);
    }
    let mut at = 0;
    while at + 8 < len {
        if word(name, at) != word(known, at) {
            return false;
        }
        at += 8;
    }
    word(name, len - 8) == word(known, len - 8)
}

/// Classifies a name that is not `known`, but has its length and first letter.
#[cold]
fn other(name: &str, known: &str) -> Field {
    if folds_to(name, known) { Field::Alias } else { Field::Other }
}

/// Classifies the `X-Forwarded-*` fields, and their aliases.
#[inline]
fn classify_forwarded(name: &str) -> Field {
    let (prefix, rest) = name.as_bytes().split_at(12);
    if !folds_to_bytes(prefix, b"x-forwarded-") {
        return Field::Other;
    }
    let is_plain = |bytes: &[u8]| bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    match rest {
        _ if !is_plain(prefix) || !is_plain(rest) => Field::Alias,
        rest if rest.eq_ignore_ascii_case(b"for") => Field::ForwardedFor,
        rest if rest.eq_ignore_ascii_case(b"proto") => Field::ForwardedProto,
        rest if rest.eq_ignore_ascii_case(b"host") => Field::ForwardedHost,
        _ => Field::ForwardedOther,
    }
}

/// Fields that change how a message is framed, routed, authenticated or read. They are not allowed in trailers (RFC
/// 9110 section 6.5.1), because a recipient may merge trailers into the header section.
const NOT_IN_TRAILERS: [&str; 24] = [
    "age",
    "cache-control",
    "content-encoding",
    "content-location",
    "content-range",
    "cookie",
    "cookie2",
    "date",
    "expires",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "set-cookie2",
    "trailer",
    "vary",
    "www-authenticate",
];

/// Reports whether a field may stand in trailers.
pub fn is_allowed_in_trailers(name: &str) -> bool {
    matches!(classify_field(name), Field::Other | Field::Via)
        && !NOT_IN_TRAILERS.iter().any(|field| folds_to(name, field))
}

/// Reports whether `value` of `Authorization` or `WWW-Authenticate` names a scheme that authenticates the connection
/// and not the request: NTLM and Negotiate (RFC 4559 section 6), with their kin.
pub fn authenticates_connection(value: &[u8]) -> bool {
    list_members(value).any(|member| {
        let scheme = member.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let is = |name: &[u8]| scheme.eq_ignore_ascii_case(name);
        is(b"ntlm") || is(b"negotiate") || is(b"nego2") || is(b"kerberos")
    })
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
    /// Further nominated fields of a response, in lower case.
    more: Option<HashSet<Vec<u8>>>,
}

impl<'b> ConnectionOptions<'b> {
    /// Adds the options of one `Connection` line of a request; returns `false` if they nominate too many fields.
    pub fn add(&mut self, value: &'b [u8]) -> bool {
        self.add_options(value, |_| false)
    }

    /// Adds the options of one `Connection` line of a response.
    pub fn add_any(&mut self, value: &'b [u8]) {
        let mut more = self.more.take();
        self.add_options(value, |option| {
            more.get_or_insert_default().insert(option.to_ascii_lowercase());
            true
        });
        self.more = more;
    }

    /// Adds options; `overflow` takes those that exceed the fixed number, and returns whether to go on.
    fn add_options(&mut self, value: &'b [u8], mut overflow: impl FnMut(&'b [u8]) -> bool) -> bool {
        for option in list_members(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                match self.nominated.get_mut(self.count) {
                    Some(free) => {
                        *free = option;
                        self.count += 1;
                    }
                    None if overflow(option) => {}
                    None => return false,
                }
            }
        }
        true
    }

    /// Reports whether the field `name` is nominated to end at this hop.
    #[inline]
    pub fn nominates(&self, name: &str) -> bool {
        self.count > 0 && self.has_nominated(name)
    }

    fn has_nominated(&self, name: &str) -> bool {
        self.nominated[..self.count].iter().any(|n| n.eq_ignore_ascii_case(name.as_bytes()))
            || self.more.as_ref().is_some_and(|more| more.contains(name.to_ascii_lowercase().as_bytes()))
    }

    /// Reports whether the field `name` is nominated and may be: a client cannot remove the forwarding fields.
    pub fn nominates_removable(&self, name: &str) -> bool {
        use Field::{ForwardedFor, ForwardedHost, ForwardedOther, ForwardedProto};
        let is_forwarding =
            || matches!(classify_field(name), ForwardedFor | ForwardedProto | ForwardedHost | ForwardedOther);
        self.nominates(name) && !is_forwarding()
    }

    /// Reports whether any field is nominated.
    pub fn any_nominated(&self) -> bool {
        self.count > 0
    }
}

/// Parses a `Content-Length`: only decimal digits, and at most 2^63 - 1, which recipients with signed numbers can
/// still represent.
#[inline]
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = value.iter().fold(0, |n, &digit| n * 10 + u64::from(digit - b'0'));
    (length <= i64::MAX as u64).then_some(length)
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
#[inline(always)]
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
    fn tokens_are_compared_regardless_of_case_in_every_byte() {
        for known in ["te", "host", "expect", "upgrade", "forwarded", "connection", "sec-websocket-key"] {
            assert!(is_same_token(known.as_bytes(), known.as_bytes()));
            assert!(is_same_token(known.to_ascii_uppercase().as_bytes(), known.as_bytes()));
            for at in 0..known.len() {
                let mut other = known.as_bytes().to_vec();
                other[at] = b'!';
                assert!(!is_same_token(&other, known.as_bytes()), "{known} at {at}");
            }
            assert!(!is_same_token(&known.as_bytes()[1..], known.as_bytes()));
        }
        assert_eq!(classify_field("Content_Length"), Field::Alias);
    }

    #[test]
    fn content_length_has_digits_only() {
        assert_eq!(content_length(b"0"), Some(0));
        assert_eq!(content_length(b"9223372036854775807"), Some(i64::MAX as u64));
        for bad in [
            "",
            "+1",
            "-1",
            "1 ",
            "0x1",
            "1,1",
            "9223372036854775808",
            "9999999999999999999",
            "99999999999999999999",
        ] {
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
    fn a_response_may_nominate_any_number_of_fields() {
        let many: Vec<String> = (0..40).map(|n| format!("X-Hop-{n}")).collect();
        let many = many.join(", ");
        let mut options = ConnectionOptions::default();
        options.add_any(many.as_bytes());
        options.add_any(b"close");
        assert!(options.close && (0..40).all(|n| options.nominates(&format!("x-hop-{n}"))));
        assert!(!options.nominates("x-hop-40"));
    }

    #[test]
    fn another_spelling_of_a_known_name_is_an_alias() {
        for alias in [
            "X_Forwarded_For",
            "x-forwarded_proto",
            "X.Forwarded.Host",
            "X-Forwarded~Port",
            "Client_Cert",
            "client.cert_chain",
            "Content_Length",
            "Transfer_Encoding",
            "content_type",
            "Proxy_Authorization",
            "keep_alive",
        ] {
            assert_eq!(classify_field(alias), Field::Alias, "{alias}");
        }
        for other in ["X_Request_Id", "user_agent", "x_forwarde_", "Content_Lengths", "client-certs"] {
            assert_eq!(classify_field(other), Field::Other, "{other}");
        }
    }

    #[test]
    fn trailers_carry_no_field_that_changes_the_message() {
        for name in ["X-Sum", "grpc-status", "Etag", "Server-Timing", "Via", "digest"] {
            assert!(is_allowed_in_trailers(name), "{name}");
        }
        for name in
            ["Cookie", "authorization", "HOST", "Content-Length", "content_type", "Set_Cookie", "Range"]
        {
            assert!(!is_allowed_in_trailers(name), "{name}");
        }
    }

    #[test]
    fn ntlm_and_negotiate_authenticate_the_connection() {
        for value in ["NTLM", "ntlm TlRMTVNT", "Negotiate", "Basic realm=\"a, b\", NEGOTIATE", "NTLM\tx"] {
            assert!(authenticates_connection(value.as_bytes()), "{value}");
        }
        for value in ["", "Basic TlRMTQ==", "Bearer ntlm", "NTLMv3", "Digest realm=\"NTLM\""] {
            assert!(!authenticates_connection(value.as_bytes()), "{value}");
        }
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
