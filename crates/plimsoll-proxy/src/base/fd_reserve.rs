//! File descriptors that clients cannot use up: the admin API and the health checks keep some.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit};

/// The last one of this many parts of the descriptors is reserved.
const RESERVED_PART: u64 = 8;
/// Maximum number of reserved descriptors: the checks of a few pools, and the admin API.
const MAX_RESERVED: u64 = 4096;

/// First reserved descriptor. The limit is read once; the program raises it before it listens.
static FIRST_RESERVED: OnceLock<RawFd> = OnceLock::new();

/// Returns the error of an exhausted limit if `file` is one of the reserved descriptors. The kernel assigns the lowest
/// free one, so the number shows how many are open.
pub(crate) fn check(file: impl AsFd) -> io::Result<()> {
    let first = *FIRST_RESERVED.get_or_init(|| first_reserved(getrlimit(Resource::Nofile).current));
    match file.as_fd().as_raw_fd() >= first {
        true => Err(rustix::io::Errno::MFILE.into()),
        false => Ok(()),
    }
}

fn first_reserved(limit: Option<u64>) -> RawFd {
    let first = limit.map(|limit| limit - limit.div_ceil(RESERVED_PART).min(MAX_RESERVED));
    first.and_then(|first| RawFd::try_from(first).ok()).unwrap_or(RawFd::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_reserved_and_at_most_4096() {
        for (limit, first) in
            [(Some(64), 56), (Some(1024), 896), (Some(1 << 20), (1 << 20) - 4096), (None, RawFd::MAX)]
        {
            assert_eq!(first_reserved(limit), first);
        }
    }
}
