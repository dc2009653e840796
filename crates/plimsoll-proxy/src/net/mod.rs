//! Byte streams of connections: lookups of names, sockets, TLS, tunnels, and their adapters for HTTP/2.

pub(crate) mod flood_detector;
pub(crate) mod h2_io;
pub(crate) mod name_lookup;
pub(crate) mod proxy_protocol;
pub(crate) mod socket_options;
pub(crate) mod socket_stream;
pub(crate) mod stream;
pub mod tls;
pub(crate) mod tunnel;
