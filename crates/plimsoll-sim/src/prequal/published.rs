//! Results of the paper, in milliseconds unless a unit is given.

/// Returns the paper's result for the line `series` at `x`. Some of its rows are not known to us.
pub(super) fn published(figure: u8, x: &str, series: &str) -> Option<&'static str> {
    Some(match (figure, series, x) {
        (6, "weighted_round_robin", "1.03") => "p99.9 at the deadline",
        (6, "weighted_round_robin", "1.74") => "more than 25% fail",
        (6, "hcl" | "prequal", _) => "no failures",
        (7, "round_robin", "0.70") => "p90 4984, p99 late",
        (7, "round_robin", "0.90") => "p90 late, p99 late",
        (7, "weighted_by_use", "0.70") => "p90 173, p99 314",
        (7, "weighted_by_use", "0.90") => "p90 1667, p99 late",
        (7, "least_connections", "0.70") => "p90 343, p99 1804",
        (7, "least_connections", "0.90") => "p90 940, p99 2654",
        (7, "yarp", "0.70") => "p90 210, p99 2642",
        (7, "yarp", "0.90") => "p90 213, p99 1169",
        (7, "c3", "0.70") => "p90 161, p99 299",
        (7, "c3", "0.90") => "p90 164, p99 304",
        (7, "hcl" | "prequal", "0.70") => "p90 149, p99 281",
        (7, "hcl" | "prequal", "0.90") => "p90 152, p99 286",
        (9, _, "0") => "p90 93, p99 162",
        (9, _, "0.99") => "p90 75, p99 142",
        (9, _, "1") => "p99 +20%, p99.9 337 to 502",
        _ => return None,
    })
}
