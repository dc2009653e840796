//! Whether a destination has fallen silent: it takes messages, answers none, and would have by now.
//!
//! A process that is stopped or stuck still accepts connections (the kernel does), so a check that only connects
//! passes, and messages wait for their time limit, a minute by default. How long an answer may take nobody knows
//! beforehand; but what the destination took so far and what its peers take meanwhile tell.

use std::time::Duration;

use crate::stats::Progress;
use crate::time::Tick;

/// UnresponsiveDetector of so many times the mean time to the first byte, its own and its peers', is none of the usual. (Of
/// waits that are spread exponentially one in 20,000 is longer.)
const UNUSUAL: u32 = 10;

/// What is to be thought of a destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ResponseState {
    /// Nothing.
    Fine,
    /// Its messages wait for longer than they should: worth a check.
    Doubtful,
    /// Messages enough to set it aside have waited for longer than they should, while its peers answered.
    Unresponsive(Unresponsive),
}

/// What a silence looked like.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Unresponsive {
    /// Messages that wait for an answer.
    pub waiting: u32,
    /// It has answered none for so long.
    pub span: Duration,
}

/// The silence of one destination, as far as it is one.
#[derive(Copy, Clone, Debug)]
pub struct UnresponsiveDetector {
    /// What it had answered when it last answered something or had nothing to answer.
    heard: u64,
    since: Tick,
    /// What its peers had answered then.
    peers: Progress,
    /// Messages that have waited unusually long at least.
    held: u32,
    /// The next doubt is told when the silence is as long as this.
    told_at: Duration,
    /// When the first was.
    doubted: Option<Tick>,
}

impl Default for UnresponsiveDetector {
    fn default() -> Self {
        // No destination has ended so many messages: the first look begins.
        let heard = u64::MAX;
        Self {
            heard,
            since: Tick::ZERO,
            peers: Progress::default(),
            held: 0,
            told_at: Duration::ZERO,
            doubted: None,
        }
    }
}

impl UnresponsiveDetector {
    /// Looks at a destination that has done `own` so far, while its peers had done `peers`; `waiting` messages
    /// wait there. Below `least` no silence is unusual; `row` messages set it aside, 0 never.
    pub fn look(
        &mut self,
        now: Tick,
        own: &Progress,
        peers: &Progress,
        waiting: u32,
        least: Duration,
        row: u32,
    ) -> ResponseState {
        if waiting == 0 || own.ended != self.heard {
            *self = Self { heard: own.ended, since: now, peers: *peers, ..Self::default() };
            return ResponseState::Fine;
        }
        let span = now.since(self.since);
        let meanwhile = peers.since(&self.peers);
        let usual = own.mean_first_byte().max(meanwhile.mean_first_byte());
        let unusual = least.max(usual.saturating_mul(UNUSUAL));
        if span < unusual {
            return ResponseState::Fine;
        }
        let doubted = *self.doubted.get_or_insert_with(|| {
            self.held = waiting;
            now
        });
        self.held = self.held.min(waiting);
        let enough = row > 0 && self.held >= row && meanwhile.answered >= u64::from(self.held.max(row));
        if enough && now.since(doubted) >= unusual {
            return ResponseState::Unresponsive(Unresponsive { waiting, span });
        }
        if span < self.told_at {
            return ResponseState::Fine;
        }
        // A wait that checks say nothing against is told less and less often.
        self.told_at = span.saturating_mul(2);
        ResponseState::Doubtful
    }

    /// Begins anew.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(500);
    const LEAST: Duration = Duration::from_secs(1);

    fn progress(answered: u64, mean: Duration) -> Progress {
        Progress { answered, ended: answered, first_byte: mean * answered as u32 }
    }

    /// One letter for each look: what is waiting there, and what its peers answer from look to look.
    fn check(waiting: &[u32], peers_answer: u64, mean_ms: u64, expected: &str) {
        let (mut silence, mut peers) = (UnresponsiveDetector::default(), 0);
        let mean = Duration::from_millis(mean_ms);
        let own = progress(100, mean);
        let mut now = Tick::ZERO;
        silence.look(now, &own, &progress(0, mean), 1, LEAST, 5);
        let seen: String = waiting
            .iter()
            .map(|&waiting| {
                now += LOOK;
                peers += peers_answer;
                match silence.look(now, &own, &progress(peers, mean), waiting, LEAST, 5) {
                    ResponseState::Fine => '.',
                    ResponseState::Doubtful => '?',
                    ResponseState::Unresponsive(_) => '!',
                }
            })
            .collect();
        assert_eq!(seen, expected, "{waiting:?}, peers {peers_answer}, mean {mean_ms} ms");
    }

    #[test]
    fn a_silence_is_doubted_first_and_believed_when_peers_answer() {
        check(&[9, 9, 9, 9, 9], 10, 5, ".?.!!");
        check(&[9, 9, 9, 9, 9], 0, 5, ".?.?.");
        check(&[1, 1, 1, 1, 1, 1, 1, 1, 1], 10, 5, ".?.?...?.");
    }

    #[test]
    fn messages_that_came_a_moment_ago_are_no_evidence() {
        check(&[1, 1, 500, 500], 10, 5, ".?.?");
    }

    #[test]
    fn what_takes_long_elsewhere_or_ever_is_no_silence() {
        check(&[9; 9], 10, 300, ".....?...");
        check(&[9; 13], 10, 300, ".....?.....!!");
        check(&[9; 9], 10, 60_000, ".........");
    }

    #[test]
    fn an_answer_or_an_empty_hand_begins_anew() {
        let mut silence = UnresponsiveDetector::default();
        let mean = Duration::from_millis(5);
        let mut now = Tick::ZERO;
        for n in 0..100 {
            now += LEAST;
            let judged = silence.look(now, &progress(n, mean), &progress(n * 10, mean), 50, LEAST, 5);
            assert_eq!(judged, ResponseState::Fine);
        }
        now += LEAST * 100;
        assert_eq!(
            silence.look(now, &progress(99, mean), &progress(0, mean), 0, LEAST, 5),
            ResponseState::Fine
        );
        assert_eq!(
            silence.look(now, &progress(99, mean), &progress(0, mean), 9, LEAST, 5),
            ResponseState::Fine
        );
    }
}
