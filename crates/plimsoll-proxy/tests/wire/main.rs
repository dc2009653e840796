//! What the proxy does on the wire: raw bytes in, raw bytes out, between a client and destinations of the tests.

mod balancing;
mod checks;
mod decisions;
mod detect;
mod failover;
mod framing;
mod hedging;
mod http2;
mod kit;
mod life;
mod limits;
mod log;
mod mqtt;
mod orca;
mod pool_limits;
mod proxy_protocol;
mod semantics;
mod tcp;
mod terms;
mod tls;
mod udp;
