//! May this message be tried again, where, and at whose expense.

mod budget;
mod hedge;

pub use self::budget::Budget;
pub use self::hedge::{After, HedgeSpec};

use crate::outcome::Failure;
use crate::time::Tick;

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
    /// Calls of gRPC that ended with these statuses before they began ([`CALL_STATUSES`]).
    pub calls: Vec<u8>,
}

/// Statuses of gRPC that another destination may do better than, as Envoy lists them; all others speak about
/// the call, which is the same everywhere.
pub const CALL_STATUSES: [(&str, u8); 5] = [
    ("CANCELLED", 1),
    ("DEADLINE_EXCEEDED", 4),
    ("RESOURCE_EXHAUSTED", 8),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
];

/// What a destination answered, where it may be better thrown away.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This status of HTTP.
    Status(u16),
    /// The end of a call of gRPC, with this status and nothing before it.
    Call(u8),
}

impl RetryWhen {
    /// May an answer be better thrown away, to a call of gRPC or to any other request?
    pub const fn lists_answers(&self, is_call: bool) -> bool {
        !self.statuses.is_empty() || (is_call && !self.calls.is_empty())
    }

    /// Is this answer worth another try?
    pub fn lists_told(&self, told: Told) -> bool {
        match told {
            Told::Status(status) => self.statuses.contains(&status),
            Told::Call(status) => self.calls.contains(&status),
        }
    }

    /// An answer that was not one, or broke off, is never worth another try: something did answer. Nor is
    /// one that failed for want of our own means: another destination needs the same.
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

/// One failed try, as the caller saw it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// How it failed.
    pub failure: Failure,
    /// Counted tries so far, this one included; fresh repeats are not counted.
    pub tries: u8,
    /// Doing it twice is the same as doing it once (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// Any byte of the request may have left on this connection.
    pub sent: bool,
    /// The connection came from the pool of idle ones.
    pub reused_connection: bool,
    /// This message has had its fresh repeat.
    pub fresh_repeat_used: bool,
    /// The body is empty or still wholly buffered.
    pub body_replayable: bool,
    /// A byte of an answer has gone to the client.
    pub answer_started: bool,
}

impl Attempt {
    /// Only the pooled connection may have failed: that says nothing about its destination.
    pub const fn is_stale(&self) -> bool {
        self.reused_connection && matches!(self.failure, Failure::Reset | Failure::EmptyResponse)
    }
}

/// What comes after a failed try.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The same again on a new connection, to the same destination if need be; not counted as a try.
    RepeatFresh,
    /// Another destination, if there is one the message has not tried.
    Again,
    /// This failure is the client's answer.
    Stop(StopReason),
}

/// Why a message is not tried again.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// It may have been carried out, and twice is not the same as once.
    NotSafe,
    /// `retry.when` does not list this failure.
    NotListed,
    /// It has had all its tries.
    AttemptsSpent,
    /// The pool has repeated too much already.
    BudgetSpent,
    /// `quality.error_recovery` or `failover` is off.
    SwitchedOff,
    /// The client has part of an answer.
    AnswerStarted,
    /// Part of the body is gone.
    BodySpent,
}

impl StopReason {
    /// The word used in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSafe => "not_safe",
            Self::NotListed => "not_listed",
            Self::AttemptsSpent => "attempts_spent",
            Self::BudgetSpent => "budget_spent",
            Self::SwitchedOff => "switched_off",
            Self::AnswerStarted => "answer_started",
            Self::BodySpent => "body_spent",
        }
    }
}

/// What follows a try that failed.
///
/// A reused connection that breaks before any byte of an answer says only that it was stale: that is
/// repeated once on a fresh one whatever `retry.when` lists. Connect failures draw nothing from the budget,
/// nor does a fresh repeat of what never left; everything else does.
pub fn decide(spec: &RetrySpec, attempt: &Attempt, budget: &Budget, now: Tick) -> Decision {
    match allowed(spec, attempt) {
        Ok((decision, free)) if free || budget.withdraw(now) => decision,
        Ok(_) => Decision::Stop(StopReason::BudgetSpent),
        Err(reason) => Decision::Stop(reason),
    }
}

