//! HTTP/2 clients: what crosses to HTTP/1 and back.

mod again;
mod checks;
mod choice;
mod crossing;
mod destinations;
mod web;
mod websocket;
