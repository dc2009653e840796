//! Protocol of health checks, given by `protocol` or implied by a key of one protocol.

use std::sync::Arc;

use crate::check::headers::{self, header_value, is_token};

use crate::check::config_node::ConfigNode;
use crate::check::first_seen::FirstSeen;
use crate::check::mapping::Mapping;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::probe::{CheckProtocol, ProbeSettings};
use crate::check::value_error::ValueError;
use crate::problem::Code;
use crate::tree::{Kind, Scalar, Value};

/// Keys of HTTP checks. One of them implies `protocol: http`, except `host`, which gRPC checks have as well.
const HTTP_KEYS: ProtocolKeys = ProtocolKeys {
    protocol: CheckProtocol::Http,
    keys: &["path", "method", "expect_status", "headers", "expect_body"],
    message: "this key applies to `protocol: http` only",
    help: "remove this key, or set `protocol: http`",
};
/// Keys of UDP checks.
const UDP_KEYS: ProtocolKeys = ProtocolKeys {
    protocol: CheckProtocol::Udp,
    keys: &["send", "expect"],
    message: "this key applies to `protocol: udp` only",
    help: "remove this key, or set `protocol: udp`",
};
/// Keys of gRPC checks.
const GRPC_KEYS: ProtocolKeys = ProtocolKeys {
    protocol: CheckProtocol::Grpc,
    keys: &["service"],
    message: "this key applies to `protocol: grpc` only",
    help: "remove this key, or set `protocol: grpc`",
};
/// Keys of MQTT checks.
const MQTT_KEYS: ProtocolKeys = ProtocolKeys {
    protocol: CheckProtocol::Mqtt,
    keys: &["username", "password"],
    message: "this key applies to `protocol: mqtt` only",
    help: "remove this key, or set `protocol: mqtt`",
};

/// Keys of one protocol, and the problem they cause with another.
struct ProtocolKeys {
    protocol: CheckProtocol,
    keys: &'static [&'static str],
    message: &'static str,
    help: &'static str,
}

/// Maximum bytes of a service name.
const SERVICE: usize = 256;
/// Maximum bytes that a check sends or expects. They fit into one Ethernet frame.
const DATAGRAM: usize = 1400;
/// Maximum bytes of a user name or password. MQTT allows 65,535.
const LOGIN: usize = 1024;

impl Reader<'_> {
    /// Reads the protocol and content of checks over `probe`.
    pub(crate) fn probe_settings(&mut self, mapping: &Mapping<'_>, probe: &mut ProbeSettings) {
        self.probe_protocol(mapping, probe);
        let get = |key| mapping.get(key);
        set_if_given(
            &mut probe.path,
            get("path").and_then(|p| self.parsed(p, "a path", |t| path(t).map(Arc::from))),
        );
        let method = |t: &str| method(t).map(Arc::from);
        set_if_given(&mut probe.method, get("method").and_then(|p| self.parsed(p, "a method", method)));
        if let Some(host) = get("host").and_then(|p| self.parsed(p, "a host", host)) {
            probe.host = Some(host);
        }
        set_if_given(&mut probe.expected_status, get("expect_status").and_then(|p| self.expect_status(p)));
        set_if_given(&mut probe.headers, get("headers").map(|p| self.check_headers(p)));
        self.expect_body(mapping, probe);
        set_if_given(&mut probe.service, get("service").and_then(|p| self.parsed(p, "a service", service)));
        let mut bytes = |key| get(key).and_then(|p| self.parsed(p, "text", datagram));
        set_if_given(&mut probe.send, bytes("send"));
        if let Some(reply) = bytes("expect") {
            probe.expected_reply = Some(reply);
        }
        let mut login = |key| get(key).and_then(|p| self.parsed(p, "text", login));
        if let Some(username) = login("username") {
            probe.username = Some(username);
        }
        set_if_given(&mut probe.password, login("password"));
        if let (Some(node), None) = (get("password"), &probe.username) {
            self.problem(node, Code::MissingKey, "`password` requires `username`")
                .help("MQTT 3.1.1 sends a password only with a user name");
        }
    }

    /// Reads the protocol of checks, and reports keys of another protocol.
    fn probe_protocol(&mut self, mapping: &Mapping<'_>, probe: &mut ProbeSettings) {
        let keywords: Vec<(&str, CheckProtocol)> = [
            ("tcp", CheckProtocol::Tcp),
            ("http", CheckProtocol::Http),
            ("grpc", CheckProtocol::Grpc),
            ("udp", CheckProtocol::Udp),
            ("mqtt", CheckProtocol::Mqtt),
        ]
        .into_iter()
        .chain(self.extensions.checks.iter().map(|&name| (name, CheckProtocol::Other(name))))
        .collect();
        let given = mapping.get("protocol").and_then(|p| self.keyword(p, &keywords, &[]));
        let first_of = |keys: &ProtocolKeys| keys.keys.iter().find_map(|key| mapping.get(key));
        let host = mapping.get("host").filter(|_| given.or(probe.protocol) != Some(CheckProtocol::Grpc));
        let implied_http = first_of(&HTTP_KEYS).or(host).map(|_| CheckProtocol::Http);
        let implied_udp = first_of(&UDP_KEYS).map(|_| CheckProtocol::Udp);
        let protocol = given.or(implied_http).or(implied_udp);
        for keys in [&HTTP_KEYS, &UDP_KEYS, &GRPC_KEYS, &MQTT_KEYS] {
            // HTTP and UDP keys without a protocol leave the choice to the pool's own block. A service or a user name
            // implies no protocol.
            let chosen = match keys.protocol {
                CheckProtocol::Http | CheckProtocol::Udp => protocol,
                _ => Some(protocol.or(probe.protocol).unwrap_or(CheckProtocol::Tcp)),
            };
            let node = first_of(keys).or(host.filter(|_| keys.protocol == CheckProtocol::Http));
            if let (Some(node), Some(chosen)) = (node, chosen)
                && chosen != keys.protocol
            {
                self.problem(node, Code::Conflict, keys.message).help(keys.help);
            }
        }
        if protocol.is_some() {
            probe.protocol = protocol;
        }
    }

    /// Reads the additional headers of an HTTP check.
    fn check_headers(&mut self, node: &ConfigNode<'_>) -> Arc<[(Arc<str>, Arc<str>)]> {
        let lines = self.header_lines(node, headers::check_name, &mut FirstSeen::default());
        lines.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn expect_body(&mut self, mapping: &Mapping<'_>, probe: &mut ProbeSettings) {
        let Some(node) = mapping.get("expect_body") else { return };
        if let Some(body) = self.parsed(node, "text", datagram) {
            probe.expected_body = Some(body);
        }
        if &*probe.method == "HEAD" {
            self.problem(
                node,
                Code::Conflict,
                "`expect_body` does not apply to `method: HEAD`, whose response has no body",
            )
            .help("set `method: GET`, or remove this key");
        }
    }

    /// Reads statuses such as `"200-399"`, `"200,204"` or `200`.
    fn expect_status(&mut self, node: &ConfigNode<'_>) -> Option<Arc<[(u16, u16)]>> {
        if let Value::Scalar(Scalar { kind: Kind::Integer(_), .. }) = node.tree.value {
            return self.integer(node, 100..=599).map(|status| [(status, status)].into());
        }
        self.parsed(node, "statuses like \"200-399\"", statuses)
    }
}

