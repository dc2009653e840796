//! Expected responses: checks the bytes of a reply.

use std::mem::MaybeUninit;

/// Message to send and its expected reply.
#[derive(Clone)]
pub(crate) struct Exchange {
    pub(crate) request: Vec<u8>,
    pub(crate) expect: Expect,
    /// Whether each message is a datagram. After a lost one its connection is not used any more.
    pub(crate) datagrams: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Status 200 with a body of this length; with `close`, the connection ends after it.
    Http { body: usize, close: bool },
    /// Echo of the request.
    Echo,
    /// Number of bytes.
    Bytes(usize),
}

/// Returns a CONNECT of MQTT 3.1.1 of 64 bytes that ends with the client id; a proxy that only forwards
/// packets treats its echo like a CONNACK.
pub(crate) fn connect() -> Vec<u8> {
    let mut packet = b"\x10\x3e\0\x04MQTT\x04\x02\0\x3c\0\x32".to_vec();
    packet.resize(64, b'm');
    packet
}

/// Error of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExchangeError {
    /// Connection refused or broken.
    Socket,
    /// Connection closed before the end of the reply.
    Ended,
    /// Not HTTP, or a status other than 200.
    Status,
    /// Unexpected length, or bytes after the end.
    Length,
    /// Echo differs from the message.
    Content,
    /// TLS error: untrusted certificate, alert, or not TLS.
    Tls,
    /// Full handshake where a resumed one was expected, or the reverse.
    Handshake,
}

/// Progress of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    More,
    Whole,
}

/// Received part of a reply.
#[derive(Default)]
pub(crate) struct Reply {
    head: Vec<u8>,
    /// Bytes still missing, once known.
    left: Option<usize>,
}

impl Reply {
    /// Handles the next received bytes of the reply to `exchange`.
    pub(crate) fn feed(&mut self, exchange: &Exchange, bytes: &[u8]) -> Result<Fed, ExchangeError> {
        let left = match (self.left, exchange.expect) {
            (Some(left), _) => left,
            (None, Expect::Bytes(count)) => count,
            (None, Expect::Echo) => exchange.request.len(),
            (None, Expect::Http { body, .. }) => return self.feed_head(body, bytes),
        };
        if exchange.expect == Expect::Echo {
            let at = exchange.request.len() - left;
            if exchange.request.get(at..at + bytes.len()) != Some(bytes) {
                return Err(ExchangeError::Content);
            }
        }
        self.take(left, bytes.len())
    }

    fn feed_head(&mut self, body: usize, bytes: &[u8]) -> Result<Fed, ExchangeError> {
        if self.head.is_empty() {
            return match head_length(bytes, body)? {
                Some(length) => self.take(body, bytes.len() - length),
                None => {
                    self.head.extend_from_slice(bytes);
                    Ok(Fed::More)
                }
            };
        }
        let mut head = std::mem::take(&mut self.head);
        head.extend_from_slice(bytes);
        self.feed_head(body, &head)
    }

    fn take(&mut self, left: usize, count: usize) -> Result<Fed, ExchangeError> {
        let left = left.checked_sub(count).ok_or(ExchangeError::Length)?;
        self.left = (left > 0).then_some(left);
        Ok(if left == 0 { Fed::Whole } else { Fed::More })
    }
}

/// Length of a response head with status 200 and a body of `body` bytes; `None` while it is incomplete.
fn head_length(bytes: &[u8], body: usize) -> Result<Option<usize>, ExchangeError> {
    let mut headers = [const { MaybeUninit::uninit() }; 64];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ExchangeError::Status),
    };
    if response.code != Some(200) {
        return Err(ExchangeError::Status);
    }
    let declared = response
        .headers
        .iter()
        .find(|header| header.name.len() == 14 && header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    if declared == Some(body) { Ok(Some(length)) } else { Err(ExchangeError::Length) }
}

