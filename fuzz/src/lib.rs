//! Bodies of the fuzz targets, shared with the test suites of the crates they test.

pub mod config;
pub mod formula;
pub mod wire;
