//! HTTP parts that the parsers of `plimsoll-wire` and the sockets need: local replies, header edits,
//! translations.

pub(crate) mod h2_frames;
pub(crate) mod h2_head;
pub(crate) mod header_edits;
pub(crate) mod local_reply;
pub(crate) mod orca;
pub(crate) mod request_facts;

use plimsoll_config::model::Limits;
use plimsoll_wire::http1::RequestLimits;

/// Returns the limits of a request head as the parser takes them.
pub(crate) const fn request_limits(limits: &Limits) -> RequestLimits {
    RequestLimits { target_bytes: limits.uri_bytes, head_bytes: limits.header_bytes, headers: limits.headers }
}
