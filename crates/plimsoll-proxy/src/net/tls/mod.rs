//! TLS of listeners and pools: configuration, files, and streams.

pub(crate) mod client_config;
pub(crate) mod server_config;
pub(crate) mod tls_stream;

mod certificate;
mod client_verifier;
mod load;
mod records;

use plimsoll_config::Config;

pub use crate::net::tls::load::TlsError;
pub use crate::net::tls::server_config::Expiry;

/// Loads all certificates, keys and authorities of a configuration, and returns the errors by configuration key.
pub fn check(config: &Config) -> Vec<(String, TlsError)> {
    let mut errors = Vec::new();
    for l in &config.listeners {
        if let Some(Err(error)) =
            l.tls.as_ref().map(|tls| server_config::ServerTlsConfig::renewed(tls, &[], None))
        {
            errors.push((format!("listeners.{}.tls", l.name), error));
        }
    }
    for pool in &config.pools {
        let trust = pool
            .tls
            .as_ref()
            .map(|tls| client_config::ClientTlsConfig::renewed(tls, &[], &pool.destinations, None));
        if let Some(Err(error)) = trust {
            errors.push((format!("pools.{}.tls", pool.name), error));
        }
    }
    errors
}
