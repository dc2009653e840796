//! Which scenarios are built in.

use super::{Scenario, read};

macro_rules! built_in {
    ($($name:literal),+) => {
        /// Their names.
        pub const NAMES: &[&str] = &[$($name),+];
        const TEXTS: &[&str] = &[$(include_str!(concat!("../../scenarios/", $name, ".yaml"))),+];
    };
}

built_in!(
    "steady",
    "two-slow",
    "spells",
    "stalls",
    "refusing",
    "uniform",
    "two-speeds",
    "fast-failing",
    "returning",
    "stalling",
    "silent",
    "pauses",
    "heavy-tail",
    "many-balancers"
);

/// The built-in scenario of that name, a file of `scenarios/`.
pub fn known(name: &str) -> Option<Result<Scenario, String>> {
    let index = NAMES.iter().position(|&known| known == name)?;
    Some(read(TEXTS[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_is_one_and_has_its_file_s_name() {
        for name in NAMES {
            let scenario = known(name).expect("known").unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(&scenario.name, name);
            assert!(!scenario.about.is_empty() && !scenario.contenders.is_empty(), "{name}");
        }
        assert!(known("nothing").is_none());
    }

    #[test]
    fn the_guide_s_scenario_is_one() {
        let guide = include_str!("../../../../docs/guide/simulating.md");
        let text =
            guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
        let scenario = read(text).expect("a scenario");
        assert_eq!((scenario.sites.len(), scenario.balancers, scenario.workers), (10, 2, 4));
    }
}