/// What may follow, and whether it is free of the budget.
fn allowed(spec: &RetrySpec, attempt: &Attempt) -> Result<(Decision, bool), StopReason> {
    if !spec.error_recovery {
        return Err(StopReason::SwitchedOff);
    }
    if attempt.answer_started {
        return Err(StopReason::AnswerStarted);
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
    if attempt.tries >= spec.attempts {
        return Err(StopReason::AttemptsSpent);
    }
    Ok((Decision::Again, attempt.failure == Failure::Connect))
}

/// What follows an answer that has not gone to the client yet: [`Decision::Again`] if `retry.when` lists it
/// (`status:503`, `grpc:UNAVAILABLE`) and the message may be done twice. Never a fresh repeat: the connection
/// is good.
///
/// Every call of gRPC is a POST, so its method says nothing. Who lists a status of gRPC says that a call which
/// ended with it, without an answer, may be made again; Envoy's `retry_on: unavailable` says the same.
pub fn decide_told(
    spec: &RetrySpec,
    told: Told,
    tries: u8,
    idempotent: bool,
    body_replayable: bool,
    budget: &Budget,
    now: Tick,
) -> Decision {
    let stop = if !spec.when.lists_told(told) {
        StopReason::NotListed
    } else if !spec.error_recovery || !spec.failover {
        StopReason::SwitchedOff
    } else if !idempotent && matches!(told, Told::Status(_)) {
        StopReason::NotSafe
    } else if !body_replayable {
        StopReason::BodySpent
    } else if tries >= spec.attempts {
        StopReason::AttemptsSpent
    } else if !budget.withdraw(now) {
        StopReason::BudgetSpent
    } else {
        return Decision::Again;
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
            calls: Vec::new(),
        },
        budget: 0.2,
        failover: true,
        error_recovery: true,
    };
    /// An idempotent message whose connection broke on the first try.
    const RESET: Attempt = Attempt {
        failure: Failure::Reset,
        tries: 1,
        idempotent: true,
        sent: true,
        reused_connection: false,
        fresh_repeat_used: false,
        body_replayable: true,
        answer_started: false,
    };
    const REFUSED: Attempt = Attempt { failure: Failure::Connect, sent: false, ..RESET };
    const STALE: Attempt = Attempt { reused_connection: true, ..RESET };

    fn after(attempt: Attempt) -> Decision {
        decide(&SPEC, &attempt, &Budget::new(0.2, 1), Tick::ZERO)
    }

    fn stop(reason: StopReason) -> Decision {
        Decision::Stop(reason)
    }

    fn drain(budget: &Budget) {
        while budget.withdraw(Tick::ZERO) {}
    }

    #[test]
    fn what_reached_a_destination_is_repeated_only_if_twice_is_as_good_as_once() {
        assert_eq!(after(RESET), Decision::Again);
        assert_eq!(after(Attempt { idempotent: false, ..RESET }), stop(StopReason::NotSafe));
        assert_eq!(after(Attempt { idempotent: false, ..STALE }), stop(StopReason::NotSafe));
    }

    #[test]
    fn what_never_left_is_repeated_even_for_post() {
        assert_eq!(after(Attempt { idempotent: false, ..REFUSED }), Decision::Again);
        let unsent = Attempt { idempotent: false, sent: false, ..STALE };
        assert_eq!(after(unsent), Decision::RepeatFresh);
        assert_eq!(after(Attempt { reused_connection: false, ..unsent }), Decision::Again);
    }

    #[test]
    fn a_stale_connection_is_repeated_once_outside_the_count_and_the_list() {
        assert_eq!(after(Attempt { tries: 3, ..STALE }), Decision::RepeatFresh);
        assert_eq!(after(Attempt { fresh_repeat_used: true, ..STALE }), Decision::Again);
        let bare = RetrySpec { when: RetryWhen::default(), ..SPEC };
        let budget = Budget::new(0.2, 1);
        assert_eq!(decide(&bare, &STALE, &budget, Tick::ZERO), Decision::RepeatFresh);
        let slow = Attempt { failure: Failure::Timeout, ..STALE };
        assert_eq!(
            decide(&bare, &slow, &budget, Tick::ZERO),
            stop(StopReason::NotListed),
            "slow is not stale"
        );
    }

    #[test]
    fn each_stop_has_its_reason() {
        assert_eq!(after(Attempt { tries: 3, ..RESET }), stop(StopReason::AttemptsSpent));
        assert_eq!(after(Attempt { tries: 3, ..REFUSED }), stop(StopReason::AttemptsSpent));
        assert_eq!(after(Attempt { body_replayable: false, ..STALE }), stop(StopReason::BodySpent));
        assert_eq!(after(Attempt { answer_started: true, ..STALE }), stop(StopReason::AnswerStarted));
        for failure in [Failure::Timeout, Failure::Garbage, Failure::Truncated] {
            assert_eq!(after(Attempt { failure, ..RESET }), stop(StopReason::NotListed));
        }
    }

    #[test]
    fn the_two_switches() {
        let budget = Budget::new(0.2, 1);
        let off = RetrySpec { error_recovery: false, ..SPEC };
        for attempt in [RESET, REFUSED, STALE] {
            assert_eq!(decide(&off, &attempt, &budget, Tick::ZERO), stop(StopReason::SwitchedOff));
        }
        let alone = RetrySpec { failover: false, ..SPEC };
        assert_eq!(decide(&alone, &REFUSED, &budget, Tick::ZERO), stop(StopReason::SwitchedOff));
        assert_eq!(decide(&alone, &STALE, &budget, Tick::ZERO), Decision::RepeatFresh);
    }

    #[test]
    fn an_empty_budget_stops_everything_but_what_never_left() {
        let budget = Budget::new(0.0, 1);
        drain(&budget);
        let decide = |attempt| decide(&SPEC, &attempt, &budget, Tick::ZERO);
        assert_eq!(decide(RESET), stop(StopReason::BudgetSpent));
        assert_eq!(decide(STALE), stop(StopReason::BudgetSpent));
        assert_eq!(decide(REFUSED), Decision::Again);
        assert_eq!(decide(Attempt { sent: false, ..STALE }), Decision::RepeatFresh);
    }

    #[test]
    fn listed_statuses_follow_the_same_rules() {
        let spec = RetrySpec { when: RetryWhen { statuses: vec![503], ..SPEC.when }, ..SPEC };
        let budget = Budget::new(0.2, 1);
        let decide = |spec: &RetrySpec, status, tries, idempotent, whole| {
            decide_told(spec, Told::Status(status), tries, idempotent, whole, &budget, Tick::ZERO)
        };
        assert_eq!(decide(&spec, 503, 1, true, true), Decision::Again);
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
    fn a_call_that_was_not_answered_is_made_again_although_it_is_a_post() {
        let spec = RetrySpec { when: RetryWhen { calls: vec![14], ..SPEC.when }, ..SPEC };
        let budget = Budget::new(0.2, 1);
        let decide = |spec: &RetrySpec, told, tries, whole| {
            decide_told(spec, told, tries, false, whole, &budget, Tick::ZERO)
        };
        assert_eq!(decide(&spec, Told::Call(14), 1, true), Decision::Again);
        assert_eq!(decide(&spec, Told::Call(13), 1, true), stop(StopReason::NotListed));
        assert_eq!(decide(&spec, Told::Status(14), 1, true), stop(StopReason::NotListed));
        assert_eq!(decide(&spec, Told::Call(14), 1, false), stop(StopReason::BodySpent));
        assert_eq!(decide(&spec, Told::Call(14), 3, true), stop(StopReason::AttemptsSpent));
        let off = RetrySpec { error_recovery: false, ..spec.clone() };
        assert_eq!(decide(&off, Told::Call(14), 1, true), stop(StopReason::SwitchedOff));
        drain(&budget);
        assert_eq!(decide(&spec, Told::Call(14), 1, true), stop(StopReason::BudgetSpent));
        assert!(spec.when.lists_answers(true) && !spec.when.lists_answers(false));
    }
}
