//! Sequence of turns of a weighted rotation.

use std::collections::BTreeMap;

/// Maximum number of turns in an exact cycle (sum of weights over their greatest common divisor); beyond it the weights
/// are scaled down. 65,536 turns fit a 16-bit index and 128 KiB.
pub(super) const EXACT_TURNS: u64 = 65_536;

/// One cycle of nginx's smooth weighted round robin, as indexes of slots.
#[derive(Debug)]
pub(super) enum Sequence {
    /// Cycle of up to 65,536 slots.
    Short(Box<[u16]>),
    /// Cycle of more slots.
    Long(Box<[u32]>),
}

impl Sequence {
    /// Creates the cycle for these weights, all above 0.
    pub(super) fn new(weights: &[u32]) -> Self {
        let shares = shares(weights);
        if weights.len() <= usize::from(u16::MAX) + 1 {
            Self::Short(turns(&shares).map(|index| index as u16).collect())
        } else {
            Self::Long(turns(&shares).collect())
        }
    }

    /// Returns the number of turns in one cycle.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Short(turns) => turns.len(),
            Self::Long(turns) => turns.len(),
        }
    }

    /// Returns the slot at `place`, which is below [`len`](Self::len).
    pub(super) fn at(&self, place: usize) -> usize {
        match self {
            Self::Short(turns) => usize::from(turns[place]),
            Self::Long(turns) => turns[place] as usize,
        }
    }
}

/// Returns the turns of each slot in one cycle: the weights over their common divisor or, if that is too long, the
/// nearest whole numbers of at least 1 that sum to the longest cycle (one each, if there are more slots than turns).
fn shares(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, common_divisor).max(1);
    let sum: u64 = weights.iter().map(|&w| u64::from(w / divisor)).sum();
    if sum <= EXACT_TURNS {
        return weights.iter().map(|w| w / divisor).collect();
    }
    apportion(weights, EXACT_TURNS.max(weights.len() as u64))
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Divides `seats` by largest remainder (ties to the lower index), at least one each.
fn apportion(weights: &[u32], seats: u64) -> Vec<u32> {
    let mut by_weight: Vec<usize> = (0..weights.len()).collect();
    by_weight.sort_by_key(|&i| weights[i]);
    let (mut seats, mut sum) = (u128::from(seats), weights.iter().map(|&w| u128::from(w)).sum::<u128>());
    let mut shares = vec![1_u32; weights.len()];
    // The lightest first: a slot with a claim below one seat takes one, and the others share the rest.
    let light = by_weight.iter().take_while(|&&i| {
        let deserves_less = u128::from(weights[i]) * seats < sum;
        if deserves_less {
            seats -= 1;
            sum -= u128::from(weights[i]);
        }
        deserves_less
    });
    let light = light.count();
    let mut rest = by_weight.split_off(light);
    let mut left = seats;
    for &i in &rest {
        shares[i] = (u128::from(weights[i]) * seats / sum) as u32;
        left -= u128::from(shares[i]);
    }
    rest.sort_by_key(|&i| (std::cmp::Reverse(u128::from(weights[i]) * seats % sum), i));
    for &i in rest.iter().take(left as usize) {
        shares[i] += 1;
    }
    shares
}

/// Slots of one weight. The smooth algorithm always prefers the one of them that was chosen least often, the first in
/// the list among equals. So a group is a plain round robin, and only its next slot can be chosen.
struct Group {
    weight: i64,
    members: Vec<u32>,
    next: usize,
    /// nginx's `current_weight` of the next in turn.
    current: i64,
}

