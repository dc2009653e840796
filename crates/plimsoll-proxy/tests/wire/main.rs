//! What the proxy does on the wire: raw bytes in, raw bytes out, between a client and destinations of the tests.

mod framing;
mod kit;
mod limits;
mod semantics;
