//! Addresses of listeners and destinations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};

use crate::check::config_node::ConfigNode;
use crate::check::reader::Reader;
use crate::check::value_error::ValueError;
use crate::model::{DestinationAddress, ListenAddress};
use crate::problem::Code;
use crate::tree::{Kind, Scalar, Value};

const LISTEN_HELP: &str =
    "write it like \"0.0.0.0:8080\", \":8080\" (all IPv4 interfaces), \"[::]:443\" or \"unix:/run/lb.sock\"";
const DESTINATION_HELP: &str =
    "write it like \"10.0.0.1:8080\", \"app.internal:8080\", \"[fd00::1]:8080\" or \"unix:/run/app.sock\"";

/// Maximum bytes of the path of a Unix socket: `sun_path` of Linux without its final NUL.
const UNIX_PATH_BYTES: usize = 107;

impl Reader<'_> {
    /// Reads an address with one of the parsers below. A bare port is rejected with the right spelling.
    pub(crate) fn address<T>(
        &mut self,
        node: &ConfigNode<'_>,
        host: &str,
        parse: impl FnOnce(&str, &FilePath) -> Result<T, ValueError>,
    ) -> Option<T> {
        if let Value::Scalar(Scalar { kind: Kind::Integer(_), .. }) = node.tree.value {
            let help = format!("write \"{host}:{}\"", node.shown());
            self.reject(node, ValueError::new(Code::BadAddress, "is a port without a host", help));
            return None;
        }
        let dir = self.dir;
        self.parsed(node, "an address", |text| parse(text, dir))
    }
}

/// Parses an address to listen on: an IP address and port, a port for all IPv4 interfaces, `localhost`, or `unix:PATH`.
/// The system chooses a port for port 0.
pub(crate) fn listen(text: &str, dir: &FilePath) -> Result<ListenAddress, ValueError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path, dir).map(ListenAddress::Unix);
    }
    listen_socket(text).map(ListenAddress::Socket)
}

/// Parses an address to receive datagrams on: as [`listen`], without Unix sockets.
pub(crate) fn listen_udp(text: &str, _: &FilePath) -> Result<ListenAddress, ValueError> {
    if text.starts_with("unix:") {
        let help = "write it like \"0.0.0.0:53\", \":53\" (all IPv4 interfaces) or \"[::]:53\"";
        return Err(ValueError::new(
            Code::BadAddress,
            "is a Unix socket, which UDP listeners do not support",
            help,
        ));
    }
    listen_socket(text).map(ListenAddress::Udp)
}

/// Parses an address as [`listen`], without Unix sockets.
pub(crate) fn listen_socket(text: &str) -> Result<SocketAddr, ValueError> {
    let (host, port) = split(text, LISTEN_HELP)?;
    let ip = match host {
        "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => ip(host).ok_or_else(|| {
            let reason = "is not a valid listen address: its host is not an IP address";
            ValueError::new(Code::BadAddress, reason, LISTEN_HELP)
        })?,
    };
    Ok(SocketAddr::new(ip, port))
}

/// Parses the address of a destination: an IP address or host name with a port, or `unix:PATH`.
pub(crate) fn destination(text: &str, dir: &FilePath) -> Result<DestinationAddress, ValueError> {
    let error = |reason, help: String| Err(ValueError::new(Code::BadAddress, reason, help));
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path, dir).map(DestinationAddress::Unix);
    }
    let (host, port) = split(text, DESTINATION_HELP)?;
    if host.is_empty() {
        return error("has no host", format!("write \"127.0.0.1:{port}\" for this machine"));
    }
    if port == 0 {
        return error("has port 0, which cannot be connected to", DESTINATION_HELP.to_owned());
    }
    match ip(host) {
        Some(ip) if ip.is_unspecified() => error(
            "is not a valid destination address",
            format!("write \"127.0.0.1:{port}\" for this machine"),
        ),
        Some(ip) if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) => {
            error("is a multicast or broadcast address", DESTINATION_HELP.to_owned())
        }
        Some(ip) => Ok(DestinationAddress::Socket(SocketAddr::new(ip, port))),
        None if is_host_name(host) => Ok(DestinationAddress::Name(host.to_ascii_lowercase(), port)),
        None => error("has no valid host name or IP address", DESTINATION_HELP.to_owned()),
    }
}

/// Returns whether a text is a DNS name, with underscores allowed. The last label is not a number, so that an invalid IP
/// address is not taken for a name.
pub(crate) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len())
            && label.chars().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

