//! Header edits of listeners and routes, combined into one list of names to drop and one of lines to append.

use plimsoll_config::model;
use plimsoll_wire::field_names::{fold_name, folds_to};
use plimsoll_wire::http1::HeaderEdits;

/// Combines the edits of `stages`, which apply one after the other.
pub(crate) fn fold_edits(stages: &[&model::HeaderEdits]) -> HeaderEdits {
    let mut dropped: Vec<String> = Vec::new();
    let mut lines: Vec<(&str, &str)> = Vec::new();
    for stage in stages {
        let names = stage.remove.iter().chain(stage.set.iter().map(|(name, _)| name));
        for name in names {
            let folded = fold_name(name);
            lines.retain(|(line, _)| !folds_to(line, &folded));
            dropped.push(folded);
        }
        lines.extend(stage.set.iter().chain(&stage.add).map(|(n, v)| (n.as_str(), v.as_str())));
    }
    let appended = lines.iter().flat_map(|(n, v)| format!("{n}: {v}\r\n").into_bytes()).collect();
    HeaderEdits { dropped, decisive: Vec::new(), appended }
}

/// Returns the names of fields that decide about a request of a listener: those that its routes match on and that a
/// pool hashes, in lower case and folded.
pub(crate) fn decisive_fields<'n>(names: impl Iterator<Item = &'n str>) -> Vec<(String, String)> {
    let mut names: Vec<_> = names.map(|name| (name.to_ascii_lowercase(), fold_name(name))).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> model::HeaderEdits {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        model::HeaderEdits::new(pairs(set), pairs(add), remove.iter().map(|n| (*n).into()).collect())
    }

    #[test]
    fn edits_of_a_route_apply_after_those_of_its_listener() {
        let listener = edits(&[("x-a", "1"), ("x-b", "1")], &[("x-c", "1")], &[]);
        let route = edits(&[("x-a", "2")], &[("x-c", "2")], &["x-b"]);
        let folded = fold_edits(&[&listener, &route]);
        assert_eq!(
            String::from_utf8(folded.appended.clone()).expect("ascii"),
            "x-c: 1\r\nx-a: 2\r\nx-c: 2\r\n"
        );
        assert!(folded.drops("X-A") && folded.drops("x_b") && !folded.drops("x-c"));
    }

    #[test]
    fn only_the_configured_spelling_of_a_decisive_field_passes() {
        let decisive = decisive_fields(["x-tenant", "X_Canary"].into_iter());
        let edits = HeaderEdits { decisive, ..HeaderEdits::default() };
        assert!(!edits.drops("X-Tenant") && !edits.drops("x_canary") && !edits.drops("x-other"));
        assert!(edits.drops("X_Tenant") && edits.drops("x.tenant") && edits.drops("X-Canary"));
        assert!(edits.drops_trailer("X-Tenant") && !edits.drops_trailer("x-other"));
    }
}
