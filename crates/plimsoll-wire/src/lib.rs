//! Parsers and serializers of the wire formats that Plimsoll handles.
//!
//! Everything that reads bytes of clients and destinations is here, without sockets, clock, async runtime or
//! configuration; limits are plain values. The proxy drives these functions, the unit tests hold their properties,
//! and `fuzz/` runs them on arbitrary bytes.
//!
//! # Formats
//! | module | format | source |
//! |---|---|---|
//! | [`http1`] | request and response heads, fields, targets, bodies | RFC 9110, RFC 9112 |
//! | [`http2`] | the connection preface | RFC 9113 |
//! | [`websocket`] | the opening handshake | RFC 6455 |
//! | [`client_hello`] | TLS detection and server name | RFC 8446, RFC 6066 |
//! | [`proxy_protocol`] | headers of versions 1 and 2 | HAProxy's `proxy-protocol.txt` |
//! | [`mqtt`] | CONNECT, CONNACK, packets, outstanding responses | MQTT 3.1.1 and 5.0 |
//! | [`grpc`], [`grpc_web`] | timeouts, statuses, translation | the gRPC project's `PROTOCOL-*.md` |
//! | [`orca`] | load reports in response fields | `xds.data.orca.v3` |
//! | [`protobuf`], [`base64`] | encodings that the formats above use | protobuf's "Encoding", RFC 4648 |
//!
//! # Conventions
//! - Parsers take the bytes received so far and return `Ok(None)` while more are needed. They fail as soon as no
//!   further bytes can make the input valid.
//! - Parsing is strict: ambiguous framing is rejected, never repaired. Forwarded heads are written anew, so the
//!   next hop cannot read them differently (request smuggling).
//! - No input causes a panic or unbounded work. Parsed values borrow the input where possible.
//!
//! # Example
//! Parse a request head and decode the body behind it:
//!
//! ```
//! use std::mem::MaybeUninit;
//!
//! use plimsoll_wire::http1::{BodyReader, Framing, MAX_HEADERS, Method, RequestLimits, request};
//!
//! let bytes = b"POST /upload HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
//!                   5\r\nhello\r\n0\r\n\r\n";
//! let limits = RequestLimits { target_bytes: 8192, head_bytes: 65_536, headers: 100 };
//!
//! let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
//! let (head, headers) = request::parse(bytes, &mut slots, &limits)?.expect("a complete head");
//! assert_eq!((head.method, head.target.path(), head.host), (Method::Post, "/upload", &b"example.com"[..]));
//! assert_eq!((head.framing, headers.len()), (Framing::Chunked, 2));
//!
//! let mut body = BodyReader::new(head.framing);
//! let mut rest = bytes[head.len..].to_vec();
//! let decoded = body.decode(&mut rest)?;
//! assert_eq!(&rest[decoded.data], b"hello");
//! assert!(body.is_done() && decoded.consumed == rest.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

pub mod base64;
pub mod client_hello;
mod detection;
pub mod field_names;
pub mod grpc;
pub mod grpc_web;
mod header_edits;
pub mod http1;
pub mod http2;
pub mod mqtt;
pub mod orca;
pub mod protobuf;
pub mod proxy_protocol;
pub mod websocket;

pub use self::detection::Detection;
