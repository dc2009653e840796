//! Detection of unresponsive destinations, which accept messages and respond to none.
//!
//! A process that is stopped or stuck still accepts connections, because the kernel does. A check that only connects
//! passes, and messages wait for their timeout, a minute by default. The time that a response may take is estimated from
//! the destination's past and from its peers' present.
//!
//! A long wait alone proves nothing: long polls and streams wait rightly. It needs a confirmation: a check that needs a
//! response fails, or messages that were sent after the suspicion stay unanswered, too, so many that it is no chance
//! given how many messages wait that long at the peers.

use std::time::Duration;

use crate::stats::Progress;
use crate::time::Tick;

/// Multiple of the mean time to the first byte, its own and its peers', from which a wait is unusual. Of exponentially
/// distributed waits, one in 20,000 is longer.
const UNUSUAL_FACTOR: u32 = 10;
/// Maximum probability that the later messages all wait that long by chance.
const CHANCE: f64 = 1e-4;
/// Minimum and maximum assumed share of messages that wait that long by themselves.
const SLOW_SHARE: (f64, f64) = (0.01, 0.9);

/// Assessment of a destination's responses.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ResponseState {
    /// The destination responds, or its messages have not waited long.
    Responsive,
    /// Messages wait unusually long, which is worth a check.
    Suspect,
    /// Enough messages for an ejection have waited unusually long, while the peers responded. A failed check would
    /// confirm it.
    Overdue(Unresponsive),
    /// Later messages have waited unusually long, too.
    Unresponsive(Unresponsive),
}

/// Observation that led to an ejection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Unresponsive {
    /// Number of messages that wait for a response.
    pub waiting: u32,
    /// Time since the last response.
    pub span: Duration,
}

/// What the detection knows of a destination and its peers at one time.
#[derive(Copy, Clone, Debug)]
pub struct Observation {
    /// Progress of the destination.
    pub own: Progress,
    /// Number of messages that wait for a response of the destination.
    pub waiting: u32,
    /// Progress of all others together.
    pub peers: Progress,
    /// Number of messages that wait for a response of the others.
    pub peers_waiting: u32,
}

/// Limits of the detection.
#[derive(Copy, Clone, Debug)]
pub struct DetectionLimits {
    /// Minimum wait that is unusual.
    pub min_wait: Duration,
    /// Minimum number of overdue messages of an unresponsive destination; 0 = none is.
    pub min_messages: u32,
    /// Minimum number of later messages that confirm it.
    pub min_later: u64,
}

/// State of the detection for one destination.
#[derive(Copy, Clone, Debug)]
pub struct UnresponsiveDetector {
    /// Number of ended messages at the last response, or when no message waited.
    ended: u64,
    since: Tick,
    /// Progress of the peers at that time.
    peers: Progress,
    /// Minimum number of messages that have waited unusually long.
    overdue: u32,
    /// Wait from which the next suspicion is reported.
    report_after: Duration,
    /// Time of the first suspicion.
    suspected: Option<Tick>,
    /// Number of messages that were sent before the suspicion.
    sent_before: u64,
    /// Time from which enough later messages have waited.
    later_since: Option<Tick>,
}

impl Default for UnresponsiveDetector {
    fn default() -> Self {
        // No destination has ended so many messages, so the first evaluation starts a new observation.
        let ended = u64::MAX;
        Self {
            ended,
            since: Tick::ZERO,
            peers: Progress::default(),
            overdue: 0,
            report_after: Duration::ZERO,
            suspected: None,
            sent_before: 0,
            later_since: None,
        }
    }
}

impl UnresponsiveDetector {
    /// Evaluates a destination.
    pub fn evaluate(&mut self, now: Tick, seen: &Observation, limits: &DetectionLimits) -> ResponseState {
        let Observation { own, waiting, peers, .. } = *seen;
        if waiting == 0 || own.ended != self.ended {
            *self = Self { ended: own.ended, since: now, peers, ..Self::default() };
            return ResponseState::Responsive;
        }
        let span = now.since(self.since);
        let meanwhile = peers.since(&self.peers);
        let usual = own.mean_first_byte().max(meanwhile.mean_first_byte());
        let unusual = limits.min_wait.max(usual.saturating_mul(UNUSUAL_FACTOR));
        if span < unusual {
            return ResponseState::Responsive;
        }
        let suspected = *self.suspected.get_or_insert_with(|| {
            (self.overdue, self.sent_before) = (waiting, own.awaited);
            now
        });
        self.overdue = self.overdue.min(waiting);
        let enough = limits.min_messages > 0
            && self.overdue >= limits.min_messages
            && meanwhile.answered >= u64::from(self.overdue.max(limits.min_messages))
            && now.since(suspected) >= unusual;
        let later = own.awaited.saturating_sub(self.sent_before);
        if later >= confirming(meanwhile.answered, seen.peers_waiting).max(limits.min_later) {
            let since = *self.later_since.get_or_insert(now);
            if enough && now.since(since) >= unusual {
                return ResponseState::Unresponsive(Unresponsive { waiting, span });
            }
        }
        if span < self.report_after {
            let overdue = ResponseState::Overdue(Unresponsive { waiting, span });
            return if enough { overdue } else { ResponseState::Responsive };
        }
        // A wait that passed checks contradict is reported less and less often.
        self.report_after = span.saturating_mul(2);
        ResponseState::Suspect
    }

