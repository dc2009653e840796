//! How h2load (of nghttp2) drives HTTP/2, and whether all that it was told is as it should be.
//!
//! It is a client in C that is no work of ours and that others measure with, and as cheap as a client can be.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::client::Tally;
use super::pace::Pace;
use crate::{certificate, peers};

/// Requests under way at a time on each connection.
pub(crate) const STREAMS: usize = 16;
/// What is asked for, and how long each answer must be.
const PATH: &str = "/128";
const BODY: u64 = 128;
/// A connection on which nothing happens for so long has failed.
const STALLED: &str = "5s";
/// A warm-up tells the rate from which the measured count is planned, so there must be one.
const SHORTEST: Duration = Duration::from_millis(100);

pub(crate) struct H2load {
    program: PathBuf,
    target: SocketAddr,
    secure: bool,
    connections: usize,
    /// Answers a second in the warm-up.
    rate: f64,
}

/// What it printed, as far as it matters.
#[derive(Debug, PartialEq)]
struct Printed {
    protocol: String,
    /// Version and suite of TLS.
    tls: Option<(String, String)>,
    rate: f64,
    done: u64,
    /// Requests that failed or were never answered.
    failed: u64,
    good: u64,
    /// Answers of another status than 2xx.
    bad: u64,
    body: u64,
}

impl H2load {
    pub(crate) fn new(target: SocketAddr, secure: bool) -> io::Result<Self> {
        let program = peers::find("h2load");
        let missing = || io::Error::other("h2load is not installed (Debian: apt-get install nghttp2-client)");
        Ok(Self { program: program.ok_or_else(missing)?, target, secure, connections: 0, rate: 0.0 })
    }

    /// So many more connections in each of the coming runs.
    pub(super) fn open(&mut self, count: usize) {
        self.connections += count;
    }

    /// Drives for `period`, on connections that end with it.
    pub(super) fn warm_up(&mut self, pace: Pace, period: Duration) -> io::Result<Tally> {
        let period = format!("{}ms", period.max(SHORTEST).as_millis());
        let printed = self.run(&["-D", &period], pace)?;
        if printed.bad > 0 || printed.failed > 0 {
            return Err(printed.wrong());
        }
        self.rate = printed.rate;
        Ok(Tally::of(printed.done))
    }

    /// As many requests as `period` should take, on connections of their own. A count and no length of time:
    /// so none is under way when it ends, and the work of a balancer belongs to it from beginning to end.
    pub(super) fn measure(&mut self, pace: Pace, period: Duration) -> io::Result<Tally> {
        self.exchange(pace, (self.rate * period.as_secs_f64()).ceil() as u64)
    }

    /// This many requests, each of which must have been answered well.
    pub(super) fn exchange(&mut self, pace: Pace, count: u64) -> io::Result<Tally> {
        if count == 0 {
            return Ok(Tally::of(0));
        }
        // It wants a request for each connection at least.
        let count = count.max(self.connections as u64);
        let printed = self.run(&["-n", &count.to_string()], pace)?;
        if printed.is_good(count) { Ok(Tally::of(count)) } else { Err(printed.wrong()) }
    }

    fn run(&self, amount: &[&str], pace: Pace) -> io::Result<Printed> {
        let (connections, streams) = (self.connections.to_string(), STREAMS.to_string());
        let scheme = if self.secure { "https" } else { "http" };
        let mut command = Command::new(&self.program);
        command.args(["-c", &connections, "-m", &streams, "-N", STALLED]).args(amount);
        command.args(["--tls13-ciphers", SUITE, "--groups", "X25519", "--npn-list", "h2"]);
        if let Pace::Rate(rate) = pace {
            command.args(["--rps", &(rate / self.connections.max(1) as f64).to_string()]);
        }
        command.args(["--connect-to", &self.target.to_string()]);
        command.arg(format!("{scheme}://{}:{}{PATH}", certificate::NAME, self.target.port()));
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let printed = Printed::parse(&text).ok_or_else(|| {
            let said = [text.as_str(), &String::from_utf8_lossy(&output.stderr)].concat();
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            io::Error::other(format!("h2load: {}", last.join("; ")))
        })?;
        printed.speaks(self.secure)?;
        Ok(printed)
    }
}

/// The one suite that is offered, as by the client of this harness.
const SUITE: &str = "TLS_AES_128_GCM_SHA256";

