//! The slow loop of each pool: health checks, events, alerts and snapshots.

pub(crate) mod check_thread;
pub(crate) mod driver;
pub(crate) mod monitor;
pub(crate) mod observer;
pub(crate) mod probe;