/// Returns a GET for `path`, with the two headers of a plain client or the 30 of a browser (about 1.2 KB).
pub(crate) fn get(host: &str, path: &str, browser: bool, close: bool) -> Vec<u8> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n");
    request.push_str(if browser { BROWSER } else { "User-Agent: plimsoll-bench\r\n" });
    if close {
        request.push_str("Connection: close\r\n");
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// Headers that a browser sends through a content network; with Host, 30 headers.
const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Cache-Control: no-cache\r\n\
    Pragma: no-cache\r\n\
    Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=1; _ga=GA1.2.1842173.1763800000; cart=c9f0f895fb98ab91\r\n\
    DNT: 1\r\n\
    Origin: https://shop.example.com\r\n\
    Priority: u=0, i\r\n\
    Referer: https://shop.example.com/catalogue/spring?page=3&sort=price\r\n\
    Sec-CH-UA: \"Chromium\";v=\"142\", \"Not_A Brand\";v=\"99\"\r\n\
    Sec-CH-UA-Mobile: ?0\r\n\
    Sec-CH-UA-Platform: \"Linux\"\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-User: ?1\r\n\
    Sec-GPC: 1\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    If-None-Match: W/\"5f3c1a9be2d84710\"\r\n\
    X-Request-ID: 6f1d2c3b-7a89-4e5f-9b0c-1d2e3f4a5b6c\r\n\
    X-Requested-With: XMLHttpRequest\r\n\
    X-CSRF-Token: 45c48cce2e2d7fbdea1afc51c7c6ad26\r\n\
    X-Client-Version: 7.41.2\r\n\
    X-Device-ID: d3d9446802a44259755d38e6d163e820\r\n\
    Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
    Tracestate: vendor=t61rcWkgMzE\r\n\
    Authorization: Bearer 6512bd43d9caa6e02c990b0a82652dca\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(body: usize) -> Exchange {
        Exchange { request: b"ping".to_vec(), expect: Expect::Http { body, close: false }, datagrams: false }
    }

    #[test]
    fn a_reply_is_complete_for_every_fragmentation() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        for cut in 1..bytes.len() {
            let mut reply = Reply::default();
            assert_eq!(reply.feed(&exchange(5), &bytes[..cut]), Ok(Fed::More), "cut at {cut}");
            assert_eq!(reply.feed(&exchange(5), &bytes[cut..]), Ok(Fed::Whole), "cut at {cut}");
        }
    }

    #[test]
    fn a_wrong_reply_is_an_error() {
        let check = |body, bytes: &[u8]| Reply::default().feed(&exchange(body), bytes);
        assert_eq!(check(0, b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"), Err(ExchangeError::Status));
        assert_eq!(check(0, b"nonsense\r\n\r\n"), Err(ExchangeError::Status));
        assert_eq!(
            check(9, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
            Err(ExchangeError::Length)
        );
        assert_eq!(
            check(5, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!"),
            Err(ExchangeError::Length)
        );
        assert_eq!(
            check(5, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
            Err(ExchangeError::Length)
        );
    }

    #[test]
    fn an_echo_must_be_the_same_bytes() {
        let echo = Exchange { request: b"ping".to_vec(), expect: Expect::Echo, datagrams: false };
        let mut reply = Reply::default();
        assert_eq!(reply.feed(&echo, b"pi"), Ok(Fed::More));
        assert_eq!(reply.feed(&echo, b"ng"), Ok(Fed::Whole));
        assert_eq!(Reply::default().feed(&echo, b"pong"), Err(ExchangeError::Content));
        assert_eq!(Reply::default().feed(&echo, b"pinging"), Err(ExchangeError::Content));
    }

    #[test]
    fn a_browser_sends_thirty_headers() {
        let request = String::from_utf8(get("shop.example.com", "/", true, false)).expect("text");
        assert_eq!(request.lines().filter(|line| line.contains(": ")).count(), 30);
        assert!((1150..1700).contains(&request.len()), "{} bytes", request.len());
    }
}
