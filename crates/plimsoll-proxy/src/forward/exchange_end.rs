//! The ways an exchange can end.

use plimsoll_core::Failure;

use crate::http::local_reply::LocalReply;

/// How an exchange ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExchangeEnd {
    /// The response was delivered to its end.
    Delivered,
    /// The destination switched protocols; a tunnel follows.
    Upgraded,
    /// The destination failed.
    Failed(Failure),
    /// The response was discarded for a retry, and nothing of it was sent to the client.
    Rejected,
    /// The client is at fault; this local reply is sent if no response has started.
    LocalReply(LocalReply),
    /// The response needs a client of HTTP/1, because it authenticates the connection. The client was told so.
    RequiresHttp1,
    /// The client disconnected.
    ClientGone,
    /// The client stopped reading.
    ClientStalled,
    /// The total time of the message is over.
    TotalTimeout,
}
