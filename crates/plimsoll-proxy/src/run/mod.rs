//! Data-plane threads, and the registry of protocols they serve.

pub(crate) mod registry;
pub(crate) mod worker;
pub(crate) mod worker_thread;
