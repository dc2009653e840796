//! How the admin plane of a running plimsoll is asked: one request, one answer, plain HTTP/1.1.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// Where the admin plane listens unless told otherwise.
pub(crate) const DEFAULT: &str = "127.0.0.1:9900";
/// Loopback answers at once or never.
const CONNECT: Duration = Duration::from_secs(2);
/// A reload looks names up before it answers.
const ANSWER: Duration = Duration::from_secs(30);
/// A pool of 10,000 destinations tells some 6 MiB.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// Why nothing useful came back.
#[derive(Debug)]
pub(crate) enum NoReply {
    /// Nobody is there.
    Unreachable(String, io::Error),
    /// Somebody is, and is not what we look for.
    Strange(String, String),
}

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(address, error) => write!(
                f,
                "nobody answers at {address} ({error}): is plimsoll running there? \
                 --admin or PLIMSOLL_ADMIN names another address"
            ),
            Self::Strange(address, why) => {
                write!(f, "what answers at {address} is not the admin plane of plimsoll: {why}")
            }
        }
    }
}

/// `http://HOST:PORT/`, `HOST:PORT`, `:PORT` or `HOST` as `HOST:PORT`.
fn authority(admin: &str) -> String {
    let bare = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let has_port = bare.rfind(':').is_some_and(|colon| !bare[colon..].contains(']'));
    match (bare.strip_prefix(':'), has_port) {
        (Some(port), _) => format!("127.0.0.1:{port}"),
        (None, true) => bare.to_owned(),
        (None, false) => format!("{bare}:9900"),
    }
}

/// Asks, and reads the whole answer.
pub(crate) fn ask(admin: &str, method: &str, path: &str) -> Result<Reply, NoReply> {
    ask_with(admin, method, path, None)
}

/// The same with a body.
pub(crate) fn ask_with(
    admin: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Reply, NoReply> {
    let authority = authority(admin);
    let body = body.map(Value::to_string).unwrap_or_default();
    let answer = exchange(&authority, method, path, &body).map_err(|error| {
        // What a socket's time limit is called differs between systems, and neither name is clear.
        let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let error = if late { io::Error::new(error.kind(), "no answer in time") } else { error };
        NoReply::Unreachable(authority.clone(), error)
    })?;
    read(&answer).map_err(|why| NoReply::Strange(authority, why))
}

fn exchange(authority: &str, method: &str, path: &str, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = connect(authority)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(CONNECT))?;
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: plimsoll/{}\r\nContent-Length: {}\r\n\
         {kind}Connection: close\r\n\r\n{body}",
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    let addresses: Vec<SocketAddr> = authority.to_socket_addrs()?.collect();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read(answer: &[u8]) -> Result<Reply, String> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut slots);
    let Ok(httparse::Status::Complete(len)) = head.parse(answer) else {
        return Err("it does not speak HTTP".to_owned());
    };
    let body = serde_json::from_slice(&answer[len..]).map_err(|_| "its answer is not JSON".to_owned())?;
    Ok(Reply { status: head.code.unwrap_or(0), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_written_in_many_ways() {
        for (given, meant) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://localhost:1/", "localhost:1"),
            (":9901", "127.0.0.1:9901"),
            ("localhost", "localhost:9900"),
            ("[::1]", "[::1]:9900"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(authority(given), meant);
        }
    }

    #[test]
    fn strangers_are_told_from_the_admin_plane() {
        assert_eq!(read(b"SSH-2.0-x\r\n").unwrap_err(), "it does not speak HTTP");
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\n<html>").unwrap_err(), "its answer is not JSON");
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\n{\"a\":1}").unwrap().body["a"], 1);
    }
}
