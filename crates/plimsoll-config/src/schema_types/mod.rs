//! Shape of a configuration file as the JSON Schema describes it: every key with its description and default.
//!
//! Nothing is deserialized into these types: `check` reads the tree itself, because it reports all problems at once
//! and a serde deserializer stops at the first. A test compares the keys of both.

#![expect(dead_code, reason = "only the shape of the types is used")]

mod default_values;
mod listener;
mod load_balancer;
mod pool;
mod scalars;

use std::collections::BTreeMap;

use schemars::JsonSchema;

use self::default_values::{duration, memory_limit, percent};
use self::listener::Listener;
use self::load_balancer::LoadBalancer;
use self::pool::{DestinationForm, Pool};
use self::scalars::{Address, Bool, ConfigDuration, Share, ShareOrSize, Text, Workers};
use crate::defaults;

/// Plimsoll configuration, in the short form (`listen`, `destinations`) or the full form (`listeners`, `pools`).
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "Plimsoll configuration")]
pub(crate) struct File {
    /// Short form: address of the HTTP listener, or a list of addresses, such as `127.0.0.1:8080`, `:8080` or
    /// `unix:/path`.
    listen: Option<OneOrMany<Address>>,
    /// Short form: destinations of the only pool, which is named `default`.
    destinations: Option<Vec<DestinationForm>>,
    /// Zone in which this balancer runs. Destinations with the same `zone` are preferred while they have capacity.
    /// No zone by default.
    zone: Option<Text>,
    /// Load balancing, health check and retry settings of every pool. A pool's own block overrides them key by key.
    load_balancer: Option<LoadBalancer>,
    /// Full form: listeners with their addresses, protocols and routes.
    listeners: Option<Vec<Listener>>,
    /// Full form: pools of destinations, by pool name.
    pools: Option<BTreeMap<String, Pool>>,
    /// Number of data-plane threads, 1 to 1024, or `auto` for the number of CPUs that this process may use.
    #[schemars(extend("default" = defaults::WORKERS_AUTO))]
    workers: Option<Workers>,
    /// Shutdown behaviour of the process.
    shutdown: Option<Shutdown>,
    /// Limits on the memory of the process.
    memory: Option<Memory>,
    /// Admin plane (API, metrics, dashboard): a block, `true` for the default address, or `false` to switch it off.
    #[schemars(extend("default" = defaults::ADMIN_ENABLED))]
    admin: Option<Feature<Admin>>,
    /// Access log with one line per message: a block, `true` for standard output, or `false`.
    #[schemars(extend("default" = defaults::ACCESS_LOG_ENABLED))]
    access_log: Option<Feature<AccessLog>>,
    /// Decision log with one line per sampled balancing decision: a block, `true` for standard output, or `false`.
    #[schemars(extend("default" = defaults::DECISION_LOG_ENABLED))]
    decision_log: Option<Feature<DecisionLog>>,
}

/// Shutdown behaviour of the process.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Shutdown {
    /// Maximum time that running messages get to finish after TERM or INT; 0s to 24h.
    #[schemars(extend("default" = duration(defaults::SHUTDOWN_GRACE)))]
    grace: Option<ConfigDuration>,
}

/// Limits on the memory of the process.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Memory {
    /// Bytes that may be buffered for peers that do not read: a share of the memory that the process may use (its
    /// cgroup's, else the machine's), or a size from 1MiB on. Above it, new requests get 503 (`memory_limit`), and
    /// little more is read for the others.
    #[schemars(extend("default" = memory_limit(defaults::MAX_BUFFERED)))]
    buffered_bytes: Option<ShareOrSize>,
}

/// Admin plane: API, metrics and dashboard.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Admin {
    /// Loopback address and port of the admin plane. A configured address that is in use prevents the start.
    #[schemars(extend("default" = defaults::ADMIN.to_string()))]
    address: Option<Address>,
}

/// Access log with one line per message.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct AccessLog {
    /// Output of the access log: `stdout`, or the path of a file, which is reopened on USR1.
    #[schemars(extend("default" = defaults::LOG_PATH))]
    path: Option<Text>,
}

/// Decision log with one line per sampled balancing decision.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DecisionLog {
    /// Output of the decision log: `stdout`, or the path of a file, which is reopened on USR1.
    #[schemars(extend("default" = defaults::LOG_PATH))]
    path: Option<Text>,
    /// Share of balancing decisions that are logged, above 0% and up to 100%.
    #[schemars(extend("default" = percent(defaults::DECISION_SAMPLE)))]
    sample: Option<Share>,
}

/// A feature as `true`, `false`, or a block of settings, which also enables it.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
enum Feature<T> {
    Bool(Bool),
    Block(T),
}

/// A single value, or a list of values.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}
