//! Detection of unresponsive destinations, which accept messages and respond to none.
//!
//! A process that is stopped or stuck still accepts connections, because the kernel does. A check that only connects
//! passes, and messages wait for their timeout, a minute by default. The time that a response may take is estimated from
//! the destination's past and from its peers' present.

use std::time::Duration;

use crate::stats::Progress;
use crate::time::Tick;

/// Multiple of the mean time to the first byte, its own and its peers', from which a wait is unusual. Of exponentially
/// distributed waits, one in 20,000 is longer.
const UNUSUAL_FACTOR: u32 = 10;

/// Assessment of a destination's responses.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ResponseState {
    /// The destination responds, or its messages have not waited long.
    Responsive,
    /// Messages wait unusually long, which is worth a check.
    Suspect,
    /// Enough messages for an ejection have waited unusually long, while the peers responded.
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
        }
    }
}

impl UnresponsiveDetector {
    /// Evaluates a destination with the progress `own`, its peers' progress `peers` and `waiting` messages. Waits below
    /// `min_wait` are never unusual; `min_messages` overdue messages lead to an ejection, 0 never.
    pub fn evaluate(
        &mut self,
        now: Tick,
        own: &Progress,
        peers: &Progress,
        waiting: u32,
        min_wait: Duration,
        min_messages: u32,
    ) -> ResponseState {
        if waiting == 0 || own.ended != self.ended {
            *self = Self { ended: own.ended, since: now, peers: *peers, ..Self::default() };
            return ResponseState::Responsive;
        }
        let span = now.since(self.since);
        let meanwhile = peers.since(&self.peers);
        let usual = own.mean_first_byte().max(meanwhile.mean_first_byte());
        let unusual = min_wait.max(usual.saturating_mul(UNUSUAL_FACTOR));
        if span < unusual {
            return ResponseState::Responsive;
        }
        let suspected = *self.suspected.get_or_insert_with(|| {
            self.overdue = waiting;
            now
        });
        self.overdue = self.overdue.min(waiting);
        let enough = min_messages > 0
            && self.overdue >= min_messages
            && meanwhile.answered >= u64::from(self.overdue.max(min_messages));
        if enough && now.since(suspected) >= unusual {
            return ResponseState::Unresponsive(Unresponsive { waiting, span });
        }
        if span < self.report_after {
            return ResponseState::Responsive;
        }
        // A wait that passed checks contradict is reported less and less often.
        self.report_after = span.saturating_mul(2);
        ResponseState::Suspect
    }

    /// Discards the observation.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);
    const MIN_WAIT: Duration = Duration::from_secs(1);

    fn progress(answered: u64, mean: Duration) -> Progress {
        Progress { answered, ended: answered, first_byte: mean * answered as u32 }
    }

    /// Checks one letter per evaluation, given the waiting messages and the peers' responses between evaluations.
    fn check(waiting: &[u32], peers_respond: u64, mean_ms: u64, expected: &str) {
        let (mut detector, mut peers) = (UnresponsiveDetector::default(), 0);
        let mean = Duration::from_millis(mean_ms);
        let own = progress(100, mean);
        let mut now = Tick::ZERO;
        detector.evaluate(now, &own, &progress(0, mean), 1, MIN_WAIT, 5);
        let seen: String = waiting
            .iter()
            .map(|&waiting| {
                now += INTERVAL;
                peers += peers_respond;
                match detector.evaluate(now, &own, &progress(peers, mean), waiting, MIN_WAIT, 5) {
                    ResponseState::Responsive => '.',
                    ResponseState::Suspect => '?',
                    ResponseState::Unresponsive(_) => '!',
                }
            })
            .collect();
        assert_eq!(seen, expected, "{waiting:?}, peers {peers_respond}, mean {mean_ms} ms");
    }

    #[test]
    fn unresponsive_destination_is_suspected_first_and_reported_when_peers_respond() {
        check(&[9, 9, 9, 9, 9], 10, 5, ".?.!!");
        check(&[9, 9, 9, 9, 9], 0, 5, ".?.?.");
        check(&[1, 1, 1, 1, 1, 1, 1, 1, 1], 10, 5, ".?.?...?.");
    }

    #[test]
    fn recent_messages_are_no_evidence() {
        check(&[1, 1, 500, 500], 10, 5, ".?.?");
    }

    #[test]
    fn slow_peers_or_a_slow_past_make_a_long_wait_usual() {
        check(&[9; 9], 10, 300, ".....?...");
        check(&[9; 13], 10, 300, ".....?.....!!");
        check(&[9; 9], 10, 60_000, ".........");
    }

    #[test]
    fn response_or_no_waiting_message_restarts_the_observation() {
        let mut detector = UnresponsiveDetector::default();
        let mean = Duration::from_millis(5);
        let mut now = Tick::ZERO;
        for n in 0..100 {
            now += MIN_WAIT;
            let state = detector.evaluate(now, &progress(n, mean), &progress(n * 10, mean), 50, MIN_WAIT, 5);
            assert_eq!(state, ResponseState::Responsive);
        }
        now += MIN_WAIT * 100;
        assert_eq!(
            detector.evaluate(now, &progress(99, mean), &progress(0, mean), 0, MIN_WAIT, 5),
            ResponseState::Responsive
        );
        assert_eq!(
            detector.evaluate(now, &progress(99, mean), &progress(0, mean), 9, MIN_WAIT, 5),
            ResponseState::Responsive
        );
    }
}
