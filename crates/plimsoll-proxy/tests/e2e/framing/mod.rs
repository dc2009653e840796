//! Where messages begin and end, however hostile: every row of the HTTP/1 framing table.

mod chunks;
mod fuzz;
mod requests;
mod responses;
mod truncation;
