//! Parsers and serializers of the wire formats that Plimsoll handles.

pub mod base64;
pub mod client_hello;
mod detection;
pub mod grpc;
pub mod grpc_web;
pub mod http1;
pub mod http2;
pub mod mqtt;
pub mod orca;
pub mod protobuf;
pub mod proxy_protocol;
pub mod websocket;

pub use self::detection::Detection;
