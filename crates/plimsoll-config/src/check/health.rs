//! How destinations are checked.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::health::{HealthSpec, ProbeKind};

use crate::check::headers::{header_value, is_token};
use crate::check::keys;
use crate::check::read::{Place, Reader, Wrong};
use crate::check::table::Table;
use crate::defaults;
use crate::problem::Code;
use crate::tree::{Kind, Scalar, Value};

/// Settings of checks, before it is known whether there are any: blocks are laid over one another.
#[derive(Clone, Debug)]
pub(crate) struct HealthSettings {
    check_interval: Duration,
    timeout: Duration,
    failure_threshold: u32,
    recovery_threshold: u32,
    /// `None`: nobody said how.
    asks: Option<Asks>,
    method: Arc<str>,
    path: Arc<str>,
    host: Option<Arc<str>>,
    expect: Arc<[(u16, u16)]>,
    port: Option<u16>,
    send: Arc<[u8]>,
    reply: Option<Arc<[u8]>>,
    service: Arc<str>,
    recovery: bool,
    alerting: bool,
}

/// What a check speaks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Asks {
    Tcp,
    Http,
    Grpc,
    Udp,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            check_interval: defaults::CHECK_INTERVAL,
            timeout: defaults::CHECK_TIMEOUT,
            failure_threshold: defaults::FAILURE_THRESHOLD,
            recovery_threshold: defaults::RECOVERY_THRESHOLD,
            asks: None,
            method: defaults::CHECK_METHOD.into(),
            path: defaults::CHECK_PATH.into(),
            host: None,
            expect: [defaults::CHECK_EXPECT].into(),
            port: None,
            recovery: false,
            alerting: false,
            send: Arc::default(),
            reply: None,
            service: defaults::CHECK_SERVICE.into(),
        }
    }
}

impl HealthSettings {
    /// Who passes its checks again proves itself before it is given its share.
    pub(crate) fn recovery(&self) -> bool {
        self.recovery
    }

    /// People are told when destinations and the pool go or come back.
    pub(crate) fn alerting(&self) -> bool {
        self.alerting
    }

    /// Nobody said how checks are made.
    pub(crate) fn is_by_default(&self) -> bool {
        self.asks.is_none()
    }

    pub(crate) fn spec(&self) -> HealthSpec {
        let probe = match self.asks {
            None | Some(Asks::Tcp) => ProbeKind::Tcp,
            Some(Asks::Udp) => ProbeKind::Udp { send: self.send.clone(), expect: self.reply.clone() },
            Some(Asks::Grpc) => ProbeKind::Grpc { service: self.service.clone(), host: self.host.clone() },
            Some(Asks::Http) => ProbeKind::Http {
                method: self.method.clone(),
                path: self.path.clone(),
                host: self.host.clone(),
                expect: self.expect.clone(),
            },
        };
        HealthSpec {
            check_interval: self.check_interval,
            timeout: self.timeout,
            failure_threshold: self.failure_threshold,
            recovery_threshold: self.recovery_threshold,
            probe,
            port: self.port,
        }
    }
}

/// Keys that only an HTTP check has; one of them alone asks for one. So does a `host`, but where checks are
/// made by gRPC: those have one too.
const HTTP_KEYS: [&str; 3] = ["path", "method", "expect_status"];
/// Keys that only a check over UDP has; one of them alone asks for one.
const UDP_KEYS: [&str; 2] = ["send", "expect"];
/// Bytes of a service's name.
const SERVICE: usize = 256;
/// Bytes a check sends or looks for: what fits one Ethernet frame.
const DATAGRAM: usize = 1400;

