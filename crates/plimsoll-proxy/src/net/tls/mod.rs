//! TLS of listeners and pools: configuration, files, and streams.

pub(crate) mod client_config;
pub(crate) mod server_config;
pub(crate) mod tls_stream;

mod certificate;
mod client_verifier;
mod load;
mod records;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use plimsoll_config::Config;

pub use crate::net::tls::load::TlsError;
pub use crate::net::tls::server_config::Expiry;

/// Returns the files with private keys of `config` that every user of the machine can read, with the paths of their
/// keys. Files that cannot be examined are left out.
pub fn exposed_keys(config: &Config) -> Vec<(String, PathBuf)> {
    let of_listeners = config.listeners.iter().flat_map(|l| {
        let pairs = l.tls.iter().flat_map(|tls| &tls.certificates);
        pairs.map(move |pair| (format!("listeners.{}.tls.certificates", l.name), &pair.key))
    });
    let of_pools = config.pools.iter().filter_map(|pool| {
        let pair = pool.tls.as_ref()?.identity.as_ref()?;
        Some((format!("pools.{}.tls.key", pool.name), &pair.key))
    });
    let exposed =
        |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0);
    let all = of_listeners.chain(of_pools).filter(|(_, path)| exposed(path));
    all.map(|(key, path)| (key, path.clone())).collect()
}

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
