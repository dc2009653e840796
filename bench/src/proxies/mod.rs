//! Proxies under test: configuration, start, readiness and stop.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::backend::Mode;
use crate::certificate::Certificate;
use crate::{clock, host, process};

mod envoy;
mod haproxy;
mod nginx;
mod plimsoll;

pub(crate) use nginx::user as nginx_user;

/// Proxy under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Proxy {
    Plimsoll,
    Nginx,
    Haproxy,
    Envoy,
    /// Baseline relay of this harness
    Baseline,
}

/// Paths of the proxies' programs.
#[derive(Clone)]
pub(crate) struct Programs {
    /// Plimsoll's binary, which need not be on PATH.
    pub(crate) plimsoll: PathBuf,
}

/// Setup of a proxy; all proxies are configured for the same features.
pub(crate) struct Setup<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) backends: &'a [SocketAddr],
    pub(crate) traffic: Traffic,
    /// Certificate for clients, which use TLS if there is one.
    pub(crate) certificate: Option<&'a Certificate>,
    pub(crate) buffers: Buffers,
    pub(crate) workers: usize,
    /// Run without a master process, for tools that follow one process.
    pub(crate) single_process: bool,
    /// Limit on open files for its connections.
    pub(crate) open_files: u64,
    /// Folder for its files.
    pub(crate) folder: &'a Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// HTTP, with the versions used by clients and by backends.
    Http {
        front: Http,
        back: Http,
    },
    Tcp,
    Udp,
    /// TCP, with session affinity of MQTT clients where the proxy supports it.
    Mqtt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    /// Version 1.1 of HTTP.
    One,
    /// Version HTTP/2; without TLS, by prior knowledge (RFC 9113 section 3.3).
    Two,
}

/// Buffer sizes of a proxy. Plimsoll is never tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffers {
    /// Sizes of the proxy's defaults.
    Shipped,
    /// Default sizes, but 256 KiB for the baseline, because it carries large replies.
    ShippedForBulk,
    /// Cheapest settings for large replies that we found.
    TunedForBulk,
}

/// Started process; dropping it stops the process.
pub(crate) struct ChildProcess {
    child: Child,
    log: PathBuf,
}

impl Proxy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plimsoll => "plimsoll",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Baseline => "baseline",
        }
    }

    /// Returns the program's path if it is installed.
    pub(crate) fn program(self, programs: &Programs) -> Option<PathBuf> {
        match self {
            Self::Plimsoll => Some(programs.plimsoll.clone()).filter(|path| path.is_file()),
            Self::Baseline => Some(own_program()),
            Self::Nginx | Self::Haproxy => find(self.name()),
            Self::Envoy => match std::env::var_os("ENVOY_BIN") {
                Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
                None => find("envoy"),
            },
        }
    }

    pub(crate) fn version(self, program: &Path) -> String {
        let flag = if matches!(self, Self::Nginx | Self::Haproxy) { "-v" } else { "--version" };
        host::version(&program.to_string_lossy(), flag)
    }

    /// Writes the configuration and returns the command line that runs it in the foreground.
    pub(crate) fn prepare(self, program: &Path, setup: &Setup) -> io::Result<Vec<String>> {
        let arguments = match self {
            Self::Plimsoll => plimsoll::prepare(setup)?,
            Self::Nginx => nginx::prepare(program, setup)?,
            Self::Haproxy => haproxy::prepare(setup)?,
            Self::Envoy => envoy::prepare(setup)?,
            Self::Baseline => baseline(setup),
        };
        Ok([vec![program.to_string_lossy().into_owned()], arguments].concat())
    }
}

impl Setup<'_> {
    /// Concatenates one line per backend.
    fn each_backend(&self, line: impl Fn(usize, SocketAddr) -> String) -> String {
        self.backends.iter().enumerate().map(|(index, &address)| line(index, address)).collect()
    }

    /// Writes a configuration file and returns its path.
    fn write(&self, name: &str, text: &str) -> io::Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }
}

fn baseline(setup: &Setup) -> Vec<String> {
    let to: Vec<String> = setup.backends.iter().map(SocketAddr::to_string).collect();
    let buffer = if setup.buffers == Buffers::Shipped { 64 * 1024 } else { 256 * 1024 };
    let mut arguments = [
        "baseline",
        "--listen",
        &setup.listen.to_string(),
        "--to",
        &to.join(","),
        "--buffer",
        &buffer.to_string(),
    ]
    .map(str::to_owned)
    .to_vec();
    if setup.traffic == Traffic::Udp {
        arguments.push("--datagrams".to_owned());
    }
    arguments
}

