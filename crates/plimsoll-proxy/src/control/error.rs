//! Why a configuration was not put to work.

use std::fmt;
use std::io;

use plimsoll_config::Problem;
use plimsoll_core::Name;

use crate::net::tls::TlsError;

/// Why there is no configuration to put to work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvalidConfig {
    /// For people: the words of `plimsoll check`.
    pub text: String,
    /// For programs; empty when nothing could be read at all.
    pub problems: Vec<Problem>,
}

impl From<&str> for InvalidConfig {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), problems: Vec::new() }
    }
}

/// Why a configuration could not be put to work. Nothing of it was.
#[derive(Debug)]
pub enum StartError {
    /// A destination's name did not resolve.
    Resolve {
        /// The pool.
        pool: Name,
        /// The destination.
        destination: Name,
        /// What the resolver said.
        error: io::Error,
    },
    /// A listener's address could not be bound.
    Bind {
        /// The listener.
        listener: Name,
        /// The address.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// A certificate, a key or an authority cannot be used.
    Tls {
        /// The listener or the pool.
        place: String,
        /// What is wrong with which file.
        error: TlsError,
    },
    /// A protocol that is not among the adapters.
    Protocol {
        /// The listener.
        listener: Name,
        /// What it was to speak.
        word: String,
    },
    /// A check that is not among the program's own.
    Check {
        /// The pool.
        pool: Name,
        /// What its checks were to speak.
        word: String,
    },
    /// A thread or a file of our own.
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { pool, destination, error } => {
                write!(f, "pool {pool}: destination {destination} cannot be resolved: {error}")
            }
            Self::Bind { listener, address, error } => {
                write!(f, "listener {listener}: cannot listen on {address}: {error}")
            }
            Self::Tls { place, error } => write!(f, "{place}: {error}"),
            Self::Protocol { listener, word } => {
                write!(f, "listener {listener}: nobody here transport the protocol `{word}`")
            }
            Self::Check { pool, word } => write!(f, "pool {pool}: nobody here checks by `{word}`"),
            Self::System { what, error } => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a reload was refused; the old configuration goes on.
#[derive(Debug)]
pub enum ReloadError {
    /// The file is not valid, in the words of `plimsoll check`.
    Invalid(InvalidConfig),
    /// It is, and cannot be put to work here.
    Start(StartError),
    /// The proxy is shutting down.
    Draining,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) => f.write_str(&invalid.text),
            Self::Start(error) => error.fmt(f),
            Self::Draining => f.write_str("the proxy is shutting down"),
        }
    }
}

impl std::error::Error for ReloadError {}
