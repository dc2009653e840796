//! Scenarios built into the program.

use super::{Scenario, read};

macro_rules! scenarios {
    ($($name:literal),+) => {
        /// Names of the built-in scenarios.
        pub const NAMES: &[&str] = &[$($name),+];
        const TEXTS: &[&str] = &[$(include_str!(concat!("../../scenarios/", $name, ".yaml"))),+];
    };
}

scenarios!(
    "steady",
    "two-slow",
    "slow-periods",
    "stalls",
    "refusing",
    "uniform",
    "two-speeds",
    "fast-failing",
    "returning",
    "stalling",
    "unresponsive",
    "pauses",
    "heavy-tail",
    "many-balancers"
);

/// Returns the built-in scenario of that name, a file of `scenarios/`.
pub fn built_in(name: &str) -> Option<Result<Scenario, String>> {
    let index = NAMES.iter().position(|&built_in| built_in == name)?;
    Some(read(TEXTS[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_parses_and_is_named_after_its_file() {
        for name in NAMES {
            let scenario = built_in(name).expect("known").unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(&scenario.name, name);
            assert!(!scenario.about.is_empty() && !scenario.candidates.is_empty(), "{name}");
        }
        assert!(built_in("nothing").is_none());
    }

    #[test]
    fn the_scenario_of_the_guide_parses() {
        let guide = include_str!("../../../../docs/guide/simulating.md");
        let text =
            guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
        let scenario = read(text).expect("a scenario");
        assert_eq!((scenario.destinations.len(), scenario.balancers, scenario.workers), (10, 2, 4));
    }
}
