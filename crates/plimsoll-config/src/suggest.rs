//! Suggestion of a known word for a misspelt one.

/// Maximum length of words that are compared. The comparison takes quadratic time.
const MAX_LENGTH: usize = 40;

/// Terms of other load balancers, with the keys of this one.
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

/// Returns the word of `known` that is most similar to `word`, if one is similar enough.
pub(crate) fn suggest<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> Option<&'k str> {
    if word.is_empty() || word.len() > MAX_LENGTH {
        return None;
    }
    let plain = word.to_ascii_lowercase().replace('-', "_");
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == plain).map(|(_, key)| *key);
    if let Some(found) = known.clone().into_iter().find(|k| *k == plain || Some(*k) == synonym) {
        return Some(found);
    }
    let limit = (plain.chars().count() / 3).max(1);
    known
        .into_iter()
        .filter(|k| k.len() <= MAX_LENGTH)
        .map(|k| (distance(&plain, &k.to_ascii_lowercase()), k))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// Returns the optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours.
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
    fn similar_words_are_suggested_and_others_are_not() {
        let known = ["algorithm", "destinations", "pool", "pools", "timeouts"];
        for (word, suggestion) in [
            ("algoritm", Some("algorithm")),
            ("algorihtm", Some("algorithm")),
            ("timeout", Some("timeouts")),
            ("Pools", Some("pools")),
            ("servers", Some("destinations")),
            ("balance", Some("algorithm")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(suggest(word, known), suggestion, "{word}");
        }
        assert_eq!(suggest(&"pool".repeat(100), known), None);
    }
}
