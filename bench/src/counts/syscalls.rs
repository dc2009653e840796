//! System calls of a program while it serves a number of requests, counted by strace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::proxies::ChildProcess;
use crate::{clock, process};

/// Limit on one system call per request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Allowed {
    name: String,
    count: f64,
}

/// Calls and failures by name.
pub(super) struct Table(BTreeMap<String, Calls>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Calls {
    all: u64,
    failed: u64,
}

const RECEIVE: [&str; 5] = ["read", "readv", "recvfrom", "recvmsg", "recvmmsg"];
const SEND: [&str; 7] = ["write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice"];

/// Follows every thread of `program` while `work` runs.
pub(super) fn count(
    strace: &Path,
    program: &ChildProcess,
    folder: &Path,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<Table> {
    let out = folder.join("strace.out");
    let mut command: Vec<String> = vec![strace.to_string_lossy().into_owned()];
    command.extend(["-c", "-f", "-U", "calls,errors,name", "-o", &out.to_string_lossy()].map(str::to_owned));
    let family = process::tree(program.id())?;
    family.iter().for_each(|pid| command.extend(["-p".to_owned(), pid.to_string()]));
    let attached = folder.join("strace");
    fs::create_dir_all(&attached)?;
    let mut tracer = ChildProcess::start(&command, &attached)?;
    wait_until_attached(&mut tracer, threads(&family)?)?;
    let worked = work();
    tracer.signal(Signal::INT);
    tracer.ended(Duration::from_secs(10))?;
    worked?;
    Ok(Table::parse(&fs::read_to_string(out)?))
}

/// Number of threads strace has attached to; it prints a line for each process and thread.
fn wait_until_attached(tracer: &mut ChildProcess, threads: usize) -> io::Result<()> {
    let deadline = clock::now() + Duration::from_secs(10);
    loop {
        let output = tracer.output();
        let attached =
            output.lines().filter(|line| line.contains("attached")).map(attached_by).sum::<usize>();
        if attached >= threads {
            return Ok(());
        }
        if clock::now() > deadline {
            return Err(io::Error::other(format!("strace did not attach; output:\n{output}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Parses "Process 7 attached" as one and "Process 7 attached with 3 threads" as three.
fn attached_by(line: &str) -> usize {
    let count = line.split_once(" with ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    count.unwrap_or(1)
}

fn threads(pids: &[u32]) -> io::Result<usize> {
    let mut count = 0;
    for pid in pids {
        count += fs::read_dir(format!("/proc/{pid}/task"))?.count();
    }
    Ok(count)
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, count) = text.split_once('=').ok_or("expected NAME=COUNT, such as recvfrom=2")?;
        let count = count.trim().parse().map_err(|_| format!("expected a number, found '{count}'"))?;
        Ok(Self { name: name.trim().to_owned(), count })
    }
}

impl Table {
    /// Parses rows of calls, errors if any, and a name; other lines are headings and rules.
    fn parse(text: &str) -> Self {
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (all, failed, name) = match words.as_slice() {
                [all, name] => (all.parse().ok()?, 0, *name),
                [all, failed, name] => (all.parse().ok()?, failed.parse().ok()?, *name),
                _ => return None,
            };
            (name != "total").then(|| (name.to_owned(), Calls { all, failed }))
        };
        Self(text.lines().filter_map(row).collect())
    }

    /// Returns the calls for the name of a limit: a system call, or one of the four sums.
    fn named(&self, name: &str) -> u64 {
        let sum = |names: &[&str]| names.iter().map(|name| self.named(name)).sum();
        match name {
            "receive" => sum(&RECEIVE),
            // A worker is woken by a write at each tick of its clock. That depends on time and not on
            // requests, and on a busy machine a request takes longer.
            "send" => sum(&SEND) - self.named("clock_nanosleep").min(self.named("write")),
            "failed" => self.0.values().map(|calls| calls.failed).sum(),
            "total" => self.0.values().map(|calls| calls.all).sum(),
            _ => self.0.get(name).map_or(0, |calls| calls.all),
        }
    }

    pub(super) fn render(&self, requests: u64) -> String {
        let each = |count: u64| format!("{:.3}", count as f64 / requests as f64);
        let mut rows: Vec<(&String, &Calls)> = self.0.iter().collect();
        rows.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.all));
        let mut text = "| system call | per request | failed | calls |\n|---|---|---|---|\n".to_owned();
        for (name, Calls { all, failed }) in rows {
            text += &format!("| {name} | {} | {} | {all} |\n", each(*all), each(*failed));
        }
        for name in ["receive", "send", "failed", "total"] {
            text += &format!("| *{name}* | **{}** | | {} |\n", each(self.named(name)), self.named(name));
        }
        text
    }

    pub(super) fn exceeded(&self, allowed: &[Allowed], requests: u64, tolerance: f64) -> Vec<String> {
        let each = |name: &str| self.named(name) as f64 / requests as f64;
        allowed
            .iter()
            .filter(|most| each(&most.name) > most.count + tolerance)
            .map(|Allowed { name, count }| {
                format!("{:.3} {name} per request, at most {count} are allowed", each(name))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "    calls    errors syscall\n--------- --------- ----------------\n     \
        4000      1000 recvfrom\n     2000           sendto\n        3           epoll_wait\n--------- --------- \
        ----------------\n     6003      1000 total\n";

    fn check(gate: &str) -> Vec<String> {
        Table::parse(SUMMARY).exceeded(&[gate.parse().expect("a gate")], 1000, 0.05)
    }

    #[test]
    fn clock_ticks_do_not_count_as_sends() {
        let table = Table::parse("20000 sendto\n291 write\n288 clock_nanosleep\n");
        assert_eq!(table.named("send"), 20_003);
        assert_eq!(Table::parse("7 write\n").named("send"), 7);
    }

    #[test]
    fn a_gate_passes_up_to_its_count() {
        assert!(check("recvfrom=4").is_empty());
        assert!(check("send=2").is_empty());
        assert!(check("epoll_wait=0").is_empty(), "three in a thousand are within the tolerance");
        assert!(check("epoll_ctl=0").is_empty(), "none were made");
        assert_eq!(check("receive=2"), ["4.000 receive per request, at most 2 are allowed"]);
        assert_eq!(check("failed=0"), ["1.000 failed per request, at most 0 are allowed"]);
        assert_eq!(check("total=6"), Vec::<String>::new());
    }

    #[test]
    fn threads_attached_are_counted() {
        assert_eq!(attached_by("strace: Process 7 attached"), 1);
        assert_eq!(attached_by("strace: Process 7 attached with 3 threads"), 3);
    }

    #[test]
    fn a_gate_is_a_name_and_a_number() {
        assert!("recvfrom".parse::<Allowed>().is_err());
        assert!("recvfrom=two".parse::<Allowed>().is_err());
    }
}
