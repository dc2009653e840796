//! TLS on both sides: what is read from files, who is let in, who is believed.

pub(crate) mod enter;
mod load;
mod records;
pub(crate) mod stream;
pub(crate) mod trust;
pub(crate) mod turnstile;
pub(crate) mod vouch;

use plimsoll_config::Config;

pub use self::load::TlsError;
pub use self::vouch::Expiry;

/// Reads every certificate, key and authority of a configuration, and throws them away. Answers what cannot
/// be used, by the key it stands under.
pub fn check(config: &Config) -> Vec<(String, TlsError)> {
    let mut wrong = Vec::new();
    for l in &config.listeners {
        if let Some(Err(error)) = l.tls.as_ref().map(|tls| vouch::Voucher::renewed(tls, &[], None)) {
            wrong.push((format!("listeners.{}.tls", l.name), error));
        }
    }
    for pool in &config.pools {
        let trust = pool.tls.as_ref().map(|tls| trust::Trust::renewed(tls, &[], &pool.destinations, None));
        if let Some(Err(error)) = trust {
            wrong.push((format!("pools.{}.tls", pool.name), error));
        }
    }
    wrong
}
