//! HTTP semantics: fields, routes, methods, versions, order, and both directions at once.

mod client_variants;
mod connection_authentication;
mod connection_close;
mod duplex;
mod header_fields;
mod large_bodies;
mod local_replies;
mod pipelining;
mod routes;