/// Parses a service name such as `package.Service`. Control characters are rejected, because they would break log lines.
fn service(text: &str) -> Result<Arc<str>, ValueError> {
    match text.len() {
        ..=SERVICE if !text.contains(char::is_control) => Ok(text.into()),
        ..=SERVICE => Err(ValueError::new(
            Code::BadValue,
            "is not a valid service name",
            "write it like \"package.Service\"",
        )),
        _ => Err(ValueError::new(Code::TooLarge, "is too long for a service name", "at most 256 bytes")),
    }
}

/// Parses the content of a check.
fn datagram(text: &str) -> Result<Arc<[u8]>, ValueError> {
    match text.len() {
        ..=DATAGRAM => Ok(text.as_bytes().into()),
        _ => Err(ValueError::new(Code::TooLarge, "is too long for a check", "at most 1,400 bytes")),
    }
}

/// Parses a user name or password.
fn login(text: &str) -> Result<Arc<str>, ValueError> {
    match text.len() {
        ..=LOGIN if !text.contains('\0') => Ok(text.into()),
        ..=LOGIN => Err(ValueError::new(Code::BadValue, "contains NUL", "MQTT does not allow NUL in texts")),
        _ => Err(ValueError::new(Code::TooLarge, "is too long", "at most 1,024 bytes")),
    }
}

/// Parses a list of statuses and ranges.
fn statuses(text: &str) -> Result<Arc<[(u16, u16)]>, ValueError> {
    let status = |text: &str| {
        let text = text.trim();
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|status| digits && (100..=599).contains(status))
    };
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some((status(low)?, status(high)?)).filter(|(low, high)| low <= high)
    };
    text.split(',').map(range).collect::<Option<Arc<[_]>>>().ok_or_else(|| {
        let help = "write it like \"200-399\", \"200,204\" or 200; statuses are 100 to 599";
        ValueError::new(Code::BadValue, "is not a valid list of statuses", help)
    })
}

/// Parses a path in origin form, as in a request line.
pub(crate) fn path(text: &str) -> Result<&str, ValueError> {
    let error = |reason, help| Err(ValueError::new(Code::BadValue, reason, help));
    if !text.starts_with('/') {
        return error("is not a valid path: expected `/` at the start", "write it like \"/healthz\"");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains('#') {
        return error("is not a valid path", "escape spaces, `#` and non-ASCII characters like `%20`");
    }
    if text.len() > 2048 {
        return error("is too long for a path", "at most 2,048 bytes");
    }
    Ok(text)
}

/// Parses a method in upper case.
pub(crate) fn method(text: &str) -> Result<&str, ValueError> {
    let upper = text.to_ascii_uppercase();
    match is_token(text) && text.len() <= 32 {
        true if upper == text => Ok(text),
        true => {
            Err(ValueError::new(Code::BadValue, "is not a valid method", format!("did you mean `{upper}`?")))
        }
        false => Err(ValueError::new(Code::BadValue, "is not a valid method", "write it like GET or HEAD")),
    }
}

/// Parses the value of a `Host` header.
fn host(text: &str) -> Result<Arc<str>, ValueError> {
    let value = header_value(text)?;
    match !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(value.into()),
        false => Err(ValueError::new(
            Code::BadValue,
            "is not a valid host",
            "write it like \"app.internal\" or \"app:8080\"",
        )),
    }
}
