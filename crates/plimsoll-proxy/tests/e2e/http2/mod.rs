//! HTTP/2 on either side, and translation between HTTP/2 and HTTP/1.

mod alpn;
mod destinations;
mod grpc_health;
mod grpc_retries;
mod grpc_web;
mod translation;
mod websocket;
