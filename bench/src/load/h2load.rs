//! HTTP/2 load by h2load (of nghttp2), and checks of its output.
//!
//! h2load is an independent client in C that is widely used for measurements and uses little CPU.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::client::LoadStats;
use super::load_mode::LoadMode;
use crate::{certificate, proxies};

/// Concurrent requests on each connection.
pub(crate) const STREAMS: usize = 16;
/// Path of the requests, and the length of each response body.
const PATH: &str = "/128";
const BODY: u64 = 128;
/// Time without activity after which a connection has failed.
const STALLED: &str = "5s";
/// Minimum warm-up: its rate gives the number of measured requests.
const SHORTEST: Duration = Duration::from_millis(100);

pub(crate) struct H2load {
    program: PathBuf,
    target: SocketAddr,
    secure: bool,
    connections: usize,
    /// Responses per second in the warm-up.
    rate: f64,
}

/// Values of h2load's output.
#[derive(Debug, PartialEq)]
struct Printed {
    protocol: String,
    /// TLS version and cipher suite.
    tls: Option<(String, String)>,
    rate: f64,
    done: u64,
    /// Requests that failed or got no response.
    failed: u64,
    good: u64,
    /// Responses with a status other than 2xx.
    bad: u64,
    body: u64,
}

impl H2load {
    pub(crate) fn new(target: SocketAddr, secure: bool) -> io::Result<Self> {
        let program = proxies::find("h2load");
        let missing = || io::Error::other("h2load is not installed (Debian: apt-get install nghttp2-client)");
        Ok(Self { program: program.ok_or_else(missing)?, target, secure, connections: 0, rate: 0.0 })
    }

    /// Adds connections to each of the following runs.
    pub(super) fn open(&mut self, count: usize) {
        self.connections += count;
    }

    /// Sends for `period`, on connections that end with it.
    pub(super) fn warm_up(&mut self, mode: LoadMode, period: Duration) -> io::Result<LoadStats> {
        let period = format!("{}ms", period.max(SHORTEST).as_millis());
        let printed = self.run(&["-D", &period], mode)?;
        if printed.bad > 0 || printed.failed > 0 {
            return Err(printed.wrong());
        }
        self.rate = printed.rate;
        Ok(LoadStats::of(printed.done))
    }

    /// Sends as many requests as fit in `period`, on new connections. A count instead of a time leaves no
    /// request in progress at the end, so all work of the proxy belongs to the run.
    pub(super) fn measure(&mut self, mode: LoadMode, period: Duration) -> io::Result<LoadStats> {
        self.exchange(mode, (self.rate * period.as_secs_f64()).ceil() as u64)
    }

    /// Sends this many requests; each must get a successful response.
    pub(super) fn exchange(&mut self, mode: LoadMode, count: u64) -> io::Result<LoadStats> {
        if count == 0 {
            return Ok(LoadStats::of(0));
        }
        // h2load requires a request per connection at least.
        let count = count.max(self.connections as u64);
        let printed = self.run(&["-n", &count.to_string()], mode)?;
        if printed.is_good(count) { Ok(LoadStats::of(count)) } else { Err(printed.wrong()) }
    }

    fn run(&self, amount: &[&str], mode: LoadMode) -> io::Result<Printed> {
        let (connections, streams) = (self.connections.to_string(), STREAMS.to_string());
        let scheme = if self.secure { "https" } else { "http" };
        let mut command = Command::new(&self.program);
        command.args(["-c", &connections, "-m", &streams, "-N", STALLED]).args(amount);
        command.args(["--tls13-ciphers", SUITE, "--groups", "X25519", "--npn-list", "h2"]);
        if let LoadMode::Rate(rate) = mode {
            command.args(["--rps", &(rate / self.connections.max(1) as f64).to_string()]);
        }
        command.args(["--connect-to", &self.target.to_string()]);
        command.arg(format!("{scheme}://{}:{}{PATH}", certificate::NAME, self.target.port()));
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let printed = Printed::parse(&text).ok_or_else(|| {
            let printed_lines = [text.as_str(), &String::from_utf8_lossy(&output.stderr)].concat();
            let last: Vec<&str> = printed_lines.lines().rev().take(3).collect();
            io::Error::other(format!("h2load: {}", last.join("; ")))
        })?;
        printed.check_protocol(self.secure)?;
        Ok(printed)
    }
}

/// The only cipher suite offered, as by the client of this harness.
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

    /// Checks that all of `count` got a 2xx, and that the bodies have the expected length in total.
    fn is_good(&self, count: u64) -> bool {
        let whole = self.done == count && self.good == count && self.body == count * BODY;
        whole && self.failed == 0 && self.bad == 0
    }

    /// Checks that HTTP/2 was used, with the TLS of all measurements.
    fn check_protocol(&self, secure: bool) -> io::Result<()> {
        let wanted = if secure { "h2" } else { "h2c" };
        if self.done == 0 {
            return Err(io::Error::other("h2load got no HTTP/2 response"));
        }
        if self.protocol != wanted {
            let protocol = &self.protocol;
            return Err(io::Error::other(format!("expected HTTP/2 ('{wanted}'), found '{protocol}'")));
        }
        let tls = self.tls.as_ref().map(|(version, suite)| (version.as_str(), suite.as_str()));
        if secure && tls != Some(("TLSv1.3", SUITE)) {
            return Err(io::Error::other(format!("expected TLS 1.3 with {SUITE}, found {tls:?}")));
        }
        Ok(())
    }

    fn wrong(&self) -> io::Error {
        io::Error::other(format!("unexpected responses: {self:?}"))
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

    fn check(from: &str, to: &str, good: bool, protocol_ok: bool) {
        let printed = Printed::parse(&GOOD.replace(from, to)).expect("what h2load prints");
        assert_eq!(
            (printed.is_good(1000), printed.check_protocol(true).is_ok()),
            (good, protocol_ok),
            "{to}"
        );
    }

    #[test]
    fn h2load_output_is_checked() {
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
    fn the_rate_is_parsed_and_other_output_rejected() {
        assert_eq!(Printed::parse(GOOD).map(|printed| printed.rate), Some(45_806.42));
        assert_eq!(Printed::parse("unable to resolve"), None);
    }
}
