//! The access log and the decision log.

pub(crate) mod access_log;
pub(crate) mod decision_log;
