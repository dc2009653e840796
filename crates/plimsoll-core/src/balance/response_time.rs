//! Who answers soonest, given what it has to do.

use std::sync::Arc;

use super::cursor::Parts;
use super::lowest::{Score, Seen, lowest};
use super::{Needs, Part, Picker, Policy, Slot};
use crate::live::Live;
use crate::measure::Average;
use crate::time::Tick;

/// Times are told apart in steps of so much, and ties take turns: without steps the fastest by a hair would take
/// everything (nginx).
const STEP_MS: f32 = 20.0;
/// Longer times are all alike (nginx).
const LONGEST_MS: f32 = 5_000.0;

/// Response time: nginx's `least_time`, of the first byte. A destination's average time, raised to the next 20 ms
/// above and at most 5 s, times (in flight + 1), over its weight: the lowest takes the message.
///
/// One that was not measured yet counts as the fastest. In flight counts those still connecting, over all
/// workers, and so does the average, which nginx keeps per `zone`. Those that tie rotate in configured order;
/// nginx rotates them by weight, which is in the score here already.
#[derive(Debug)]
pub struct ResponseTime(Parts);

impl ResponseTime {
    /// `response_time` for `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self(Parts::new(workers))
    }
}

impl Policy for ResponseTime {
    fn name(&self) -> &'static str {
        "response_time"
    }

    fn needs(&self) -> Needs {
        Needs::Answers
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        self.build_part(slots, Part::WHOLE)
    }

    fn build_part(&self, slots: Arc<[Slot]>, part: Part) -> Box<dyn Picker> {
        let times = slots.iter().map(|slot| (slot.live.clone(), 1.0 / f64::from(slot.weight))).collect();
        lowest(Times(times), &slots, self.0.of(part))
    }
}

/// Counters, and one over the weight.
struct Times(Box<[(Arc<Live>, f64)]>);

impl Score for Times {
    fn look(&self, slot: usize) -> Seen {
        let (live, _) = &self.0[slot];
        Seen { in_flight: live.in_flight(), word: live.measured().first_byte.word() }
    }

    fn of(&self, slot: usize, seen: Seen, now: Tick) -> f64 {
        let time = f64::from(step(Average::of(seen.word, now)));
        // Rounded in the end, so that what ties in whole numbers ties.
        f64::from((time * (f64::from(seen.in_flight) + 1.0) * self.0[slot].1) as f32)
    }
}

/// The number of the step an average in nanoseconds is on; 1 is the lowest.
fn step(average: Option<f32>) -> u32 {
    const STEPS_PER_NANO: f32 = 1.0 / (STEP_MS * 1e6);
    const HIGHEST: u32 = (LONGEST_MS / STEP_MS) as u32;
    let nanos = average.unwrap_or(0.0);
    let step = (nanos * STEPS_PER_NANO) as u32 + 1;
    if nanos > LONGEST_MS * 1e6 { HIGHEST } else { step }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{answer, hold, picks, slots};
    use super::*;

    /// The picks of an idle worker at these weights, loads and average times.
    fn check(seen: &[(u32, u32, u64)], expected: &str) {
        let slots = slots((0..).zip(seen.iter().map(|&(weight, ..)| weight)));
        let mut held = Vec::new();
        for (slot, &(_, count, millis)) in slots.iter().zip(seen) {
            held.extend(hold(slot, count));
            if millis > 0 {
                answer(slot, Tick::ZERO, 200, Duration::from_millis(millis));
            }
        }
        let picker = ResponseTime::new(1).build(slots.clone());
        assert_eq!(picks(&*picker, &slots, 0, expected.len().div_ceil(2)), expected, "{seen:?}");
    }

    #[test]
    fn times_are_raised_to_the_next_step_above() {
        for (millis, expected) in [(0.0, 1), (19.9, 1), (20.0, 2), (39.9, 2), (5_000.0, 251), (60_000.0, 250)]
        {
            assert_eq!(step(Some(millis * 1e6)), expected, "{millis}");
        }
        assert_eq!(step(None), 1);
    }

    #[test]
    fn the_fastest_takes_it_until_it_has_more_to_do() {
        check(&[(1, 0, 90), (1, 0, 30), (1, 0, 50)], "b b b");
        check(&[(1, 0, 90), (1, 2, 30), (1, 0, 50)], "c c c");
        check(&[(5, 0, 90), (1, 0, 30), (1, 0, 50)], "a a a");
        check(&[(1, 0, 90), (1, 0, 30), (1, 0, 0)], "c c c");
    }

    #[test]
    fn what_is_on_the_same_step_takes_turns() {
        check(&[(1, 0, 3), (1, 0, 19), (1, 0, 700)], "a b a b");
        check(&[(2, 1, 15), (1, 0, 15), (4, 3, 15)], "a b c a");
    }

    #[test]
    fn a_destination_that_fails_fast_is_passed_over_until_it_is_old_news() {
        let slots = slots([(0, 1), (1, 1)]);
        answer(&slots[0], Tick::ZERO, 503, Duration::ZERO);
        answer(&slots[1], Tick::ZERO, 200, Duration::from_millis(90));
        let picker = ResponseTime::new(1).build(slots.clone());
        assert_eq!(picks(&*picker, &slots, 0, 3), "b b b");
        let later = Tick::ZERO + Duration::from_secs(62);
        answer(&slots[1], later, 200, Duration::from_millis(90));
        let mut rng = crate::Rng::new(1);
        let picked = picker.pick(&crate::Want::default(), later, &mut rng);
        assert_eq!(picked, 1, "5 s halved six times is on the step of 80 ms");
        let later = later + Duration::from_secs(30);
        answer(&slots[1], later, 200, Duration::from_millis(90));
        assert_eq!(picker.pick(&crate::Want::default(), later, &mut rng), 0);
    }
}
