//! Where messages begin and end, however hostile: every row of the HTTP/1 framing table.

mod answers;
mod chunks;
mod fuzz;
mod requests;
mod truncation;
