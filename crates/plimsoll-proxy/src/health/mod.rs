//! The slow loop around a pool, and active health checks.

pub(crate) mod driver;
pub(crate) mod monitor;
pub(crate) mod observer;
pub(crate) mod probe;