/// Creates a folder for the files of one process; dropping it deletes the folder.
pub(crate) fn folder() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("plimsoll-bench-").tempdir()
}

/// Returns the path of this program, valid even after a build has replaced its file.
pub(crate) fn own_program() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}

/// Finds a program on PATH or among the system's daemons.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

impl ChildProcess {
    /// Starts a command line; its output goes to a file in `folder`.
    pub(crate) fn start(command: &[String], folder: &Path) -> io::Result<Self> {
        let log = folder.join("output.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(Self { child, log })
    }

    /// Starts the backends of a run in a process of this program.
    pub(crate) fn backends(
        mode: Mode,
        reply: usize,
        addresses: &[SocketAddr],
        folder: &Path,
    ) -> io::Result<Self> {
        let program = own_program().to_string_lossy().into_owned();
        let listen: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let (mode, reply) = (mode.name(), reply.to_string());
        let rest = ["backend", "--mode", mode, "--reply", &reply, "--listen", &listen.join(",")];
        let command: Vec<String> = std::iter::once(program).chain(rest.map(str::to_owned)).collect();
        Self::start(&command, folder)
    }

    /// Starts the backends of a run in an nginx: independent of this harness, but more expensive.
    pub(crate) fn backends_of_nginx(
        version: Http,
        addresses: &[SocketAddr],
        open_files: u64,
        folder: &Path,
    ) -> io::Result<Self> {
        let program =
            find("nginx").ok_or_else(|| io::Error::other("the backend, nginx, is not installed"))?;
        Self::start(&nginx::backend(&program, version, addresses, open_files, folder)?, folder)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `answers` returns no error.
    pub(crate) fn ready(
        &mut self,
        timeout: Duration,
        mut answers: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let deadline = clock::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failure(&format!("ended with {status}")));
            }
            match answers() {
                Ok(()) => return Ok(()),
                Err(error) if clock::now() > deadline => {
                    return Err(self.failure(&format!("not ready: {error}")));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Asks the process to end, and waits.
    pub(crate) fn stop(&mut self, timeout: Duration) -> io::Result<()> {
        self.signal(Signal::TERM);
        self.ended(timeout)
    }

    /// Waits for the end; processes left after `timeout` are killed.
    pub(crate) fn ended(&mut self, timeout: Duration) -> io::Result<()> {
        let family = process::tree(self.id())?;
        let deadline = clock::now() + timeout;
        while self.child.try_wait()?.is_none() && clock::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        if self.child.try_wait()?.is_none() {
            for pid in family.into_iter().filter_map(|pid| Pid::from_raw(pid as i32)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            self.child.wait()?;
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Returns the output so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn failure(&self, what: &str) -> io::Error {
        let output = self.output();
        let tail: Vec<&str> = output.lines().rev().take(8).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        io::Error::other(format!("{what}; output:\n{}", tail.join("\n")))
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.stop(Duration::from_secs(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Traffic = Traffic::Http { front: Http::One, back: Http::One };
    const TWO: Traffic = Traffic::Http { front: Http::Two, back: Http::One };
    const THROUGHOUT: Traffic = Traffic::Http { front: Http::Two, back: Http::Two };

    /// Checks the configuration of a proxy: all `phrases` must be in it, in this order.
    fn check(traffic: Traffic, secure: bool, file: &str, phrases: &[&str]) {
        let folder = folder().expect("a folder");
        let certificate = Certificate::make(folder.path()).expect("a certificate");
        let addresses = [1, 2, 3, 4].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let setup = Setup {
            listen: addresses[0],
            admin: addresses[1],
            backends: &addresses[2..],
            traffic,
            certificate: secure.then_some(&certificate),
            buffers: Buffers::Shipped,
            workers: 1,
            single_process: false,
            open_files: 1000,
            folder: folder.path(),
        };
        let proxy = match file {
            "plimsoll.yaml" => Proxy::Plimsoll,
            "nginx.conf" => Proxy::Nginx,
            "haproxy.cfg" => Proxy::Haproxy,
            "envoy.yaml" => Proxy::Envoy,
            _ => Proxy::Baseline,
        };
        // As a stand-in for nginx, this program prints nothing about its build.
        let command = proxy.prepare(Path::new("true"), &setup).expect("a configuration");
        let text = match proxy {
            Proxy::Baseline => command.join(" ") + "\n",
            _ => fs::read_to_string(folder.path().join(file)).expect("written"),
        };
        let text = text.replace(&folder.path().to_string_lossy().into_owned(), "");
        let mut rest = text.as_str();
        for phrase in phrases {
            let found = rest.split_once(phrase);
            rest = found.unwrap_or_else(|| panic!("{file} lacks '{phrase}':\n{text}")).1;
        }
    }

    #[test]
    fn plimsoll_is_configured_for_each_protocol() {
        let file = "plimsoll.yaml";
        check(ONE, false, file, &["protocol: http, pool", "[\"127.0.0.1:3\", \"127.0.0.1:4\"]"]);
        let tls =
            "protocol: https, tls: {certificates: [{cert: \"/cert.pem\", key: \"/key.pem\"}]}, pool: app}";
        check(ONE, true, file, &[tls]);
        check(TWO, true, file, &[tls]);
        check(THROUGHOUT, false, file, &["protocol: http, pool", "  app:\n    protocol: http2\n"]);
        check(Traffic::Tcp, true, file, &["protocol: tls, tls:"]);
        check(
            Traffic::Udp,
            false,
            file,
            &["protocol: udp, pool: app}", "[\"127.0.0.1:3\", \"127.0.0.1:4\"]"],
        );
    }

    #[test]
    fn nginx_is_configured_for_each_protocol() {
        let file = "nginx.conf";
        check(ONE, false, file, &["127.0.0.1:1 backlog=4096;", "proxy_pass", "proxy_set_header"]);
        let tls = ["backlog=4096 ssl;", "ssl_protocols TLSv1.2 TLSv1.3;", "ssl_certificate /cert.pem;"];
        check(ONE, true, file, &tls);
        check(TWO, false, file, &["backlog=4096 http2;", "proxy_pass http://app"]);
        check(TWO, true, file, &["backlog=4096 ssl http2;", "ssl_certificate_key /key.pem;"]);
        check(THROUGHOUT, false, file, &["grpc_pass grpc://app;", "grpc_set_header X-Forwarded-For"]);
        check(Traffic::Tcp, false, file, &["stream {", "127.0.0.1:1 backlog=4096;", "proxy_pass app;"]);
        check(Traffic::Udp, false, file, &["stream {", "server 127.0.0.1:3;", "127.0.0.1:1 udp;"]);
    }

    #[test]
    fn haproxy_is_configured_for_each_protocol() {
        let file = "haproxy.cfg";
        check(ONE, false, file, &["bind 127.0.0.1:1\n", "Forwarded-Proto http\n", "s0 127.0.0.1:3\n"]);
        check(ONE, true, file, &["ssl crt /pair.pem ssl-min-ver TLSv1.2\n", "Forwarded-Proto https\n"]);
        check(TWO, false, file, &["bind 127.0.0.1:1 proto h2\n", "s0 127.0.0.1:3\n"]);
        check(TWO, true, file, &["TLSv1.2 alpn h2,http/1.1\n"]);
        check(THROUGHOUT, false, file, &["proto h2\n", "s0 127.0.0.1:3 proto h2\n"]);
    }

    #[test]
    fn envoy_is_configured_for_each_protocol() {
        let file = "envoy.yaml";
        check(ONE, false, file, &["codec_type: HTTP1\n", "  clusters:\n"]);
        let tls = "DownstreamTlsContext\n          common_tls_context:\n            tls_params:";
        check(ONE, true, file, &[tls, "\n            tls_certificates:\n", "/cert.pem", "/key.pem"]);
        check(TWO, true, file, &["codec_type: HTTP2\n", tls, "\n            alpn_protocols: [h2]\n"]);
        check(
            THROUGHOUT,
            false,
            file,
            &["HTTP2\n", "clusters:", "http2_protocol_options", "load_assignment"],
        );
        let listen = "address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}\n";
        let backend = "endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 3}}}\n";
        let filter = "    listener_filters:\n    - name: envoy.filters.udp_listener.udp_proxy\n";
        check(Traffic::Udp, false, file, &[listen, filter, "cluster: app\n", "  clusters:\n", backend]);
    }

    #[test]
    fn the_baseline_is_configured_for_each_protocol() {
        let file = "baseline";
        check(Traffic::Tcp, false, file, &["--to 127.0.0.1:3,127.0.0.1:4", "--buffer 65536\n"]);
        check(Traffic::Udp, false, file, &["--to 127.0.0.1:3,127.0.0.1:4", "--datagrams\n"]);
    }
}
