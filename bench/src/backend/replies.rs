//! Replies of a backend.

use std::io;
use std::mem::MaybeUninit;

/// Fixed replies of a backend, rendered once.
pub(crate) enum Replies {
    /// Request path, and head and body of its reply. The last one serves any other path.
    Http(Vec<(String, Vec<u8>)>),
    Echo,
    Bulk {
        message: usize,
        reply: Vec<u8>,
    },
}

/// Reply to one message.
pub(crate) enum Reply {
    /// Index of a fixed reply.
    Fixed(usize),
    /// Echo of the message.
    Echo(Vec<u8>),
}

/// Message at the front of received bytes.
pub(crate) struct Read {
    /// Length in bytes.
    pub(crate) used: usize,
    pub(crate) reply: Reply,
    /// Whether the connection must be closed after the reply.
    pub(crate) close: bool,
}

const SIZES: [(&str, usize); 9] = [
    ("/0", 0),
    ("/128", 128),
    ("/1k", 1 << 10),
    ("/4k", 4 << 10),
    ("/16k", 16 << 10),
    ("/100k", 100 << 10),
    ("/1m", 1 << 20),
    ("/10m", 10 << 20),
    ("/", 0),
];

/// Headers that real services add to a reply, some 600 bytes of them.
const MANY_HEADERS: &str = "cache-control: private, max-age=0, must-revalidate\r\n\
    content-security-policy: default-src 'self'; img-src 'self' data: https://img.example.com; frame-ancestors 'none'\r\n\
    etag: W/\"5f3c1a9be2d84710\"\r\n\
    last-modified: Fri, 20 Nov 2026 08:12:31 GMT\r\n\
    permissions-policy: camera=(), microphone=(), geolocation=()\r\n\
    referrer-policy: strict-origin-when-cross-origin\r\n\
    set-cookie: session=8f14e45fceea167a5a36dedd4bea2543; Path=/; HttpOnly; TlsStream; SameSite=Lax\r\n\
    strict-transport-security: max-age=31536000; includeSubDomains\r\n\
    vary: Accept-Encoding, Accept-Language\r\n\
    x-content-type-options: nosniff\r\n";

impl Replies {
    pub(crate) fn http() -> Self {
        let mut replies = vec![("/headers/128".to_owned(), reply(200, MANY_HEADERS, 128))];
        replies.extend(SIZES.iter().map(|&(path, length)| (path.to_owned(), reply(200, "", length))));
        replies.push((String::new(), reply(404, "", 0)));
        Self::Http(replies)
    }

    pub(crate) fn bulk(message: usize, reply: usize) -> Self {
        Self::Bulk { message: message.max(1), reply: vec![b'x'; reply] }
    }

    /// Parses the first message in `bytes`, or returns `None` while it is incomplete. An invalid HTTP/1
    /// request, or one with a body, is an error: no scenario sends it, so a proxy corrupted it.
    pub(crate) fn read(&self, bytes: &[u8]) -> io::Result<Option<Read>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match self {
            Self::Http(replies) => read_request(bytes, replies),
            Self::Echo => {
                Ok(Some(Read { used: bytes.len(), reply: Reply::Echo(bytes.to_vec()), close: false }))
            }
            Self::Bulk { message, .. } => {
                let whole = bytes.len() >= *message;
                Ok(whole.then_some(Read { used: *message, reply: Reply::Fixed(0), close: false }))
            }
        }
    }

    pub(crate) fn bytes<'a>(&'a self, reply: &'a Reply) -> &'a [u8] {
        match (self, reply) {
            (_, Reply::Echo(bytes)) => bytes,
            (Self::Http(replies), Reply::Fixed(index)) => &replies[*index].1,
            (Self::Bulk { reply, .. }, Reply::Fixed(_)) => reply,
            (Self::Echo, Reply::Fixed(_)) => &[],
        }
    }
}

fn read_request(bytes: &[u8], replies: &[(String, Vec<u8>)]) -> io::Result<Option<Read>> {
    let mut headers = [const { MaybeUninit::uninit() }; 100];
    let mut request = httparse::Request::new(&mut []);
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let used = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(invalid(error.to_string())),
    };
    let mut close = false;
    for header in request.headers.iter() {
        // Lengths first: comparing every name to both costs more than the rest of the parse.
        close |= header.name.len() == 10
            && header.name.eq_ignore_ascii_case("connection")
            && header.value.eq_ignore_ascii_case(b"close");
        let body = header.name.len() == 14 && header.name.eq_ignore_ascii_case("content-length");
        if body && header.value != b"0" {
            return Err(invalid("a request with a body".to_owned()));
        }
    }
    let path = request.path.unwrap_or_default();
    let found = replies.iter().position(|(known, _)| known == path).unwrap_or(replies.len() - 1);
    Ok(Some(Read { used, reply: Reply::Fixed(found), close }))
}

fn reply(status: u16, headers: &str, length: usize) -> Vec<u8> {
    let phrase = if status == 200 { "OK" } else { "Not Found" };
    let head = format!(
        "HTTP/1.1 {status} {phrase}\r\nServer: backend\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\n\
         Content-Type: application/octet-stream\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply_to(replies: &Replies, bytes: &[u8]) -> Option<(usize, usize, bool)> {
        let read = replies.read(bytes).expect("a well-formed message")?;
        Some((read.used, replies.bytes(&read.reply).len(), read.close))
    }

    #[test]
    fn the_reply_depends_on_the_path() {
        let replies = Replies::http();
        let (used, length, close) =
            reply_to(&replies, b"GET /1k HTTP/1.1\r\nHost: a\r\n\r\nGET").expect("whole");
        assert_eq!((used, close), (29, false));
        assert!((1024..1400).contains(&length));
        assert_eq!(reply_to(&replies, b"GET /1k HTTP/1.1\r\nHost: a\r\n"), None);
    }

    #[test]
    fn a_close_request_closes_the_connection() {
        let read = reply_to(&Replies::http(), b"GET /0 HTTP/1.1\r\nConnection: Close\r\n\r\n");
        assert!(read.expect("whole").2);
    }

    #[test]
    fn the_reply_with_many_headers_has_about_600_bytes_of_them() {
        assert!((550..700).contains(&MANY_HEADERS.len()), "{}", MANY_HEADERS.len());
    }

    #[test]
    fn bulk_waits_for_a_complete_message() {
        let replies = Replies::bulk(64, 1000);
        assert_eq!(reply_to(&replies, &[0; 63]), None);
        assert_eq!(reply_to(&replies, &[0; 65]), Some((64, 1000, false)));
    }
}
