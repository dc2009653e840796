//! Which known word a misspelt one was meant to be.

/// Words longer than this are not compared: nobody mistypes a name that long, and comparing costs its
/// square.
const LONGEST: usize = 40;

/// What people coming from other balancers write, and what it is called here.
const SYNONYMS: [(&str, &str); 16] = [
    ("backend", "pool"),
    ("backends", "pools"),
    ("balance", "algorithm"),
    ("bind", "listen"),
    ("clusters", "pools"),
    ("frontends", "listeners"),
    ("health_check", "health_monitoring"),
    ("health_checks", "health_monitoring"),
    ("lb_policy", "algorithm"),
    ("listener", "listeners"),
    ("methods", "method"),
    ("retries", "retry"),
    ("servers", "destinations"),
    ("services", "pools"),
    ("strategy", "algorithm"),
    ("upstreams", "pools"),
];

/// The word of `known` closest to `word`, if one is close enough to be meant.
pub(crate) fn suggest<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> Option<&'k str> {
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let plain = word.to_ascii_lowercase().replace('-', "_");
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == plain).map(|(_, ours)| *ours);
    if let Some(found) = known.clone().into_iter().find(|k| *k == plain || Some(*k) == synonym) {
        return Some(found);
    }
    let limit = (plain.chars().count() / 3).max(1);
    known
        .into_iter()
        .filter(|k| k.len() <= LONGEST)
        .map(|k| (distance(&plain, &k.to_ascii_lowercase()), k))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// Optimal string alignment: letters inserted, dropped, replaced, or two neighbours swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_a_stranger_is_not() {
        let known = ["algorithm", "destinations", "pool", "pools", "timeouts"];
        for (word, meant) in [
            ("algoritm", Some("algorithm")),
            ("algorihtm", Some("algorithm")),
            ("timeout", Some("timeouts")),
            ("Pools", Some("pools")),
            ("servers", Some("destinations")),
            ("balance", Some("algorithm")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(suggest(word, known), meant, "{word}");
        }
        assert_eq!(suggest(&"pool".repeat(100), known), None);
    }
}
