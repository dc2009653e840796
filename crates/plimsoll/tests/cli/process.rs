//! A plimsoll in a process of its own, destinations for it, and somebody who asks it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Whatever takes longer has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The program, in an environment that says nothing about it.
pub(crate) fn plimsoll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    for name in ["CONFIG", "ADMIN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("PLIMSOLL_{name}"));
    }
    command
}

/// Runs it to its end: exit code, standard output, standard error.
pub(crate) fn ends(args: &[&str]) -> (i32, String, String) {
    told(&plimsoll().args(args).output().unwrap())
}

pub(crate) fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A running `plimsoll run` or `proxy`; killed when it goes.
pub(crate) struct Running {
    child: Child,
    log: Receiver<Value>,
    /// Its first listener.
    pub(crate) listens: SocketAddr,
    /// Its admin plane, as the log tells it: an address or `off`.
    pub(crate) admin: String,
}

impl Running {
    /// Starts it with the configuration at `path` and waits until it is ready.
    pub(crate) fn start(path: &Path) -> Self {
        Self::start_with(plimsoll().arg("run").arg("-c").arg(path))
    }

    pub(crate) fn start_with(command: &mut Command) -> Self {
        let command = command.env("PLIMSOLL_LOG_FORMAT", "json").stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (to, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut running = Self { child, log, listens: nowhere, admin: String::new() };
        let ready = running.until("ready");
        let first = ready["listeners"].as_str().unwrap().split([' ', '=']).nth(1).unwrap();
        running.listens = first.parse().unwrap();
        running.admin = ready["admin"].as_str().unwrap().to_owned();
        running
    }

    /// The next line of the log about this event.
    pub(crate) fn until(&mut self, event: &str) -> Value {
        let mut before = Vec::new();
        loop {
            match self.log.recv_timeout(LONG) {
                Ok(line) if line["event"] == event => return line,
                Ok(line) => before.push(line.to_string()),
                Err(_) => panic!("the log never told of `{event}`, but:\n{}", before.join("\n")),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its exit code, once it has ended.
    pub(crate) fn exit_code(&mut self) -> i32 {
        let (polls, pause) = (2000, LONG / 2000);
        for _ in 0..polls {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(pause);
        }
        panic!("it never ended");
    }

    /// Waits until new connections are refused.
    pub(crate) fn until_refused(&self) {
        let (polls, pause) = (1000, LONG / 1000);
        for _ in 0..polls {
            if TcpStream::connect_timeout(&self.listens, LONG).is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
        panic!("it still listens");
    }

    /// Asks its admin plane.
    pub(crate) fn admin(&self, path: &str) -> Reply {
        get(self.admin.parse().unwrap(), path)
    }

    /// What `path` of its admin plane answers once `holds` does.
    pub(crate) fn admin_until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let (polls, pause) = (1000, LONG / 1000);
        for _ in 0..polls {
            let value = serde_json::from_str(&self.admin(path).body).unwrap();
            if holds(&value) {
                return value;
            }
            std::thread::sleep(pause);
        }
        panic!("{path} never came to it");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// One request on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    answer(ask(address, path))
}

/// Sends a request and leaves the answer for later.
pub(crate) fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&address, LONG).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

/// The answer to what was asked on `stream`.
pub(crate) fn answer(mut stream: TcpStream) -> Reply {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

/// A destination that answers with its name at once, and on `/slow` when it is told to.
pub(crate) struct Destination {
    pub(crate) address: SocketAddr,
    /// A slow request has arrived.
    pub(crate) arrived: Receiver<()>,
    /// Answers one slow request.
    pub(crate) release: Sender<()>,
}

impl Destination {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ((has_arrived, arrived), (release, released)) = (channel(), channel::<()>());
        let released = std::sync::Arc::new(std::sync::Mutex::new(released));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (has_arrived, released) = (has_arrived.clone(), released.clone());
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let (mut slow, mut last) = (false, false);
                    while let Some(Ok(line)) = lines.next() {
                        slow |= line.starts_with("GET /slow");
                        last |= line.eq_ignore_ascii_case("connection: close");
                        if !line.is_empty() {
                            continue;
                        }
                        if std::mem::take(&mut slow) {
                            has_arrived.send(()).unwrap();
                            let _the_test_is_over = released.lock().unwrap().recv();
                        }
                        let length = name.len();
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
                        if (&stream).write_all(answer.as_bytes()).is_err() || last {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, arrived, release }
    }
}

/// A folder with a configuration in it.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn with(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(text);
        folder
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn config(&self) -> std::path::PathBuf {
        self.path("config.yaml")
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

/// A configuration: a listener and an admin plane on free ports, one pool of `destinations`, and `more`.
pub(crate) fn config(destinations: &[SocketAddr], more: &str) -> String {
    let destinations: Vec<String> = destinations.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "workers: 2\nlisteners: [{{name: web, address: \"127.0.0.1:0\", pool: default}}]\n\
         admin: {{address: \"127.0.0.1:0\"}}\npools:\n  default: {{destinations: [{}]}}\n{more}\n",
        destinations.join(", ")
    )
}
