//! The atomics of the parts that loom checks: loom's under `--cfg loom`, otherwise those of the standard library.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, Ordering};
