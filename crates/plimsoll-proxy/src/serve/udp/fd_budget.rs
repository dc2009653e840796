//! How many flows the system has room for, with something left for checks, connections and the admin plane.

use std::fs;
use std::os::fd::RawFd;

use rustix::process::{Resource, getrlimit};

/// This share of files and ports is never taken by flows: were it, anybody who sends datagrams under many
/// addresses could keep us from checking destinations.
const LEFT: u64 = 8;
/// What Linux gives as shipped.
const PORTS: (u64, u64) = (32_768, 60_999);

/// What bounds flows beside `max_flows`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// The highest number a flow's descriptor may have. The system gives the lowest that is free, so the
    /// number says how many are open, whatever for.
    pub(crate) descriptor: RawFd,
    /// Flows of one listener. Each has a port of its own, whichever destination it leads to.
    pub(crate) flows: usize,
}

impl Room {
    /// As the system says now.
    pub(crate) fn of_system() -> Self {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        Self::of(getrlimit(Resource::Nofile).current, range.ok().as_deref().and_then(parse))
    }

    fn of(files: Option<u64>, ports: Option<(u64, u64)>) -> Self {
        let less = |all: u64| all - all.div_ceil(LEFT).min(all);
        let (low, high) = ports.unwrap_or(PORTS);
        Self {
            descriptor: files.map_or(RawFd::MAX, |files| RawFd::try_from(less(files)).unwrap_or(RawFd::MAX)),
            flows: usize::try_from(less((high + 1).saturating_sub(low))).unwrap_or(usize::MAX).max(1),
        }
    }
}

fn parse(range: &str) -> Option<(u64, u64)> {
    let mut numbers = range.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_left() {
        let shipped = Room { descriptor: 896, flows: 24_703 };
        assert_eq!(Room::of(Some(1024), parse("32768\t60999\n")), shipped);
        assert_eq!(Room::of(Some(1024), parse("nonsense")), shipped);
        assert_eq!(Room::of(None, Some((1024, 65_535))), Room { descriptor: RawFd::MAX, flows: 56_448 });
    }
}
