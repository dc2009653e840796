//! What joins the HTTP parsers of `plimsoll-wire` and the sockets: local replies, header edits, translations.

pub(crate) mod body;
pub(crate) mod fields;
pub(crate) mod h2_frames;
pub(crate) mod h2_head;
pub(crate) mod header_edits;
pub(crate) mod local_reply;
pub(crate) mod orca;
#[cfg(test)]
pub(crate) mod properties;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod target;
