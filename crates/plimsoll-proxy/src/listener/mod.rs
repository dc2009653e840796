//! Listening sockets, accepted connections, and the setup before their protocol.

pub(crate) mod accept;
pub(crate) mod accepted_connection;
pub(crate) mod adapter;
pub(crate) mod admission;
pub(crate) mod bind;
pub(crate) mod client_hello;
pub(crate) mod source_limits;
pub(crate) mod tables;
pub(crate) mod tls_accept;
pub(crate) mod waiting_connections;
pub(crate) mod worker_listener;
