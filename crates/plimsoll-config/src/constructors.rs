//! Constructors of the model that set each field to its default.

use std::sync::Arc;

use plimsoll_core::Name;
use plimsoll_core::balance::Algorithm;
use plimsoll_core::health::LoadSpec;
use plimsoll_core::snapshot::TierSpec;

use crate::defaults;
use crate::model::{
    CertificateFiles, ClientAuth, ClientTls, Config, Destination, DestinationAddress, GrpcWeb, HeaderEdits,
    ListenAddress, Listener, Pool, PoolProtocol, Protocol, ProxyProtocol, ServerTls, TlsVersion, UnixFile,
};

impl Config {
    /// Creates a configuration without admin plane and logs.
    pub fn new(listeners: Vec<Listener>, pools: Vec<Pool>) -> Self {
        Self {
            workers: None,
            shutdown_grace: defaults::SHUTDOWN_GRACE,
            max_buffered: defaults::MAX_BUFFERED,
            listeners: listeners.into_iter().map(Arc::new).collect(),
            pools: pools.into_iter().map(Arc::new).collect(),
            admin: None,
            access_log: None,
            decision_log: None,
        }
    }
}

impl Listener {
    /// Creates a listener with default timeouts and limits that sends every message to the first pool.
    pub fn new(name: impl Into<Name>, addresses: Vec<ListenAddress>, protocol: Protocol) -> Self {
        Self {
            name: name.into(),
            addresses,
            protocol,
            unix: UnixFile::default(),
            tcp: defaults::TCP,
            tls: None,
            accepts_proxy_protocol: defaults::ACCEPTS_PROXY_PROTOCOL,
            trusted_proxies: Vec::new(),
            timeouts: defaults::CLIENT_TIMEOUTS,
            limits: defaults::LIMITS,
            udp: defaults::UDP,
            mqtt: defaults::MQTT,
            via: defaults::VIA,
            half_close: defaults::HALF_CLOSE,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            routes: Vec::new(),
            pool: Some(0),
        }
    }
}

impl Pool {
    /// Creates a pool with the defaults of the configuration, but without health checks and alerts.
    pub fn new(name: impl Into<Name>, algorithm: Algorithm, destinations: Vec<Destination>) -> Self {
        Self {
            name: name.into(),
            algorithm,
            hash: defaults::HASH,
            hash_key: defaults::HASH_KEY,
            formula: None,
            load: LoadSpec::default(),
            orca: defaults::ORCA,
            caching: defaults::CACHING,
            health: None,
            parallel_checks: defaults::PARALLEL_CHECKS,
            outlier: defaults::OUTLIER,
            retry: defaults::retry(),
            tiers: TierSpec::default(),
            hedge: None,
            slow_start: None,
            panic_threshold: defaults::PANIC_THRESHOLD,
            recovery: defaults::RECOVERY_MANAGEMENT,
            alerting: defaults::ALERTING,
            quality_metrics: defaults::QUALITY_METRICS,
            protocol: PoolProtocol::default(),
            proxy_protocol: ProxyProtocol::default(),
            grpc_web: GrpcWeb::default(),
            tls: None,
            tcp: defaults::TCP,
            timeouts: defaults::DESTINATION_TIMEOUTS,
            limits: defaults::POOL_LIMITS,
            wait: defaults::WAIT,
            resolve_every: defaults::RESOLVE_EVERY,
            destinations,
        }
    }
}

/// The system's authorities, the host of the address, no client certificate.
impl Default for ClientTls {
    fn default() -> Self {
        Self { ca: None, server_name: None, identity: None, verify: defaults::VERIFY_DESTINATIONS }
    }
}

impl Destination {
    /// Creates a destination of weight 1 in the first tier.
    pub fn new(name: impl Into<Name>, address: DestinationAddress) -> Self {
        Self {
            name: name.into(),
            address,
            weight: defaults::WEIGHT,
            priority: defaults::PRIORITY,
            zone: None,
            labels: Default::default(),
            limits: defaults::DESTINATION_LIMITS,
        }
    }
}

impl ServerTls {
    /// Creates a TLS termination with these certificates, for clients without certificates.
    pub fn new(certificates: Vec<CertificateFiles>) -> Self {
        Self {
            certificates,
            client_auth: ClientAuth::None,
            client_crl: None,
            min_version: TlsVersion::default(),
            strict_host: defaults::STRICT_HOST,
        }
    }
}
