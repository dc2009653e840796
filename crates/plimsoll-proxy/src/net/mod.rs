//! Byte streams: sockets, TLS, tunnels.

pub(crate) mod h2_io;
pub(crate) mod proxy_protocol;
pub(crate) mod stream;
pub mod tls;
pub(crate) mod tunnel;
