//! End-to-end tests of the proxy: a raw client, the proxy, and destinations that record every byte.

mod access_log;
mod attempts;
mod balancing;
mod connection_lifetime;
mod decision_log;
mod failover;
mod framing;
mod health_checks;
mod hedging;
mod host_names;
mod http2;
mod kit;
mod limits;
mod mqtt;
mod orca;
mod pool_limits;
mod protocol_detection;
mod proxy_protocol;
mod reload_and_drain;
mod semantics;
mod tcp;
mod tls;
mod udp;
