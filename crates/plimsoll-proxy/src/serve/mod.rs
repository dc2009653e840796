//! Protocols of the client's side.

pub(crate) mod detect;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod h2_connection;
pub(crate) mod h2_server_stream;
pub(crate) mod http;
mod linger;
pub(crate) mod mqtt;
pub(crate) mod tcp;
pub(crate) mod udp;
