//! Bound on the bytes that the whole process buffers for peers that do not read.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes in all write buffers of the process.
static BUFFERED: AtomicUsize = AtomicUsize::new(0);
/// Number of buffered bytes from which new requests are refused.
static MAX_BUFFERED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Buffered bytes of the process, and their limit.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferedBytes {
    /// Bytes that peers have not read yet.
    pub current: usize,
    /// Limit from which new requests are refused.
    pub max: usize,
}

/// Returns the buffered bytes of the process, and their limit.
pub fn buffered_bytes() -> BufferedBytes {
    BufferedBytes { current: BUFFERED.load(Relaxed), max: MAX_BUFFERED.load(Relaxed) }
}

/// Sets the limit for the whole process.
pub(crate) fn set_max_buffered(max: usize) {
    MAX_BUFFERED.store(max, Relaxed);
}

/// Reports whether the limit is reached.
pub(crate) fn is_full() -> bool {
    BUFFERED.load(Relaxed) >= MAX_BUFFERED.load(Relaxed)
}

/// Size of a buffer as it was last counted.
#[derive(Debug, Default)]
pub(crate) struct CountedBytes(usize);

impl CountedBytes {
    /// Counts the buffer with its current size.
    pub(crate) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.0, bytes);
        if bytes > before {
            BUFFERED.fetch_add(bytes - before, Relaxed);
        } else if bytes < before {
            BUFFERED.fetch_sub(before - bytes, Relaxed);
        }
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Returns the memory that this process may use: the limit of its cgroup, else that of the machine; `None` if neither
/// is known.
pub(crate) fn available_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text));
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").ok();
    let cgroup = cgroup.and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        // A limit of any group above applies as well.
        let above = std::path::Path::new(&path).ancestors();
        above.filter_map(|group| cgroup_limit(&std::path::Path::new("/sys/fs/cgroup").join(group))).min()
    });
    machine.into_iter().chain(cgroup).min()
}

/// Returns the limit of a cgroup; `None` without a limit.
fn cgroup_limit(group: &std::path::Path) -> Option<u64> {
    std::fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()
}

/// Returns `MemTotal` of `/proc/meminfo`, in bytes.
fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_machine_is_read_in_bytes() {
        assert_eq!(meminfo_total("MemTotal:        8039360 kB\nMemFree: 1 kB\n"), Some(8_039_360 * 1024));
        assert_eq!(meminfo_total("MemFree: 1 kB\n"), None);
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
