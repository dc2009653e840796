//! A worker's side of a pool: connections to destinations, their limits, and the queue for them.

pub(crate) mod chosen;
pub(crate) mod connection_limit;
pub(crate) mod dedicated;
pub(crate) mod h2_client_stream;
pub(crate) mod h2_connections;
pub(crate) mod hedge_delay;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod table;
pub(crate) mod upstream_stream;
pub(crate) mod wait_queue;