impl Reader<'_> {
    /// Lays a `health_monitoring` block over what held before.
    pub(crate) fn health_monitoring(&mut self, place: &Place<'_>, health: &mut HealthSettings) {
        let Some(table) = self.table(place, &keys::HEALTH_MONITORING) else { return };
        let get = |key| table.get(key);
        set(&mut health.check_interval, get("check_interval").and_then(|p| self.dur(p, &defaults::INTERVAL)));
        set(&mut health.timeout, get("timeout").and_then(|p| self.dur(p, &defaults::TIMEOUT)));
        let threshold = defaults::THRESHOLD;
        set(
            &mut health.failure_threshold,
            get("failure_threshold").and_then(|p| self.whole(p, threshold.clone())),
        );
        set(&mut health.recovery_threshold, get("recovery_threshold").and_then(|p| self.whole(p, threshold)));
        self.check_protocol(&table, health);
        set(&mut health.path, get("path").and_then(|p| self.parsed(p, "a path", |t| path(t).map(Arc::from))));
        set(
            &mut health.method,
            get("method").and_then(|p| self.parsed(p, "a method", |t| method(t).map(Arc::from))),
        );
        if let Some(host) = get("host").and_then(|p| self.parsed(p, "a host", host)) {
            health.host = Some(host);
        }
        set(&mut health.expect, get("expect_status").and_then(|p| self.expect_status(p)));
        if let Some(port) = get("port").and_then(|p| self.whole(p, 1..=65_535)) {
            health.port = Some(port);
        }
        set(&mut health.recovery, get("recovery_management").and_then(|p| self.switch(p)));
        set(&mut health.alerting, get("alerting").and_then(|p| self.switch(p)));
    }

    /// What a check speaks, told by its word or by a key that only one of them has.
    fn check_protocol(&mut self, table: &Table<'_>, health: &mut HealthSettings) {
        let get = |key| table.get(key);
        let words = [("tcp", Asks::Tcp), ("http", Asks::Http), ("grpc", Asks::Grpc), ("udp", Asks::Udp)];
        let protocol = get("protocol").and_then(|p| self.word(p, &words, &[]));
        let by_grpc = protocol.or(health.asks) == Some(Asks::Grpc);
        let host = get("host").filter(|_| !by_grpc);
        let of_http = HTTP_KEYS.iter().find_map(|key| get(key)).or(host);
        let of_udp = UDP_KEYS.iter().find_map(|key| get(key));
        let asks = protocol.or(of_http.map(|_| Asks::Http)).or(of_udp.map(|_| Asks::Udp));
        if let (Some(other @ (Asks::Tcp | Asks::Udp | Asks::Grpc)), Some(asked)) = (asks, of_http) {
            let message = match other {
                Asks::Udp => "a `udp` check has no path, method, host or status",
                Asks::Grpc => "a `grpc` check has no path, method or status: it asks `grpc.health.v1.Health`",
                _ => "a `tcp` check only connects: it has no path, method, host or status",
            };
            self.problem(asked, Code::Conflict, message).help("remove this key, or write `protocol: http`");
        }
        if let (Some(Asks::Tcp | Asks::Http | Asks::Grpc), Some(asked)) = (asks, of_udp) {
            let message = "only a `udp` check sends and expects a datagram";
            self.problem(asked, Code::Conflict, message).help("remove this key, or write `protocol: udp`");
        }
        if let (Some(asked), true) = (get("service"), asks.or(health.asks) != Some(Asks::Grpc)) {
            let message = "only a `grpc` check asks about a service";
            self.problem(asked, Code::Conflict, message).help("remove this key, or write `protocol: grpc`");
        }
        set(&mut health.service, get("service").and_then(|p| self.parsed(p, "a service", service)));
        if asks.is_some() {
            health.asks = asks;
        }
        let mut datagram = |key| get(key).and_then(|p| self.parsed(p, "text", datagram));
        set(&mut health.send, datagram("send"));
        if let Some(reply) = datagram("expect") {
            health.reply = Some(reply);
        }
    }

    /// `"200-399"`, `"200,204"` or `200`.
    fn expect_status(&mut self, place: &Place<'_>) -> Option<Arc<[(u16, u16)]>> {
        if let Value::Scalar(Scalar { kind: Kind::Whole(_), .. }) = place.node.value {
            return self.whole(place, 100..=599).map(|status| [(status, status)].into());
        }
        self.parsed(place, "statuses like \"200-399\"", statuses)
    }
}

/// Replaces what held before, if there is something new.
pub(crate) fn set<T>(slot: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *slot = new;
    }
}

/// A service's name, as in `package.Service`; any text is one, but what would tear a line of the log.
fn service(text: &str) -> Result<Arc<str>, Wrong> {
    match text.len() {
        ..=SERVICE if !text.contains(char::is_control) => Ok(text.into()),
        ..=SERVICE => Err(Wrong::new(
            Code::BadValue,
            "is not the name of a service",
            "write it like \"package.Service\"",
        )),
        _ => Err(Wrong::new(Code::TooLarge, "is too long for the name of a service", "at most 256 bytes")),
    }
}

fn datagram(text: &str) -> Result<Arc<[u8]>, Wrong> {
    match text.len() {
        ..=DATAGRAM => Ok(text.as_bytes().into()),
        _ => Err(Wrong::new(Code::TooLarge, "is too long for a check", "at most 1,400 bytes")),
    }
}

fn statuses(text: &str) -> Result<Arc<[(u16, u16)]>, Wrong> {
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
        Wrong::new(Code::BadValue, "is not a list of statuses", help)
    })
}

/// A path in origin form, as it may stand in a request line.
pub(crate) fn path(text: &str) -> Result<&str, Wrong> {
    let refuse = |what, help| Err(Wrong::new(Code::BadValue, what, help));
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
pub(crate) fn method(text: &str) -> Result<&str, Wrong> {
    let upper = text.to_ascii_uppercase();
    match is_token(text) && text.len() <= 32 {
        true if upper == text => Ok(text),
        true => Err(Wrong::new(Code::BadValue, "is not a method", format!("did you mean `{upper}`?"))),
        false => Err(Wrong::new(Code::BadValue, "is not a method", "write it like GET or HEAD")),
    }
}

fn host(text: &str) -> Result<Arc<str>, Wrong> {
    let value = header_value(text)?;
    match !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(value.into()),
        false => {
            Err(Wrong::new(Code::BadValue, "is not a host", "write it like \"app.internal\" or \"app:8080\""))
        }
    }
}
