//! HTTP/2 clients: what crosses to HTTP/1 and back.

mod alpn;
mod destinations;
mod grpc_health;
mod grpc_retries;
mod grpc_web;
mod translation;
mod websocket;
