//! Whether a message is retried, where, and within which budget.

mod budget;
mod hedge;

pub use self::budget::RetryBudget;
pub use self::hedge::{HedgeAfter, HedgeSpec};

use crate::outcome::Failure;
use crate::time::Tick;

/// Failures and responses that are retried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryWhen {
    /// The connection could not be established.
    pub connect_failure: bool,
    /// The connection broke before any byte of the response.
    pub reset: bool,
    /// The connection was closed cleanly before any byte of the response.
    pub empty_response: bool,
    /// No response arrived in time.
    pub timeout: bool,
    /// HTTP statuses of responses that are retried.
    pub statuses: Vec<u16>,
    /// Statuses of gRPC calls that are retried if the call ended without a message ([`GRPC_STATUSES`]).
    pub grpc_statuses: Vec<u8>,
}

/// gRPC statuses that may be retried, as in Envoy. All others are about the call, which is the same at every
/// destination.
pub const GRPC_STATUSES: [(&str, u8); 5] = [
    ("CANCELLED", 1),
    ("DEADLINE_EXCEEDED", 4),
    ("RESOURCE_EXHAUSTED", 8),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
];

/// Status of a response that may be discarded and retried.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseStatus {
    /// Status of an HTTP response.
    Http(u16),
    /// gRPC status of a call that ended without a message.
    Grpc(u8),
}

impl RetryWhen {
    /// Returns whether any response to this kind of request (a gRPC call or another) is retried.
    pub const fn lists_responses(&self, is_grpc: bool) -> bool {
        !self.statuses.is_empty() || (is_grpc && !self.grpc_statuses.is_empty())
    }

    /// Returns whether a response with this status is retried.
    pub fn lists_response(&self, response: ResponseStatus) -> bool {
        match response {
            ResponseStatus::Http(status) => self.statuses.contains(&status),
            ResponseStatus::Grpc(status) => self.grpc_statuses.contains(&status),
        }
    }

    /// Returns whether a failure is retried. An invalid or truncated response never is: the destination did respond. A
    /// lack of own resources never is either: another destination would need the same resources.
    const fn lists(&self, failure: Failure) -> bool {
        match failure {
            Failure::Connect => self.connect_failure,
            Failure::Reset => self.reset,
            Failure::EmptyResponse => self.empty_response,
            Failure::Timeout => self.timeout,
            Failure::Garbage | Failure::Truncated | Failure::NoResources => false,
        }
    }
}

/// Retry rules of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrySpec {
    /// Maximum number of attempts, the first included: 1 to [`crate::AttemptedSet::MAX`].
    pub attempts: u8,
    /// Failures and responses that are retried.
    pub when: RetryWhen,
    /// Retries as a share of requests, 0.0 to 1.0, in addition to a floor of 10 per second.
    pub budget: f64,
    /// Whether another destination may be used (`failover`).
    pub failover: bool,
    /// Whether anything may be repeated at all (`quality.error_recovery`).
    pub error_recovery: bool,
}

/// A failed attempt, as the caller observed it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Failure that ended the attempt.
    pub failure: Failure,
    /// Number of attempts so far, this one included; repeats on a fresh connection are not counted.
    pub attempts: u8,
    /// Whether the request is idempotent (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// Whether any byte of the request may have been sent.
    pub sent: bool,
    /// Whether the connection was an idle one from the pool.
    pub reused_connection: bool,
    /// Whether the message was already repeated on a fresh connection.
    pub fresh_repeat_used: bool,
    /// Whether the body is empty or still completely buffered.
    pub body_replayable: bool,
    /// Whether any byte of a response was sent to the client.
    pub response_started: bool,
}

impl FailedAttempt {
    /// Returns whether only the idle connection may have failed, which proves nothing about the destination.
    pub const fn is_stale(&self) -> bool {
        self.reused_connection && matches!(self.failure, Failure::Reset | Failure::EmptyResponse)
    }
}

