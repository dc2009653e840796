//! HTTP/1 message framing with hostile input: every row of the framing table.

mod chunks;
mod fuzz;
mod requests;
mod responses;
mod truncation;
