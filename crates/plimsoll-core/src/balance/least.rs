//! Being written.
pub use super::rotation::LeastConnections;
