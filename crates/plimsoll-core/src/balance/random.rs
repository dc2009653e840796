//! Being written.
use super::*;
pub use super::rotation::LeastConnections as Random;
pub use super::rotation::LeastConnections as P2c;
