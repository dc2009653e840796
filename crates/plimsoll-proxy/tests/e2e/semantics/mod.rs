//! What messages mean on their way through: fields, routes, methods, versions, order, both directions at once.

mod client_variants;
mod connection_close;
mod duplex;
mod header_fields;
mod large_bodies;
mod local_replies;
mod pipelining;
mod routes;
