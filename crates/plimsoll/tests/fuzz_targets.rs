//! The fuzz targets of `fuzz/` for configurations and formulas, on a bounded number of inputs.

#[allow(unreachable_pub)] // Public for the fuzz targets.
#[path = "../../../fuzz/src/config.rs"]
mod config;
#[allow(unreachable_pub)] // Public for the fuzz targets.
#[path = "../../../fuzz/src/formula.rs"]
mod formula;
#[allow(unreachable_pub)] // Public for the fuzz targets.
#[path = "../../../fuzz/src/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn config() {
    replay("config", 1000, config::config);
}

#[test]
fn formula() {
    replay("formula", 4000, formula::formula);
}