/// One cycle of the smooth algorithm: each step every current weight grows by its weight, the greatest wins
/// (the lowest index among equals) and pays the total. One comparison per distinct weight and step, and a
/// cycle of 65,536 turns holds at most 361 distinct weights: 18 ms at worst, off the request path.
fn turns(shares: &[u32]) -> impl Iterator<Item = u32> {
    let mut by_share: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (index, &share) in shares.iter().enumerate() {
        by_share.entry(share).or_default().push(index as u32);
    }
    let mut groups: Vec<Group> = by_share
        .into_iter()
        .map(|(share, members)| Group { weight: i64::from(share), members, next: 0, current: 0 })
        .collect();
    let total: i64 = shares.iter().map(|&share| i64::from(share)).sum();
    (0..total).map(move |_| {
        let (mut best, mut most, mut winner) = (0, i64::MIN, u32::MAX);
        for (at, group) in groups.iter_mut().enumerate() {
            group.current += group.weight;
            let candidate = group.members[group.next];
            if group.current > most || (group.current == most && candidate < winner) {
                (best, most, winner) = (at, group.current, candidate);
            }
        }
        let group = &mut groups[best];
        group.next += 1;
        if group.next == group.members.len() {
            group.next = 0;
            group.current -= total;
        }
        winner
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn cycle(weights: &[u32]) -> Vec<usize> {
        let sequence = Sequence::new(weights);
        (0..sequence.len()).map(|place| sequence.at(place)).collect()
    }

    /// `ngx_http_upstream_get_peer`, without failures.
    fn nginx(weights: &[u32], picks: usize) -> Vec<usize> {
        let total: i64 = weights.iter().map(|&w| i64::from(w)).sum();
        let mut current = vec![0_i64; weights.len()];
        (0..picks)
            .map(|_| {
                let mut best: Option<usize> = None;
                for i in 0..weights.len() {
                    current[i] += i64::from(weights[i]);
                    if best.is_none_or(|b| current[i] > current[b]) {
                        best = Some(i);
                    }
                }
                let best = best.expect("some weight");
                current[best] -= total;
                best
            })
            .collect()
    }

    #[test]
    fn weights_5_1_1_make_a_a_b_a_c_a_a() {
        assert_eq!(cycle(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(cycle(&[1280, 256, 256]), [0, 0, 1, 0, 2, 0, 0], "256ths of the same");
    }

    #[test]
    fn every_sequence_equals_nginx() {
        for seed in 0..400 {
            let mut rng = Rng::new(seed);
            let spread = [1, 2, 3, 5, 10, 100][rng.index(6)];
            let factor = 1 + rng.below(3) as u32;
            let weights: Vec<u32> =
                (0..=rng.index(40)).map(|_| factor * (1 + rng.below(spread) as u32)).collect();
            let ours = cycle(&weights);
            let theirs = nginx(&weights, 2 * ours.len());
            assert_eq!(ours, theirs[..ours.len()], "seed {seed}: {weights:?}");
            assert_eq!(ours, theirs[ours.len()..], "seed {seed}: not one whole cycle of {weights:?}");
        }
    }

    #[test]
    fn long_cycle_of_many_weights_equals_nginx() {
        let weights: Vec<u32> = (1..=361).collect();
        let ours = cycle(&weights);
        assert_eq!(ours.len(), 65_341);
        assert_eq!(ours, nginx(&weights, ours.len()));
    }

    #[test]
    fn long_cycle_is_scaled_within_one_turn() {
        for seed in 0..100 {
            let mut rng = Rng::new(seed);
            let weights: Vec<u32> =
                (0..2 + rng.index(50)).map(|_| 100_000 + rng.below(16_000_000) as u32).collect();
            let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let shares = shares(&weights);
            assert_eq!(shares.iter().map(|&s| u64::from(s)).sum::<u64>(), EXACT_TURNS, "seed {seed}");
            for (&weight, &share) in weights.iter().zip(&shares) {
                let due = f64::from(weight) / sum * EXACT_TURNS as f64;
                assert!(
                    (f64::from(share) - due).abs() <= 1.0,
                    "seed {seed}: {share} for {due} of {weights:?}"
                );
            }
        }
    }

    #[test]
    fn lightest_slots_keep_one_turn_each() {
        let mut weights = vec![1; 1000];
        weights.push(16_776_960);
        let shares = shares(&weights);
        assert!(shares[..1000].iter().all(|&share| share == 1));
        assert_eq!(shares[1000], 64_536);
        let crowd = [1, 2].repeat(40_000);
        assert!(super::shares(&crowd).iter().all(|&share| share == 1), "more slots than turns");
        assert_eq!(Sequence::new(&crowd).len(), 80_000);
    }
}
