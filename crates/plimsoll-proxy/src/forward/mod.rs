//! The life of a message: attempts, exchanges, hedging.

pub(crate) mod attempts;
pub(crate) mod connection;
pub(crate) mod downstream;
pub(crate) mod exchange;
pub(crate) mod exchange_end;
pub(crate) mod hash_key;
pub(crate) mod hedge;
pub(crate) mod request;
pub(crate) mod request_context;