/// What follows a failed attempt.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Repeat on a fresh connection, to the same destination if necessary; not counted as an attempt.
    RepeatFresh,
    /// Retry at another destination, if one is left that was not attempted.
    Retry,
    /// No retry: the failure is reported to the client.
    Stop(StopReason),
}

/// Why a message is not retried.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// The request is not idempotent and may have been executed.
    NotSafe,
    /// `retry.when` does not list this failure.
    NotListed,
    /// The maximum number of attempts is reached.
    AttemptsSpent,
    /// The retry budget of the pool is spent.
    BudgetSpent,
    /// `quality.error_recovery` or `failover` is off.
    SwitchedOff,
    /// Part of a response was sent to the client.
    ResponseStarted,
    /// Part of the request body is no longer buffered.
    BodySpent,
}

impl StopReason {
    /// Name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSafe => "not_safe",
            Self::NotListed => "not_listed",
            Self::AttemptsSpent => "attempts_spent",
            Self::BudgetSpent => "budget_spent",
            Self::SwitchedOff => "switched_off",
            Self::ResponseStarted => "response_started",
            Self::BodySpent => "body_spent",
        }
    }
}

/// Decides what follows a failed attempt.
///
/// A reused connection that breaks before any byte of the response was stale: the request is repeated once on a fresh
/// one, whatever `retry.when` lists. Failed connects and repeats of what was never sent are free; everything else is
/// charged to the budget.
pub fn decide(spec: &RetrySpec, attempt: &FailedAttempt, budget: &RetryBudget, now: Tick) -> Decision {
    match allowed(spec, attempt) {
        Ok((decision, free)) if free || budget.withdraw(now) => decision,
        Ok(_) => Decision::Stop(StopReason::BudgetSpent),
        Err(reason) => Decision::Stop(reason),
    }
}

/// Returns what may follow, and whether it is free of charge to the budget.
fn allowed(spec: &RetrySpec, attempt: &FailedAttempt) -> Result<(Decision, bool), StopReason> {
    if !spec.error_recovery {
        return Err(StopReason::SwitchedOff);
    }
    if attempt.response_started {
        return Err(StopReason::ResponseStarted);
    }
    if attempt.sent && !attempt.idempotent {
        return Err(StopReason::NotSafe);
    }
    if !attempt.body_replayable {
        return Err(StopReason::BodySpent);
    }
    if attempt.is_stale() && !attempt.fresh_repeat_used {
        return Ok((Decision::RepeatFresh, !attempt.sent));
    }
    if !spec.failover {
        return Err(StopReason::SwitchedOff);
    }
    if !spec.when.lists(attempt.failure) {
        return Err(StopReason::NotListed);
    }
    if attempt.attempts >= spec.attempts {
        return Err(StopReason::AttemptsSpent);
    }
    Ok((Decision::Retry, attempt.failure == Failure::Connect))
}

