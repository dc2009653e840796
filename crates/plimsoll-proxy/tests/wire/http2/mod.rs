//! HTTP/2 clients: what crosses to HTTP/1 and back.

mod choice;
mod crossing;
mod destinations;
mod websocket;
