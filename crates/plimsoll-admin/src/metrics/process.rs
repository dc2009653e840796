//! The standard `process_*` metrics, from `/proc`.

use std::fs;

use super::text::Text;

/// Writes the metrics that can be read: none on systems without `/proc`.
pub(crate) fn write(text: &mut Text<'_>) {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Stat::parse(&stat)) {
        text.counter("process_cpu_seconds_total", "Total user and system CPU time in seconds.")
            .sample(&[], stat.cpu_ticks as f64 / ticks);
        text.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")
            .sample(&[], stat.virtual_bytes);
        text.gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
            .sample(&[], stat.resident_pages * rustix::param::page_size() as u64);
        text.gauge("process_threads", "Number of threads.").sample(&[], stat.threads);
        if let Some(boot) =
            fs::read_to_string("/proc/stat").ok().and_then(|stat| number_after(&stat, "btime "))
        {
            text.gauge(
                "process_start_time_seconds",
                "Start time of the process in seconds since the Unix epoch.",
            )
            .sample(&[], boot as f64 + stat.start_ticks as f64 / ticks);
        }
    }
    let buffered = plimsoll_proxy::buffered_bytes();
    text.gauge("plimsoll_buffered_bytes", "Bytes buffered for peers that do not read.")
        .sample(&[], buffered.current);
    text.gauge(
        "plimsoll_buffered_max_bytes",
        "Buffered bytes from which new requests are refused (`memory_limit`).",
    )
    .sample(&[], buffered.max);
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One descriptor is that of the directory itself.
        text.gauge("process_open_fds", "Number of open file descriptors.")
            .sample(&[], open.count().saturating_sub(1));
    }
    let limits = fs::read_to_string("/proc/self/limits");
    if let Some(max) = limits.ok().and_then(|limits| number_after(&limits, "Max open files")) {
        text.gauge("process_max_fds", "Maximum number of open file descriptors.").sample(&[], max);
    }
}

/// Returns the first number after `key` at the start of a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The used fields of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// Parses `/proc/self/stat` (proc_pid_stat(5)). The name in parentheses may contain any character, so fields
    /// are counted from the last parenthesis on, which precedes field 3.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_with_parentheses_does_not_shift_fields() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 700 30 13 14 15 16 4 18 9000 123456 77 20";
        let want = Stat {
            cpu_ticks: 730,
            threads: 4,
            start_ticks: 9000,
            virtual_bytes: 123_456,
            resident_pages: 77,
        };
        assert_eq!(Stat::parse(stat), Some(want));
        assert_eq!(Stat::parse("42 (x"), None);
    }
}
