//! What a check asks by: its protocol, told by its word or by a key that only one of them has.

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

/// Keys that only one kind of check has, and what they say of a check that is of another kind. One of them alone
/// asks for a check of its kind; but a `host` beside `protocol: grpc` is a good key, too.
const OF_HTTP: Of = Of {
    asks: CheckProtocol::Http,
    keys: &["path", "method", "expect_status", "headers", "expect_body"],
    message: "only an `http` check has a path, method, headers, status or body",
    help: "remove this key, or write `protocol: http`",
};
const OF_UDP: Of = Of {
    asks: CheckProtocol::Udp,
    keys: &["send", "expect"],
    message: "only a `udp` check sends and expects a datagram",
    help: "remove this key, or write `protocol: udp`",
};
const OF_GRPC: Of = Of {
    asks: CheckProtocol::Grpc,
    keys: &["service"],
    message: "only a `grpc` check asks about a service",
    help: "remove this key, or write `protocol: grpc`",
};
const OF_MQTT: Of = Of {
    asks: CheckProtocol::Mqtt,
    keys: &["username", "password"],
    message: "only an `mqtt` check has a name and a password",
    help: "remove this key, or write `protocol: mqtt`",
};

struct Of {
    asks: CheckProtocol,
    keys: &'static [&'static str],
    message: &'static str,
    help: &'static str,
}

/// Bytes of a service's name.
const SERVICE: usize = 256;
/// Bytes a check sends or looks for: what fits one Ethernet frame.
const DATAGRAM: usize = 1400;
/// Bytes of a name or a password; MQTT allows 65,535.
const LOGIN: usize = 1024;

impl Reader<'_> {
    /// Lays the keys that say what checks ask over what held before.
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
            self.problem(node, Code::MissingKey, "a password without a name")
                .help("MQTT 3.1.1 sends a password only with a `username`");
        }
    }

    fn probe_protocol(&mut self, mapping: &Mapping<'_>, probe: &mut ProbeSettings) {
        let words: Vec<(&str, CheckProtocol)> = [
            ("tcp", CheckProtocol::Tcp),
            ("http", CheckProtocol::Http),
            ("grpc", CheckProtocol::Grpc),
            ("udp", CheckProtocol::Udp),
            ("mqtt", CheckProtocol::Mqtt),
        ]
        .into_iter()
        .chain(self.extensions.checks.iter().map(|&word| (word, CheckProtocol::Other(word))))
        .collect();
        let told = mapping.get("protocol").and_then(|p| self.keyword(p, &words, &[]));
        let given = |of: &Of| of.keys.iter().find_map(|key| mapping.get(key));
        let host = mapping.get("host");
        let by_host = host.filter(|_| !matches!(told.or(probe.protocol), Some(CheckProtocol::Grpc)));
        let implied = given(&OF_HTTP).or(by_host).map(|_| CheckProtocol::Http);
        let asks = told.or(implied).or(given(&OF_UDP).map(|_| CheckProtocol::Udp));
        for of in [&OF_HTTP, &OF_UDP, &OF_GRPC, &OF_MQTT] {
            // What nobody chose may still be chosen by a pool's own block; a service or a name chooses nothing.
            let chosen = match of.asks {
                CheckProtocol::Http | CheckProtocol::Udp => asks,
                _ => Some(asks.or(probe.protocol).unwrap_or(CheckProtocol::Tcp)),
            };
            let key = given(of).or(by_host.filter(|_| of.asks == CheckProtocol::Http));
            if let (Some(node), Some(chosen)) = (key, chosen)
                && chosen != of.asks
            {
                self.problem(node, Code::Conflict, of.message).help(of.help);
            }
        }
        if asks.is_some() {
            probe.protocol = asks;
        }
    }

    /// Further lines of an HTTP check.
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
            self.problem(node, Code::Conflict, "the answer to a HEAD request has no body")
                .help("make the `method` GET, or remove this key");
        }
    }

    /// `"200-399"`, `"200,204"` or `200`.
    fn expect_status(&mut self, node: &ConfigNode<'_>) -> Option<Arc<[(u16, u16)]>> {
        if let Value::Scalar(Scalar { kind: Kind::Integer(_), .. }) = node.tree.value {
            return self.integer(node, 100..=599).map(|status| [(status, status)].into());
        }
        self.parsed(node, "statuses like \"200-399\"", statuses)
    }
}

/// A service's name, as in `package.Service`; any text is one, but what would tear a line of the log.
fn service(text: &str) -> Result<Arc<str>, ValueError> {
    match text.len() {
        ..=SERVICE if !text.contains(char::is_control) => Ok(text.into()),
        ..=SERVICE => Err(ValueError::new(
            Code::BadValue,
            "is not the name of a service",
            "write it like \"package.Service\"",
        )),
        _ => {
            Err(ValueError::new(Code::TooLarge, "is too long for the name of a service", "at most 256 bytes"))
        }
    }
}

fn datagram(text: &str) -> Result<Arc<[u8]>, ValueError> {
    match text.len() {
        ..=DATAGRAM => Ok(text.as_bytes().into()),
        _ => Err(ValueError::new(Code::TooLarge, "is too long for a check", "at most 1,400 bytes")),
    }
}

fn login(text: &str) -> Result<Arc<str>, ValueError> {
    match text.len() {
        ..=LOGIN if !text.contains('\0') => Ok(text.into()),
        ..=LOGIN => Err(ValueError::new(Code::BadValue, "holds a NUL", "MQTT allows none in texts")),
        _ => Err(ValueError::new(Code::TooLarge, "is too long", "at most 1,024 bytes")),
    }
}

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
        ValueError::new(Code::BadValue, "is not a list of statuses", help)
    })
}

/// A path in origin form, as it may stand in a request line.
pub(crate) fn path(text: &str) -> Result<&str, ValueError> {
    let refuse = |what, help| Err(ValueError::new(Code::BadValue, what, help));
    if !text.starts_with('/') {
        return refuse("is not a path: it does not start with `/`", "write it like \"/healthz\"");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains('#') {
        return refuse("is not a path", "blanks, `#` and letters outside ASCII are written like `%20`");
    }
    if text.len() > 2048 {
        return refuse("is too long for a path", "at most 2,048 bytes");
    }
    Ok(text)
}

/// A method, upper case as they all are.
pub(crate) fn method(text: &str) -> Result<&str, ValueError> {
    let upper = text.to_ascii_uppercase();
    match is_token(text) && text.len() <= 32 {
        true if upper == text => Ok(text),
        true => Err(ValueError::new(Code::BadValue, "is not a method", format!("did you mean `{upper}`?"))),
        false => Err(ValueError::new(Code::BadValue, "is not a method", "write it like GET or HEAD")),
    }
}

fn host(text: &str) -> Result<Arc<str>, ValueError> {
    let value = header_value(text)?;
    match !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(value.into()),
        false => Err(ValueError::new(
            Code::BadValue,
            "is not a host",
            "write it like \"app.internal\" or \"app:8080\"",
        )),
    }
}
