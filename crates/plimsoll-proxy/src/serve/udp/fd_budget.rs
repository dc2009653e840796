//! Limits of flows by descriptors and ports, which leave some for health checks, connections and the admin
//! API.

use std::fs;
use std::os::fd::RawFd;

use rustix::process::{Resource, getrlimit};

/// Flows never use the last one of this many parts of files and ports. Otherwise a client that sends
/// datagrams from many addresses could stop the health checks.
const RESERVED_PART: u64 = 8;
/// Port range of Linux by default.
const DEFAULT_PORT_RANGE: (u64, u64) = (32_768, 60_999);

/// Limits of flows beside `max_flows`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct FdBudget {
    /// Highest descriptor of a flow. The kernel assigns the lowest free one, so the number shows how many are
    /// open.
    pub(crate) max_fd: RawFd,
    /// Maximum number of flows of a listener. Each has its own local port, whatever its destination.
    pub(crate) max_flows: usize,
}

impl FdBudget {
    /// Reads the limits of the process and the system.
    pub(crate) fn from_system() -> Self {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        Self::new(getrlimit(Resource::Nofile).current, range.ok().as_deref().and_then(parse_range))
    }

    fn new(files: Option<u64>, ports: Option<(u64, u64)>) -> Self {
        let usable = |all: u64| all - all.div_ceil(RESERVED_PART).min(all);
        let (low, high) = ports.unwrap_or(DEFAULT_PORT_RANGE);
        Self {
            max_fd: files.map_or(RawFd::MAX, |files| RawFd::try_from(usable(files)).unwrap_or(RawFd::MAX)),
            max_flows: usize::try_from(usable((high + 1).saturating_sub(low))).unwrap_or(usize::MAX).max(1),
        }
    }
}

fn parse_range(range: &str) -> Option<(u64, u64)> {
    let mut numbers = range.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_reserved() {
        let expected = FdBudget { max_fd: 896, max_flows: 24_703 };
        assert_eq!(FdBudget::new(Some(1024), parse_range("32768\t60999\n")), expected);
        assert_eq!(FdBudget::new(Some(1024), parse_range("nonsense")), expected);
        assert_eq!(
            FdBudget::new(None, Some((1024, 65_535))),
            FdBudget { max_fd: RawFd::MAX, max_flows: 56_448 }
        );
    }
}