/// Decides what follows a response that was not sent to the client yet: [`Decision::Retry`] if `retry.when` lists it
/// (`status:503`, `grpc:UNAVAILABLE`) and the request may be executed twice. Never a fresh repeat: the connection
/// works.
///
/// Every gRPC call is a POST, so its method does not tell whether it is idempotent. A listed gRPC status allows the
/// retry of a call that ended with it without a message, as Envoy's `retry_on: unavailable` does.
pub fn decide_on_response(
    spec: &RetrySpec,
    response: ResponseStatus,
    attempts: u8,
    idempotent: bool,
    body_replayable: bool,
    budget: &RetryBudget,
    now: Tick,
) -> Decision {
    let stop = if !spec.when.lists_response(response) {
        StopReason::NotListed
    } else if !spec.error_recovery || !spec.failover {
        StopReason::SwitchedOff
    } else if !idempotent && matches!(response, ResponseStatus::Http(_)) {
        StopReason::NotSafe
    } else if !body_replayable {
        StopReason::BodySpent
    } else if attempts >= spec.attempts {
        StopReason::AttemptsSpent
    } else if !budget.withdraw(now) {
        StopReason::BudgetSpent
    } else {
        return Decision::Retry;
    };
    Decision::Stop(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: RetrySpec = RetrySpec {
        attempts: 3,
        when: RetryWhen {
            connect_failure: true,
            reset: true,
            empty_response: true,
            timeout: false,
            statuses: Vec::new(),
            grpc_statuses: Vec::new(),
        },
        budget: 0.2,
        failover: true,
        error_recovery: true,
    };
    /// An idempotent request that lost its connection at the first attempt.
    const RESET: FailedAttempt = FailedAttempt {
        failure: Failure::Reset,
        attempts: 1,
        idempotent: true,
        sent: true,
        reused_connection: false,
        fresh_repeat_used: false,
        body_replayable: true,
        response_started: false,
    };
    const REFUSED: FailedAttempt = FailedAttempt { failure: Failure::Connect, sent: false, ..RESET };
    const STALE: FailedAttempt = FailedAttempt { reused_connection: true, ..RESET };

    fn after(attempt: FailedAttempt) -> Decision {
        decide(&SPEC, &attempt, &RetryBudget::new(0.2, 1), Tick::ZERO)
    }

    fn stop(reason: StopReason) -> Decision {
        Decision::Stop(reason)
    }

    fn drain(budget: &RetryBudget) {
        while budget.withdraw(Tick::ZERO) {}
    }

    #[test]
    fn a_sent_request_is_retried_only_if_it_is_idempotent() {
        assert_eq!(after(RESET), Decision::Retry);
        assert_eq!(after(FailedAttempt { idempotent: false, ..RESET }), stop(StopReason::NotSafe));
        assert_eq!(after(FailedAttempt { idempotent: false, ..STALE }), stop(StopReason::NotSafe));
    }

    #[test]
    fn an_unsent_request_is_retried_even_for_post() {
        assert_eq!(after(FailedAttempt { idempotent: false, ..REFUSED }), Decision::Retry);
        let unsent = FailedAttempt { idempotent: false, sent: false, ..STALE };
        assert_eq!(after(unsent), Decision::RepeatFresh);
        assert_eq!(after(FailedAttempt { reused_connection: false, ..unsent }), Decision::Retry);
    }

    #[test]
    fn a_stale_connection_is_repeated_once_uncounted_and_unlisted() {
        assert_eq!(after(FailedAttempt { attempts: 3, ..STALE }), Decision::RepeatFresh);
        assert_eq!(after(FailedAttempt { fresh_repeat_used: true, ..STALE }), Decision::Retry);
        let bare = RetrySpec { when: RetryWhen::default(), ..SPEC };
        let budget = RetryBudget::new(0.2, 1);
        assert_eq!(decide(&bare, &STALE, &budget, Tick::ZERO), Decision::RepeatFresh);
        let slow = FailedAttempt { failure: Failure::Timeout, ..STALE };
        assert_eq!(
            decide(&bare, &slow, &budget, Tick::ZERO),
            stop(StopReason::NotListed),
            "a timeout is not a stale connection"
        );
    }

    #[test]
    fn each_stop_has_its_reason() {
        assert_eq!(after(FailedAttempt { attempts: 3, ..RESET }), stop(StopReason::AttemptsSpent));
        assert_eq!(after(FailedAttempt { attempts: 3, ..REFUSED }), stop(StopReason::AttemptsSpent));
        assert_eq!(after(FailedAttempt { body_replayable: false, ..STALE }), stop(StopReason::BodySpent));
        assert_eq!(
            after(FailedAttempt { response_started: true, ..STALE }),
            stop(StopReason::ResponseStarted)
        );
        for failure in [Failure::Timeout, Failure::Garbage, Failure::Truncated] {
            assert_eq!(after(FailedAttempt { failure, ..RESET }), stop(StopReason::NotListed));
        }
    }

    #[test]
    fn error_recovery_and_failover_switch_retries_off() {
        let budget = RetryBudget::new(0.2, 1);
        let off = RetrySpec { error_recovery: false, ..SPEC };
        for attempt in [RESET, REFUSED, STALE] {
            assert_eq!(decide(&off, &attempt, &budget, Tick::ZERO), stop(StopReason::SwitchedOff));
        }
        let alone = RetrySpec { failover: false, ..SPEC };
        assert_eq!(decide(&alone, &REFUSED, &budget, Tick::ZERO), stop(StopReason::SwitchedOff));
        assert_eq!(decide(&alone, &STALE, &budget, Tick::ZERO), Decision::RepeatFresh);
    }

    #[test]
    fn an_empty_budget_stops_everything_except_unsent_requests() {
        let budget = RetryBudget::new(0.0, 1);
        drain(&budget);
        let decide = |attempt| decide(&SPEC, &attempt, &budget, Tick::ZERO);
        assert_eq!(decide(RESET), stop(StopReason::BudgetSpent));
        assert_eq!(decide(STALE), stop(StopReason::BudgetSpent));
        assert_eq!(decide(REFUSED), Decision::Retry);
        assert_eq!(decide(FailedAttempt { sent: false, ..STALE }), Decision::RepeatFresh);
    }

    #[test]
    fn listed_statuses_follow_the_same_rules() {
        let spec = RetrySpec { when: RetryWhen { statuses: vec![503], ..SPEC.when }, ..SPEC };
        let budget = RetryBudget::new(0.2, 1);
        let decide = |spec: &RetrySpec, status, attempts, idempotent, whole| {
            decide_on_response(
                spec,
                ResponseStatus::Http(status),
                attempts,
                idempotent,
                whole,
                &budget,
                Tick::ZERO,
            )
        };
        assert_eq!(decide(&spec, 503, 1, true, true), Decision::Retry);
        assert_eq!(decide(&spec, 500, 1, true, true), stop(StopReason::NotListed));
        assert_eq!(decide(&spec, 503, 1, false, true), stop(StopReason::NotSafe));
        assert_eq!(decide(&spec, 503, 1, true, false), stop(StopReason::BodySpent));
        assert_eq!(decide(&spec, 503, 3, true, true), stop(StopReason::AttemptsSpent));
        let alone = RetrySpec { failover: false, ..spec.clone() };
        assert_eq!(decide(&alone, 503, 1, true, true), stop(StopReason::SwitchedOff));
        drain(&budget);
        assert_eq!(decide(&spec, 503, 1, true, true), stop(StopReason::BudgetSpent));
    }

    #[test]
    fn a_grpc_call_without_a_message_is_retried_although_it_is_a_post() {
        let spec = RetrySpec { when: RetryWhen { grpc_statuses: vec![14], ..SPEC.when }, ..SPEC };
        let budget = RetryBudget::new(0.2, 1);
        let decide = |spec: &RetrySpec, response, attempts, whole| {
            decide_on_response(spec, response, attempts, false, whole, &budget, Tick::ZERO)
        };
        assert_eq!(decide(&spec, ResponseStatus::Grpc(14), 1, true), Decision::Retry);
        assert_eq!(decide(&spec, ResponseStatus::Grpc(13), 1, true), stop(StopReason::NotListed));
        assert_eq!(decide(&spec, ResponseStatus::Http(14), 1, true), stop(StopReason::NotListed));
        assert_eq!(decide(&spec, ResponseStatus::Grpc(14), 1, false), stop(StopReason::BodySpent));
        assert_eq!(decide(&spec, ResponseStatus::Grpc(14), 3, true), stop(StopReason::AttemptsSpent));
        let off = RetrySpec { error_recovery: false, ..spec.clone() };
        assert_eq!(decide(&off, ResponseStatus::Grpc(14), 1, true), stop(StopReason::SwitchedOff));
        drain(&budget);
        assert_eq!(decide(&spec, ResponseStatus::Grpc(14), 1, true), stop(StopReason::BudgetSpent));
        assert!(spec.when.lists_responses(true) && !spec.when.lists_responses(false));
    }
}
