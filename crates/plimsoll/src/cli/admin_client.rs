//! A blocking HTTP/1.1 client for the admin API of a running instance.

use std::error::Error;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// Address of the admin API unless configured otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9900";
/// Time limit of a connection attempt and of sending the request; loopback needs microseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of the whole response; a reload reads files and resolves host names first.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum bytes of a response; the status of 10,000 destinations is about 6 MiB.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// A response with a JSON body.
#[derive(Debug)]
pub(crate) struct AdminResponse {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// Why a request got no usable response.
#[derive(Debug)]
pub(crate) enum AdminError {
    /// No connection, or it failed before the response was complete.
    Unreachable { address: String, source: io::Error },
    /// The response is not one of the admin API.
    Unexpected { address: String, found: String },
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, source } => write!(
                f,
                "cannot reach the admin API at {address} ({}). Is plimsoll running? Set another address with \
                 --admin or PLIMSOLL_ADMIN",
                short(source)
            ),
            Self::Unexpected { address, found } => {
                write!(f, "the server at {address} is not the admin API of plimsoll: {found}")
            }
        }
    }
}

impl Error for AdminError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => Some(source),
            Self::Unexpected { .. } => None,
        }
    }
}

/// Names the common causes without the error number that [`io::Error`] prints.
fn short(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        // A socket's time limit is reported under either name, depending on the system.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// Returns the `detail` of a problem document.
pub(crate) fn error_detail(body: &Value) -> &str {
    body["detail"].as_str().unwrap_or("the response has no `detail`")
}

/// Normalizes `http://HOST:PORT/`, `HOST:PORT`, `:PORT` or `HOST` to `HOST:PORT`.
fn authority(admin: &str) -> String {
    let bare = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let has_port = bare.rfind(':').is_some_and(|colon| !bare[colon..].contains(']'));
    match (bare.strip_prefix(':'), has_port) {
        (Some(port), _) => format!("127.0.0.1:{port}"),
        (None, true) => bare.to_owned(),
        (None, false) => format!("{bare}:9900"),
    }
}

/// Sends a request without a body and reads the whole response.
pub(crate) fn request(admin: &str, method: &str, path: &str) -> Result<AdminResponse, AdminError> {
    request_with_body(admin, method, path, None)
}

/// Sends a request with a JSON body and reads the whole response.
pub(crate) fn request_with_body(
    admin: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<AdminResponse, AdminError> {
    let address = authority(admin);
    let body = body.map(Value::to_string).unwrap_or_default();
    match exchange(&address, method, path, &body) {
        Ok(response) => parse(&response).map_err(|found| AdminError::Unexpected { address, found }),
        Err(source) => Err(AdminError::Unreachable { address, source }),
    }
}

fn exchange(authority: &str, method: &str, path: &str, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = connect(authority)?;
    stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    let content_type = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: plimsoll/{}\r\nContent-Length: {}\r\n\
         {content_type}Connection: close\r\n\r\n{body}",
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    read_within(stream, RESPONSE_TIMEOUT)
}

/// Reads until the end of the stream, for `limit` in all, however the bytes are spread.
fn read_within(mut stream: TcpStream, limit: Duration) -> io::Result<Vec<u8>> {
    let (mut response, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    let started = plimsoll_proxy::Clock::start();
    loop {
        let left = limit.saturating_sub(started.now().since(plimsoll_core::Tick::ZERO));
        if left.is_zero() || response.len() > MAX_RESPONSE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(response),
            Ok(n) => response.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    let addresses: Vec<SocketAddr> = authority.to_socket_addrs()?.collect();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn parse(response: &[u8]) -> Result<AdminResponse, String> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut slots);
    let Ok(httparse::Status::Complete(len)) = head.parse(response) else {
        return Err("expected an HTTP response".to_owned());
    };
    let body = serde_json::from_slice(&response[len..]).map_err(|_| "expected a JSON body".to_owned())?;
    Ok(AdminResponse { status: head.code.unwrap_or(0), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalized() {
        for (given, expected) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://localhost:1/", "localhost:1"),
            (":9901", "127.0.0.1:9901"),
            ("localhost", "localhost:9900"),
            ("[::1]", "[::1]:9900"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(authority(given), expected);
        }
    }

    #[test]
    fn a_response_that_drips_ends_at_the_time_limit() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        std::thread::spawn(move || {
            while server.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let error = read_within(stream, Duration::from_millis(50)).unwrap_err();
        assert_eq!(short(&error), "timed out");
    }

    #[test]
    fn responses_of_other_servers_are_rejected() {
        assert_eq!(parse(b"SSH-2.0-x\r\n").unwrap_err(), "expected an HTTP response");
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n<html>").unwrap_err(), "expected a JSON body");
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n{\"a\":1}").unwrap().body["a"], 1);
    }
}
