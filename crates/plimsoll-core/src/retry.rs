//! May this message be tried again, where, and at whose expense.

/// Which failures are worth another try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryWhen {
    /// No connection came to be.
    pub connect_failure: bool,
    /// The connection broke before a byte of the answer.
    pub reset: bool,
    /// It closed cleanly before a byte of the answer.
    pub empty_response: bool,
    /// No answer in time.
    pub timeout: bool,
    /// Answers with these statuses.
    pub statuses: Vec<u16>,
}

/// A pool's rules for trying again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrySpec {
    /// All tries of one message, the first included: 1 to [`crate::Tried::MAX`].
    pub attempts: u8,
    /// What is worth another try.
    pub when: RetryWhen,
    /// Retries as a share of requests, 0.0 to 1.0; a floor of 10 a second comes on top.
    pub budget: f64,
    /// Another destination may be tried (`failover`).
    pub failover: bool,
    /// Anything may be repeated at all (`quality.error_recovery`).
    pub error_recovery: bool,
}
