//! JSON Schemas of scalar values.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A text that holds the value of a variable; what it is can be known only when it is resolved.
const VARIABLE: &str = r"\$\{";

/// A value told by its schema alone.
macro_rules! value {
    ($(#[doc = $doc:literal] $name:ident = $schema:expr;)*) => {$(
        #[doc = $doc]
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

value! {
    /// Any text.
    Text = json_schema!({"type": "string"});
    /// Host and port, or a Unix socket.
    Address = json_schema!({"type": "string", "pattern": format!(r":\d+$|^unix:.|{VARIABLE}")});
    /// A duration with a unit.
    ConfigDuration = pattern(r"^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d))+$");
    /// A duration with a unit, or none.
    DurationOrNone = pattern(r"^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d))+$|^none$");
    /// How a destination is taken that no check has asked yet.
    Start = keywords(&["serving", "down"]);
    /// How often.
    Rate = pattern(r"^\d+(\.\d+)?/[smh]$");
    /// A share of the whole.
    Share = or_text(json!({"type": "number", "minimum": 0, "maximum": 1}), r"^\d+(\.\d+)?%$|^[01](\.\d+)?$");
    /// Bytes with a unit, or 0.
    Size = or_text(json!({"const": 0}), r"^\d+(\.\d+)?(B|KB|kB|MB|GB|KiB|MiB|GiB)$|^0$");
    /// A switch.
    Bool = or_variable(json!({"type": "boolean"}));
    /// Statuses of HTTP.
    Status = or_text(json!({"type": "integer", "minimum": 100, "maximum": 599}), r"^\d{3}(-\d{3})?(,\d{3}(-\d{3})?)*$");
    /// `auto` or a number of threads.
    Workers = or_text(json!({"type": "integer", "minimum": 1, "maximum": 1024}), "^auto$");
    /// `none` or a whole number above 0.
    IntegerOrNone = or_text(json!({"type": "integer", "minimum": 1, "maximum": 1_000_000}), "^none$");
    /// Which destination takes a message.
    Algorithm = keywords(&plimsoll_core::balance::Algorithm::ALL.map(plimsoll_core::balance::Algorithm::name));
    /// How long a message waits alone.
    HedgeAfter = pattern(r"^p\d{2}(\.\d+)?$|^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d))+$");
    /// What messages are hashed by.
    HashKey = pattern(r"^(source|path|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+|(cookie|query):[!-~]+)$");
    /// How keys find destinations.
    HashTable = keywords(&["ring", "maglev", "rendezvous"]);
    /// What a destination may have in flight beside its share.
    Bound = pattern(r"^\d+%$|^none$");
    /// What a tier may lose before it overflows.
    Overprovision = pattern(r"^\d+%$|^none$");
    /// Where a message goes that nobody of its subset takes.
    SubsetFallback = keywords(&["none", "any"]);
    /// What keys are spread over.
    ZoneKeys = keywords(&["pool", "zone"]);
    /// What a listener speaks.
    ListenerProtocol = keywords(&["http", "https", "tcp", "tls", "udp", "mqtt", "auto"]);
    /// What the datagrams of one client have in common.
    UdpFlow = keywords(&["source", "datagram"]);
    /// Whether clients must show a certificate.
    ClientAuth = keywords(&["none", "optional", "required"]);
    /// A version of TLS.
    TlsVersion = keywords(&["1.2", "1.3"]);
    /// What a pool speaks.
    PoolProtocol = keywords(&["http1", "http2", "auto"]);
    /// What becomes of calls of gRPC-Web.
    GrpcWeb = keywords(&["translate", "pass"]);
    /// How a check asks.
    CheckProtocol = keywords(&["tcp", "http", "grpc", "udp", "mqtt"]);
    /// Whether PROXY headers come.
    AcceptProxyProtocol = keywords(&["none", "accept"]);
    /// PROXY headers to destinations.
    ProxyProtocol = keywords(&["none", "v1", "v2"]);
    /// What performance monitoring measures.
    Metric = keywords(&["response_time", "throughput", "error_rate", "availability"]);
    /// What is worth another try.
    RetryWhen = pattern(
        r"^(connect_failure|reset|empty_response|timeout|status:[45]\d\d|grpc:(CANCELLED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL|UNAVAILABLE))$",
    );
}

fn pattern(pattern: &str) -> Schema {
    json_schema!({"type": "string", "pattern": format!("{pattern}|{VARIABLE}")})
}

fn or_text(number: Value, pattern: &str) -> Schema {
    json_schema!({"anyOf": [number, {"type": "string", "pattern": format!("{pattern}|{VARIABLE}")}]})
}

fn keywords(keywords: &[&str]) -> Schema {
    or_variable(json!({"enum": keywords}))
}

fn or_variable(value: Value) -> Schema {
    json_schema!({"anyOf": [value, {"type": "string", "pattern": VARIABLE}]})
}

/// A whole number within bounds.
pub(crate) struct Integer<const LOW: i64, const HIGH: i64>;

impl<const LOW: i64, const HIGH: i64> JsonSchema for Integer<LOW, HIGH> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Integer{LOW}To{HIGH}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        or_variable(json!({"type": "integer", "minimum": LOW, "maximum": HIGH}))
    }
}