/// Parses the IP address before a port, with IPv6 in brackets.
fn ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn split<'a>(text: &'a str, help: &str) -> Result<(&'a str, u16), ValueError> {
    let error = |reason, help: &str| Err(ValueError::new(Code::BadAddress, reason, help));
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_end_matches('/');
        let help = format!(
            "write \"{rest}\"{}",
            if scheme == "https" { "; use `tls` on the pool or listener for TLS" } else { "" }
        );
        return error("is a URL, not an address", &help);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return match text.parse::<u16>() {
            Ok(port) => {
                let help =
                    format!("write \"127.0.0.1:{port}\", or \":{port}\" to listen on all IPv4 interfaces");
                error("is a port without a host", &help)
            }
            Err(_) => error("has no port", help),
        };
    };
    if host.contains(':') && !host.starts_with('[') {
        return error("is an IPv6 address without brackets", "write it like \"[::1]:8080\"");
    }
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits => Ok((host, port)),
        _ if digits => error("has a port above 65535", help),
        _ => error("has no port", help),
    }
}

fn unix(path: &str, dir: &FilePath) -> Result<PathBuf, ValueError> {
    let error = |reason| ValueError::new(Code::BadAddress, reason, "write it like \"unix:/run/app.sock\"");
    if path.is_empty() || path.contains('\0') {
        return Err(error("has no path"));
    }
    let path = dir.join(path);
    if path.as_os_str().len() > UNIX_PATH_BYTES {
        return Err(error("has a path that is too long for a Unix socket (at most 107 bytes)"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(text: &str) -> Result<String, &'static str> {
        listen(text, FilePath::new("/etc/p")).map_err(|error| error.reason).map(|address| match address {
            ListenAddress::Socket(address) | ListenAddress::Udp(address) => address.to_string(),
            ListenAddress::Unix(path) => format!("unix:{}", path.display()),
        })
    }

    fn connects(text: &str) -> Result<String, &'static str> {
        destination(text, FilePath::new("/etc/p")).map_err(|error| error.reason).map(
            |address| match address {
                DestinationAddress::Socket(address) => address.to_string(),
                DestinationAddress::Name(host, port) => format!("name {host} {port}"),
                DestinationAddress::Unix(path) => format!("unix:{}", path.display()),
            },
        )
    }

    #[test]
    fn listen_addresses_have_an_ip_address_or_a_unix_path() {
        for (text, address) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            (":8080", "0.0.0.0:8080"),
            ("[::]:443", "[::]:443"),
            ("localhost:80", "127.0.0.1:80"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("unix:/run/x", "unix:/run/x"),
            ("unix:x", "unix:/etc/p/x"),
        ] {
            assert_eq!(listens(text).as_deref(), Ok(address));
        }
        for (text, what) in [
            ("127.0.0.1", "has no port"),
            ("127.0.0.1:", "has no port"),
            ("127.0.0.1:http", "has no port"),
            ("127.0.0.1:+80", "has no port"),
            ("127.0.0.1:65536", "has a port above 65535"),
            ("::1:80", "is an IPv6 address without brackets"),
            ("example.com:80", "is not a valid listen address: its host is not an IP address"),
            ("http://127.0.0.1:80/", "is a URL, not an address"),
            ("unix:", "has no path"),
            ("", "has no port"),
        ] {
            assert_eq!(listens(text), Err(what), "{text}");
        }
        assert!(listens(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn destination_addresses_have_a_host_and_a_port() {
        for (text, address) in [
            ("127.0.0.1:9001", "127.0.0.1:9001"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("App.internal:80", "name app.internal 80"),
            ("localhost:80", "name localhost 80"),
            ("my_app:80", "name my_app 80"),
            ("unix:/run/x", "unix:/run/x"),
        ] {
            assert_eq!(connects(text).as_deref(), Ok(address));
        }
        for (text, what) in [
            (":9001", "has no host"),
            ("a:0", "has port 0, which cannot be connected to"),
            ("0.0.0.0:80", "is not a valid destination address"),
            ("224.0.0.1:80", "is a multicast or broadcast address"),
            ("300.1.1.1:80", "has no valid host name or IP address"),
            ("a b:80", "has no valid host name or IP address"),
            ("-a:80", "has no valid host name or IP address"),
            ("a..b:80", "has no valid host name or IP address"),
        ] {
            assert_eq!(connects(text), Err(what), "{text}");
        }
    }
}