impl Printed {
    fn parse(text: &str) -> Option<Self> {
        let after = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        // "1000 total, 1000 started, …"
        let count = |list: &str, name: &str| -> Option<u64> {
            let entry = list.split(", ").find_map(|entry| entry.strip_suffix(name))?;
            entry.trim().parse().ok()
        };
        let (requests, codes) = (after("requests:")?, after("status codes:")?);
        let mut bad = 0;
        for class in ["3xx", "4xx", "5xx"] {
            bad += count(codes, class)?;
        }
        // "… , 39.06KB (40000) data"
        let body = after("traffic:")?.rsplit_once('(')?.1;
        Some(Self {
            protocol: after("Application protocol:").unwrap_or("none").to_owned(),
            tls: after("TLS Protocol:").zip(after("Cipher:")).map(|(v, s)| (v.to_owned(), s.to_owned())),
            rate: after("finished in ")?.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()?,
            done: count(requests, "done")?,
            failed: count(requests, "failed")? + count(requests, "timeout")?,
            good: count(codes, "2xx")?,
            bad,
            body: body.split_once(')')?.0.parse().ok()?,
        })
    }

    /// Every one of `count` was answered with a 2xx, and all bodies together have the length they should have.
    fn is_good(&self, count: u64) -> bool {
        let whole = self.done == count && self.good == count && self.body == count * BODY;
        whole && self.failed == 0 && self.bad == 0
    }

    /// HTTP/2 it was, and the TLS that all are measured with.
    fn speaks(&self, secure: bool) -> io::Result<()> {
        let wanted = if secure { "h2" } else { "h2c" };
        if self.done == 0 {
            return Err(io::Error::other("HTTP/2 is not spoken there: h2load was answered nothing"));
        }
        if self.protocol != wanted {
            let protocol = &self.protocol;
            return Err(io::Error::other(format!("spoken was '{protocol}' and not HTTP/2 ('{wanted}')")));
        }
        let tls = self.tls.as_ref().map(|(version, suite)| (version.as_str(), suite.as_str()));
        if secure && tls != Some(("TLSv1.3", SUITE)) {
            return Err(io::Error::other(format!("not TLS 1.3 with {SUITE}: {tls:?}")));
        }
        Ok(())
    }

    fn wrong(&self) -> io::Error {
        io::Error::other(format!("wrong answers: {self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "starting benchmark...\n\
        TLS Protocol: TLSv1.3\nCipher: TLS_AES_128_GCM_SHA256\nServer Temp Key: X25519 253 bits\n\
        Application protocol: h2\nprogress: 100% done\n\n\
        finished in 21.83ms, 45806.42 req/s, 4.75MB/s\n\
        requests: 1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout\n\
        status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx\n\
        traffic: 106.23KB (108784) total, 48.83KB (50000) headers (space savings 49.49%), 125.00KB (128000) data\n\
        time for request:      309us      6.79ms      3.94ms      1.55ms    69.60%\n";

    fn check(from: &str, to: &str, good: bool, spoken: bool) {
        let printed = Printed::parse(&GOOD.replace(from, to)).expect("what h2load prints");
        assert_eq!((printed.is_good(1000), printed.speaks(true).is_ok()), (good, spoken), "{to}");
    }

    #[test]
    fn what_h2load_prints_is_good_or_not() {
        check("", "", true, true);
        check("1000 2xx, 0 3xx", "999 2xx, 1 3xx", false, true);
        check("1000 2xx, 0 3xx, 0 4xx, 0", "999 2xx, 0 3xx, 0 4xx, 1", false, true);
        check("(128000) data", "(127999) data", false, true);
        check("0 failed", "1 failed", false, true);
        check("0 timeout", "1 timeout", false, true);
        check("1000 done", "0 done", false, false);
        check("protocol: h2", "protocol: http/1.1", true, false);
        check("Cipher: TLS_AES_128_GCM_SHA256", "Cipher: TLS_AES_256_GCM_SHA384", true, false);
        check("TLSv1.3", "TLSv1.2", true, false);
    }

    #[test]
    fn the_rate_is_read_and_anything_else_is_no_outcome() {
        assert_eq!(Printed::parse(GOOD).map(|printed| printed.rate), Some(45_806.42));
        assert_eq!(Printed::parse("unable to resolve"), None);
    }
}
