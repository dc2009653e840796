//! CPU time and memory of a proxy, over all its threads and processes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

/// CPU time up to one moment.
pub(crate) struct CpuTime {
    /// Nanoseconds on a CPU by thread, from the scheduler.
    threads: BTreeMap<u32, u64>,
    /// User and system clock ticks of the processes, ended threads included.
    user: u64,
    system: u64,
}

/// CPU time between two moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CpuUse {
    pub(crate) total: Duration,
    /// Share of it in user mode, 0 to 1. The kernel samples it, so it is accurate to a few percent.
    pub(crate) user_share: f64,
    /// Whether threads ended in between, so that their time is missing from `total`.
    pub(crate) incomplete: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident bytes summed over the processes; shared pages count in each.
    pub(crate) resident: u64,
    /// Proportional bytes: shared pages are divided among the processes that share them.
    pub(crate) proportional: u64,
}

/// Returns `root` and all its descendants.
pub(crate) fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    Ok(found)
}

pub(crate) fn cpu_time(pids: &[u32]) -> io::Result<CpuTime> {
    let mut time = CpuTime { threads: BTreeMap::new(), user: 0, system: 0 };
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            let thread = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            // A thread may end between the listing and the reading.
            let (Some(thread), Ok(text)) = (thread, fs::read_to_string(path.join("schedstat"))) else {
                continue;
            };
            time.threads.insert(thread, field(&text, 0));
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        time.user += field(after_name(&stat), 11);
        time.system += field(after_name(&stat), 12);
    }
    Ok(time)
}

impl CpuTime {
    pub(crate) fn since(&self, earlier: &Self) -> CpuUse {
        let used =
            |(thread, nanos): (&u32, &u64)| nanos - earlier.threads.get(thread).unwrap_or(&0).min(nanos);
        let total = Duration::from_nanos(self.threads.iter().map(used).sum());
        let (user, system) = (self.user - earlier.user, self.system - earlier.system);
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let whole = (user + system) as f64 * tick;
        CpuUse {
            total,
            user_share: if whole > 0.0 { user as f64 * tick / whole } else { 0.0 },
            incomplete: whole > total.as_secs_f64() * 1.02 + 3.0 * tick,
        }
    }
}

pub(crate) fn memory(pids: &[u32]) -> io::Result<Memory> {
    let mut memory = Memory { resident: 0, proportional: 0 };
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kilobytes = |key: &str| {
            let line = rollup.lines().find(|line| line.starts_with(key));
            line.map_or(0, |line| field(line, 1))
        };
        memory.resident += kilobytes("Rss:") * 1024;
        memory.proportional += kilobytes("Pss:") * 1024;
    }
    Ok(memory)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(field(after_name(&stat), 1) as u32)
}

/// Fields after the command name, which may itself hold spaces and brackets; field 0 is the state.
fn after_name(stat: &str) -> &str {
    stat.rsplit_once(") ").map_or("", |(_, rest)| rest)
}

fn field(text: &str, index: usize) -> u64 {
    text.split_whitespace().nth(index).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(threads: &[(u32, u64)], user: u64, system: u64) -> CpuTime {
        CpuTime { threads: threads.iter().copied().collect(), user, system }
    }

    #[test]
    fn cpu_time_is_summed_over_old_and_new_threads() {
        let before = time(&[(1, 1_000_000_000), (2, 500_000_000)], 100, 50);
        let after = time(&[(1, 1_600_000_000), (2, 500_000_000), (3, 400_000_000)], 125, 125);
        let used = after.since(&before);
        assert_eq!(used, CpuUse { total: Duration::from_secs(1), user_share: 0.25, incomplete: false });
    }

    #[test]
    fn an_ended_thread_is_detected() {
        let before = time(&[(1, 0), (2, 0)], 0, 0);
        let after = time(&[(1, 500_000_000)], 50, 50);
        assert!(after.since(&before).incomplete);
    }

    #[test]
    fn this_process_is_its_own_tree_and_has_memory() {
        let pids = tree(std::process::id()).expect("a readable /proc");
        assert_eq!(pids[0], std::process::id());
        assert!(memory(&pids[..1]).expect("readable").resident > 100_000);
        assert!(!cpu_time(&pids[..1]).expect("readable").threads.is_empty());
    }
}
