//! JSON Schemas of scalar values.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::model;

/// Pattern of a text with a variable. Its value is known only when the variable is resolved.
const VARIABLE: &str = r"\$\{";

/// Defines a unit type for each scalar, with its JSON Schema.
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
    /// A text without restrictions.
    Text = json_schema!({"type": "string"});
    /// Host and port, or a Unix socket.
    Address = json_schema!({"type": "string", "pattern": format!(r":\d+$|^unix:.|{VARIABLE}")});
    /// A duration with a unit.
    ConfigDuration = pattern(r"^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d))+$");
    /// A duration with a unit, or `none`.
    DurationOrNone = pattern(r"^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d))+$|^none$");
    /// Permission bits of a file.
    FileMode = pattern("^0?[0-7]{3}$");
    /// Status of a destination before its first check.
    Start = keywords(&["serving", "down"]);
    /// Events per second, minute or hour.
    Rate = pattern(r"^\d+(\.\d+)?/[smh]$");
    /// Bytes per second, or 0.
    ByteRate = or_text(json!({"const": 0}), r"^\d+(\.\d+)?(B|KB|kB|MB|GB|KiB|MiB|GiB)/s$|^0$");
    /// A share in percent, or a number from 0 to 1.
    Share = or_text(json!({"type": "number", "minimum": 0, "maximum": 1}), r"^\d+(\.\d+)?%$|^[01](\.\d+)?$");
    /// A number of bytes with a unit, or 0.
    Size = or_text(json!({"const": 0}), r"^\d+(\.\d+)?(B|KB|kB|MB|GB|KiB|MiB|GiB)$|^0$");
    /// A share in percent, or a number of bytes with a unit.
    ShareOrSize = pattern(r"^\d+(\.\d+)?(%|B|KB|kB|MB|GB|KiB|MiB|GiB)$");
    /// A boolean value.
    Bool = or_variable(json!({"type": "boolean"}));
    /// HTTP statuses, as ranges or a list.
    Status = or_text(json!({"type": "integer", "minimum": 100, "maximum": 599}), r"^\d{3}(-\d{3})?(,\d{3}(-\d{3})?)*$");
    /// `auto` or a number of threads.
    Workers = or_text(json!({"type": "integer", "minimum": 1, "maximum": 1024}), "^auto$");
    /// `none` or a whole number above 0.
    IntegerOrNone = or_text(json!({"type": "integer", "minimum": 1, "maximum": 1_000_000}), "^none$");
    /// A load balancing algorithm.
    Algorithm = keywords(&plimsoll_core::balance::Algorithm::ALL.map(plimsoll_core::balance::Algorithm::name));
    /// Delay before a hedged attempt.
    HedgeAfter = pattern(r"^p\d{2}(\.\d+)?$|^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d))+$");
    /// Key of consistent hashing.
    HashKey = pattern(r"^(source|path|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+|(cookie|query):[!-~]+)$");
    /// Table of consistent hashing.
    HashTable = keywords(&["ring", "maglev", "rendezvous"]);
    /// Bound of the load of a destination in consistent hashing.
    Bound = pattern(r"^\d+%$|^none$");
    /// Overprovisioning factor of a priority tier.
    Overprovision = pattern(r"^\d+%$|^none$");
    /// Fallback of a route with a subset.
    SubsetFallback = keywords(&["none", "any"]);
    /// Destinations that hash keys are spread over.
    ZoneKeys = keywords(&["pool", "zone"]);
    /// Protocol of a listener.
    ListenerProtocol = keywords(&["http", "https", "tcp", "tls", "udp", "mqtt", "auto"]);
    /// Scope of a balancing decision for datagrams.
    UdpFlow = keywords(&model::UdpFlow::ALL.map(model::UdpFlow::as_str));
    /// Requirement of client certificates.
    ClientAuth = keywords(&["none", "optional", "required"]);
    /// A TLS version.
    TlsVersion = keywords(&model::TlsVersion::ALL.map(model::TlsVersion::as_str));
    /// HTTP version to destinations.
    PoolProtocol = keywords(&model::PoolProtocol::ALL.map(model::PoolProtocol::as_str));
    /// Handling of gRPC-Web calls.
    GrpcWeb = keywords(&model::GrpcWeb::ALL.map(model::GrpcWeb::as_str));
    /// Protocol of health checks.
    CheckProtocol = keywords(&["tcp", "http", "grpc", "udp", "mqtt"]);
    /// PROXY protocol of accepted connections.
    AcceptProxyProtocol = keywords(&["none", "accept"]);
    /// PROXY protocol version to destinations.
    ProxyProtocol = keywords(&model::ProxyProtocol::ALL.map(model::ProxyProtocol::as_str));
    /// A metric of performance monitoring.
    Metric = keywords(&["response_time", "throughput", "error_rate", "availability"]);
    /// A retry condition.
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
