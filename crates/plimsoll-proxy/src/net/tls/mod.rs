//! TLS on both sides: what is read from files, who is let in, who is believed.

pub(crate) mod client_config;
pub(crate) mod server_config;
pub(crate) mod tls_stream;

mod load;
mod records;

use plimsoll_config::Config;

pub use crate::net::tls::load::TlsError;
pub use crate::net::tls::server_config::Expiry;

/// Reads every certificate, key and authority of a configuration, and throws them away. Answers what cannot
/// be used, by the key it stands under.
pub fn check(config: &Config) -> Vec<(String, TlsError)> {
    let mut wrong = Vec::new();
    for l in &config.listeners {
        if let Some(Err(error)) =
            l.tls.as_ref().map(|tls| server_config::ServerTlsConfig::renewed(tls, &[], None))
        {
            wrong.push((format!("listeners.{}.tls", l.name), error));
        }
    }
    for pool in &config.pools {
        let trust = pool
            .tls
            .as_ref()
            .map(|tls| client_config::ClientTlsConfig::renewed(tls, &[], &pool.destinations, None));
        if let Some(Err(error)) = trust {
            wrong.push((format!("pools.{}.tls", pool.name), error));
        }
    }
    wrong
}
