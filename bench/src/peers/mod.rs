//! How a contender is started, known to be ready, and ended.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::backend::Mode;
use crate::load::exchange;
use crate::{clock, machine, process};

mod envoy;
mod haproxy;
pub(crate) mod nginx;
mod plimsoll;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    Plimsoll,
    Nginx,
    Haproxy,
    Envoy,
    /// The blind relay of this harness
    Floor,
}

/// Where the programs of the contenders are.
#[derive(Clone)]
pub(crate) struct Programs {
    /// Plimsoll's binary, which need not be on PATH.
    pub(crate) plimsoll: PathBuf,
}

/// What a contender is asked to do; every one is configured for the same features.
pub(crate) struct Job<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) backends: &'a [SocketAddr],
    pub(crate) traffic: Traffic,
    pub(crate) buffers: Buffers,
    pub(crate) workers: usize,
    /// No master process, where there is one: for tools that follow one process.
    pub(crate) single_process: bool,
    /// Connections it must be able to hold.
    pub(crate) open_files: u64,
    /// Where its files go.
    pub(crate) folder: &'a Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Http,
    Tcp,
    Udp,
}

/// What the buffers of a contender are sized for. Plimsoll is never tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffers {
    /// As shipped.
    Shipped,
    /// As shipped, but the floor reads 256 KiB at a time: large replies are what it will carry.
    ShippedForBulk,
    /// The settings that we found to be the cheapest for large replies.
    TunedForBulk,
}

/// A started process; dropped, it ends.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plimsoll => "plimsoll",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Floor => "floor",
        }
    }

    /// The program, if this machine has it.
    pub(crate) fn program(self, programs: &Programs) -> Option<PathBuf> {
        match self {
            Self::Plimsoll => Some(programs.plimsoll.clone()).filter(|path| path.is_file()),
            Self::Floor => Some(own_program()),
            Self::Nginx | Self::Haproxy => find(self.name()),
            Self::Envoy => match std::env::var_os("ENVOY_BIN") {
                Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
                None => find("envoy"),
            },
        }
    }

    /// Can it balance that? HAProxy passes on no datagrams.
    pub(crate) fn carries(self, traffic: Traffic) -> bool {
        self != Self::Haproxy || traffic != Traffic::Udp
    }

    pub(crate) fn version(self, program: &Path) -> String {
        let flag = if matches!(self, Self::Nginx | Self::Haproxy) { "-v" } else { "--version" };
        machine::version(&program.to_string_lossy(), flag)
    }

    /// Writes the configuration and gives the command line that runs it in the foreground.
    pub(crate) fn prepare(self, program: &Path, job: &Job) -> io::Result<Vec<String>> {
        let arguments = match self {
            Self::Plimsoll => plimsoll::prepare(job)?,
            Self::Nginx => nginx::prepare(program, job)?,
            Self::Haproxy => haproxy::prepare(job)?,
            Self::Envoy => envoy::prepare(job)?,
            Self::Floor => floor(job),
        };
        Ok([vec![program.to_string_lossy().into_owned()], arguments].concat())
    }
}

impl Job<'_> {
    /// One line for each backend.
    fn each_backend(&self, line: impl Fn(usize, SocketAddr) -> String) -> String {
        self.backends.iter().enumerate().map(|(index, &address)| line(index, address)).collect()
    }

    /// Writes a configuration file and gives its path.
    fn write(&self, name: &str, text: &str) -> io::Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }
}

fn floor(job: &Job) -> Vec<String> {
    let to: Vec<String> = job.backends.iter().map(SocketAddr::to_string).collect();
    let buffer = if job.buffers == Buffers::Shipped { 64 * 1024 } else { 256 * 1024 };
    let mut arguments = [
        "floor",
        "--listen",
        &job.listen.to_string(),
        "--to",
        &to.join(","),
        "--buffer",
        &buffer.to_string(),
    ]
    .map(str::to_owned)
    .to_vec();
    if job.traffic == Traffic::Udp {
        arguments.push("--datagrams".to_owned());
    }
    arguments
}

/// A folder for the files of one process; dropped, it is deleted.
pub(crate) fn folder() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("plimsoll-bench-").tempdir()
}

/// This very program, even when a build has replaced its file meanwhile.
fn own_program() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}

/// A program on PATH or among the system's daemons.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

impl Running {
    /// Starts a command line; what it prints goes to a file in `folder`.
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

    /// The backends of a run, in this harness's own process.
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

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `address` takes connections and, if it speaks HTTP, answers a request with 200; or echoes a datagram.
    pub(crate) fn ready(
        &mut self,
        address: SocketAddr,
        traffic: Traffic,
        patience: Duration,
    ) -> io::Result<()> {
        let deadline = clock::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failure(&format!("ended with {status}")));
            }
            match answers(address, traffic) {
                Ok(()) => return Ok(()),
                Err(error) if clock::now() > deadline => {
                    return Err(self.failure(&format!("not ready: {error}")));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(&mut self, patience: Duration) -> io::Result<()> {
        self.signal(Signal::TERM);
        self.ended(patience)
    }

    /// Waits for its end; whatever is left after `patience` is killed.
    pub(crate) fn ended(&mut self, patience: Duration) -> io::Result<()> {
        let family = process::tree(self.id())?;
        let deadline = clock::now() + patience;
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

    /// What it has printed so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn failure(&self, what: &str) -> io::Error {
        let output = self.output();
        let tail: Vec<&str> = output.lines().rev().take(8).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        io::Error::other(format!("{what}; it printed:\n{}", tail.join("\n")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.stop(Duration::from_secs(2));
        }
    }
}

fn answers(address: SocketAddr, traffic: Traffic) -> io::Result<()> {
    let limit = Duration::from_secs(5);
    if traffic == Traffic::Udp {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.connect(address)?;
        socket.send(b"ready?")?;
        return socket.recv(&mut [0; 64]).map(drop);
    }
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    if traffic == Traffic::Tcp {
        return Ok(());
    }
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(&exchange::get(&address.to_string(), "/0", false, true))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    let line: Vec<u8> = answer.into_iter().take_while(|&byte| byte != b'\r').collect();
    Err(io::Error::other(String::from_utf8_lossy(&line).into_owned()))
}