    /// Returns the time of the suspicion, if there is one.
    pub fn suspected(&self) -> Option<Tick> {
        self.suspected
    }

    /// Discards the observation.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Returns the number of later messages that all wait by chance with a probability of at most [`CHANCE`], if as many of
/// them as at the peers wait long by themselves.
fn confirming(answered: u64, waiting: u32) -> u64 {
    let share = f64::from(waiting) / (f64::from(waiting) + answered as f64).max(1.0);
    (CHANCE.ln() / share.clamp(SLOW_SHARE.0, SLOW_SHARE.1).ln()).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);
    const MIN_WAIT: Duration = Duration::from_secs(1);

    fn progress(answered: u64, mean: Duration) -> Progress {
        Progress { answered, awaited: answered, ended: answered, first_byte: mean * answered as u32 }
    }

    /// What happens at the peers of a destination.
    #[derive(Copy, Clone)]
    struct Peers {
        /// Responses between two evaluations.
        respond: u64,
        waiting: u32,
        mean_ms: u64,
    }

    const QUICK: Peers = Peers { respond: 10, waiting: 0, mean_ms: 5 };

    /// Checks one letter per evaluation, given the waiting messages at each.
    fn check(waiting: &[u32], at_peers: Peers, expected: &str) {
        let (mut detector, mut answered) = (UnresponsiveDetector::default(), 0);
        let mean = Duration::from_millis(at_peers.mean_ms);
        let limits = DetectionLimits { min_wait: MIN_WAIT, min_messages: 5, min_later: 0 };
        let mut evaluate = |now, waiting: u32, answered| {
            let own = Progress { awaited: 100 + u64::from(waiting), ..progress(100, mean) };
            let (peers, peers_waiting) = (progress(answered, mean), at_peers.waiting);
            detector.evaluate(now, &Observation { own, waiting, peers, peers_waiting }, &limits)
        };
        let mut now = Tick::ZERO;
        evaluate(now, 1, 0);
        let seen: String = waiting
            .iter()
            .map(|&waiting| {
                now += INTERVAL;
                answered += at_peers.respond;
                match evaluate(now, waiting, answered) {
                    ResponseState::Responsive => '.',
                    ResponseState::Suspect => '?',
                    ResponseState::Overdue(_) => 'o',
                    ResponseState::Unresponsive(_) => '!',
                }
            })
            .collect();
        assert_eq!(seen, expected, "{waiting:?}, mean {} ms", at_peers.mean_ms);
    }

    #[test]
    fn unresponsive_destination_is_suspected_first_and_confirmed_by_later_messages() {
        check(&[9, 9, 11, 13, 13, 13], QUICK, ".?.?!!");
        check(&[9, 9, 11, 13, 13, 13], Peers { respond: 0, ..QUICK }, ".?.?..");
        check(&[1, 1, 1, 1, 1, 1, 1, 1, 1], QUICK, ".?.?...?.");
    }

    #[test]
    fn long_waits_without_later_messages_are_not_confirmed() {
        check(&[7; 9], QUICK, ".?.?ooo?o");
        check(&[7, 7, 7, 7, 7, 7, 8, 8, 8, 8, 8], QUICK, ".?.?ooo?ooo");
    }

    #[test]
    fn messages_that_often_wait_long_at_the_peers_confirm_less() {
        assert_eq!(confirming(1000, 0), 2);
        assert_eq!(confirming(900, 100), 4);
        assert_eq!(confirming(50, 50), 14);
        check(&[7, 7, 9, 11, 12, 13, 14, 15, 16], Peers { waiting: 200, ..QUICK }, ".?.?ooo?o");
    }

    #[test]
    fn recent_messages_are_no_evidence() {
        check(&[1, 1, 500, 500], QUICK, ".?.?");
    }

    #[test]
    fn slow_peers_or_a_slow_past_make_a_long_wait_usual() {
        check(&[9; 9], Peers { mean_ms: 300, ..QUICK }, ".....?...");
        check(
            &[9, 9, 9, 9, 9, 9, 19, 19, 19, 19, 19, 19, 19],
            Peers { mean_ms: 300, ..QUICK },
            ".....?.....?!",
        );
        check(&[9; 9], Peers { mean_ms: 60_000, ..QUICK }, ".........");
    }

    #[test]
    fn response_or_no_waiting_message_restarts_the_observation() {
        let mut detector = UnresponsiveDetector::default();
        let (mean, limits) =
            (Duration::from_millis(5), DetectionLimits { min_wait: MIN_WAIT, min_messages: 5, min_later: 0 });
        let mut evaluate = |now, own, peers, waiting| {
            let (own, peers) = (progress(own, mean), progress(peers, mean));
            detector.evaluate(now, &Observation { own, waiting, peers, peers_waiting: 0 }, &limits)
        };
        let mut now = Tick::ZERO;
        for n in 0..100 {
            now += MIN_WAIT;
            assert_eq!(evaluate(now, n, n * 10, 50), ResponseState::Responsive);
        }
        now += MIN_WAIT * 100;
        assert_eq!(evaluate(now, 99, 0, 0), ResponseState::Responsive);
        assert_eq!(evaluate(now, 99, 0, 9), ResponseState::Responsive);
    }
}
