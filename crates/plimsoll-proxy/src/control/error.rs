//! Errors of starting and reloading a configuration.

use std::error::Error;
use std::fmt;
use std::io;

use plimsoll_config::Problem;
use plimsoll_core::Name;

use crate::net::tls::TlsError;

/// A configuration that cannot be read or is not valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvalidConfig {
    /// Human-readable problems, as `plimsoll check` reports them.
    pub text: String,
    /// Machine-readable problems; empty if the configuration could not be read.
    pub problems: Vec<Problem>,
}

impl From<&str> for InvalidConfig {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), problems: Vec::new() }
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for InvalidConfig {}

/// Why a configuration could not be applied. No part of it is in force.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The address of a listener could not be bound.
    #[non_exhaustive]
    Bind {
        /// Name of the listener.
        listener: Name,
        /// Address of the listener.
        address: String,
        /// Error of the operating system.
        error: io::Error,
    },
    /// A certificate, key or authority cannot be used.
    #[non_exhaustive]
    Tls {
        /// Listener or pool that uses it.
        place: String,
        /// Problem with the file.
        error: TlsError,
    },
    /// The protocol of a listener is not registered.
    #[non_exhaustive]
    UnknownProtocol {
        /// Name of the listener.
        listener: Name,
        /// Name of the protocol.
        protocol: String,
    },
    /// The health check of a pool is not registered.
    #[non_exhaustive]
    UnknownCheck {
        /// Name of the pool.
        pool: Name,
        /// Name of the check.
        check: String,
    },
    /// A thread or a log could not be started.
    #[non_exhaustive]
    System {
        /// Operation that failed.
        what: &'static str,
        /// Error of the operating system.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { listener, address, error } => {
                write!(f, "listener {listener}: cannot listen on {address}: {error}")
            }
            Self::Tls { place, error } => write!(f, "{place}: {error}"),
            Self::UnknownProtocol { listener, protocol } => {
                write!(f, "listener {listener}: unknown protocol `{protocol}`")
            }
            Self::UnknownCheck { pool, check } => write!(f, "pool {pool}: unknown health check `{check}`"),
            Self::System { what, error } => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Bind { error, .. } | Self::System { error, .. } => Some(error),
            Self::Tls { error, .. } => Some(error),
            Self::UnknownProtocol { .. } | Self::UnknownCheck { .. } => None,
        }
    }
}

/// Why a reload was rejected. The old configuration stays in force.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReloadError {
    /// The configuration is not valid.
    Invalid(InvalidConfig),
    /// The configuration is valid and cannot be applied.
    Start(StartError),
    /// The proxy is draining.
    Draining,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Draining => f.write_str("the proxy is shutting down"),
        }
    }
}

impl Error for ReloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Invalid(invalid) => Some(invalid),
            Self::Start(error) => Some(error),
            Self::Draining => None,
        }
    }
}
