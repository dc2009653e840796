//! Suggestion of a known word for a misspelt one.

/// Maximum length of words that are compared. The comparison takes quadratic time.
const MAX_LENGTH: usize = 40;

/// Terms of other load balancers, with keys and values of this one. A term may have several meanings: the one that is
/// known at its place is suggested.
const SYNONYMS: [(&str, &str); 62] = [
    ("backend", "pool"),
    ("backend", "destinations"),
    ("backend", "address"),
    ("backends", "pools"),
    ("backends", "destinations"),
    ("backup", "priority"),
    ("balance", "algorithm"),
    ("bind", "listen"),
    ("bind", "address"),
    ("check", "health_monitoring"),
    ("cluster", "pool"),
    ("clusters", "pools"),
    ("endpoint", "address"),
    ("endpoints", "destinations"),
    ("ewma", "peak_ewma"),
    ("fail_timeout", "base_ejection"),
    ("fall", "failure_threshold"),
    ("frontends", "listeners"),
    ("health_check", "health_monitoring"),
    ("health_checks", "health_monitoring"),
    ("healthcheck", "health_monitoring"),
    ("hostname", "host"),
    ("hosts", "destinations"),
    ("id", "name"),
    ("inter", "check_interval"),
    ("interval", "check_interval"),
    ("ip_hash", "source_hash"),
    ("iphash", "source_hash"),
    ("lb_policy", "algorithm"),
    ("least_conn", "least_connections"),
    ("least_request", "least_connections"),
    ("least_requests", "least_connections"),
    ("least_time", "response_time"),
    ("leastconn", "least_connections"),
    ("listener", "listeners"),
    ("maglev", "hash"),
    ("max_conns", "connections"),
    ("max_fails", "consecutive_failures"),
    ("maxconn", "connections"),
    ("method", "algorithm"),
    ("methods", "method"),
    ("name", "id"),
    ("policy", "algorithm"),
    ("power_of_two_choices", "p2c"),
    ("proxy_pass", "pool"),
    ("retries", "retry"),
    ("ring_hash", "hash"),
    ("rise", "recovery_threshold"),
    ("rr", "round_robin"),
    ("server", "address"),
    ("servers", "destinations"),
    ("service", "pool"),
    ("services", "pools"),
    ("source", "source_hash"),
    ("static_rr", "weighted_round_robin"),
    ("strategy", "algorithm"),
    ("targets", "destinations"),
    ("upstream", "pool"),
    ("upstreams", "pools"),
    ("uri", "hash"),
    ("url", "address"),
    ("wrr", "weighted_round_robin"),
];

/// Returns the word of `known` that is most similar to `word`, if one is similar enough.
pub(crate) fn suggest<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> Option<&'k str> {
    if word.is_empty() || word.len() > MAX_LENGTH {
        return None;
    }
    let plain = word.to_ascii_lowercase().replace('-', "_");
    let find = |word: &str| known.clone().into_iter().find(|k| *k == word);
    let mut synonyms = SYNONYMS.iter().filter(|(other, _)| *other == plain);
    if let Some(found) = find(&plain).or_else(|| synonyms.find_map(|(_, key)| find(key))) {
        return Some(found);
    }
    let limit = (plain.chars().count() / 3).max(1);
    known
        .into_iter()
        .filter(|k| k.len() <= MAX_LENGTH && may_be_meant(&plain, &k.to_ascii_lowercase()))
        .map(|k| (distance(&plain, &k.to_ascii_lowercase()), k))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// Returns whether `known` may be a misspelt `word`: a number is another number, and not a misspelt one; and in a name of
/// several words each word must be similar, so that `path_regex` is not taken for `path_prefix`.
fn may_be_meant(word: &str, known: &str) -> bool {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    if digits(word) != digits(known) {
        return false;
    }
    let (words, others): (Vec<&str>, Vec<&str>) = (word.split('_').collect(), known.split('_').collect());
    words.len() != others.len()
        || words.iter().zip(&others).all(|(a, b)| distance(a, b) <= (b.chars().count() / 3).max(1))
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

    #[test]
    fn words_of_other_balancers_are_understood_where_they_have_a_meaning() {
        let algorithms = ["round_robin", "least_connections", "source_hash", "hash", "p2c", "response_time"];
        for (word, meant) in [
            ("leastconn", "least_connections"),
            ("least_conn", "least_connections"),
            ("LEAST_REQUEST", "least_connections"),
            ("ip_hash", "source_hash"),
            ("RING_HASH", "hash"),
            ("least-time", "response_time"),
        ] {
            assert_eq!(suggest(word, algorithms), Some(meant), "{word}");
        }
        let destination = ["id", "address", "weight", "priority", "zone", "labels"];
        for (word, meant) in
            [("backup", "priority"), ("url", "address"), ("name", "id"), ("server", "address")]
        {
            assert_eq!(suggest(word, destination), Some(meant), "{word}");
        }
        assert_eq!(suggest("backend", ["match", "pool"]), Some("pool"));
        assert_eq!(suggest("backend", ["listen", "destinations"]), Some("destinations"));
        assert_eq!(suggest("upstream", ["name", "pool"]), Some("pool"));
    }

    #[test]
    fn other_words_and_numbers_are_not_taken_for_misspelt_ones() {
        assert_eq!(suggest("path_regex", ["host", "path_prefix", "method"]), None);
        assert_eq!(suggest("1.1", ["1.2", "1.3"]), None);
        assert_eq!(suggest("http3", ["http1", "http2"]), None);
        assert_eq!(suggest("path_prefx", ["host", "path_prefix", "method"]), Some("path_prefix"));
    }
}
