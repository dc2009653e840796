//! A plimsoll process, its destinations and a client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Time limit of every wait.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the program's command, without PLIMSOLL_* in its environment.
pub(crate) fn plimsoll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    for name in ["CONFIG", "ADMIN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("PLIMSOLL_{name}"));
    }
    command
}

/// Runs the program to its end: exit code, standard output, standard error.
pub(crate) fn run_to_end(args: &[&str]) -> (i32, String, String) {
    output_of(&plimsoll().args(args).output().unwrap())
}

/// Returns exit code, standard output and standard error.
pub(crate) fn output_of(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A running `plimsoll run` or `proxy`; killed when it goes.
pub(crate) struct Running {
    child: Child,
    log: Receiver<Value>,
    /// Address of its first listener.
    pub(crate) address: SocketAddr,
    /// Address of its admin API, or `off`.
    pub(crate) admin: String,
}

impl Running {
    /// Starts `plimsoll run` with the configuration at `path` and waits until it is ready.
    pub(crate) fn start(path: &Path) -> Self {
        Self::start_with(plimsoll().arg("run").arg("-c").arg(path))
    }

    /// Starts a command and waits until it is ready.
    pub(crate) fn start_with(command: &mut Command) -> Self {
        Self::start_with_output(command, Stdio::null())
    }

    /// Starts a command with this standard output and waits until it is ready.
    pub(crate) fn start_with_output(command: &mut Command, output: Stdio) -> Self {
        let command = command.env("PLIMSOLL_LOG_FORMAT", "json").stderr(Stdio::piped()).stdout(output);
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
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut running = Self { child, log, address: unset, admin: String::new() };
        let ready = running.wait_for_log("ready");
        let first = ready["listeners"].as_str().unwrap().split([' ', '=']).nth(1).unwrap();
        running.address = first.parse().unwrap();
        running.admin = ready["admin"].as_str().unwrap().to_owned();
        running
    }

    /// Waits for the next log line of an event.
    pub(crate) fn wait_for_log(&mut self, event: &str) -> Value {
        let mut others = Vec::new();
        loop {
            match self.log.recv_timeout(TIMEOUT) {
                Ok(line) if line["event"] == event => return line,
                Ok(line) => others.push(line.to_string()),
                Err(_) => panic!("no log line of `{event}`; instead:\n{}", others.join("\n")),
            }
        }
    }

    /// Returns all log lines until the process ends.
    pub(crate) fn rest_of_log(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.log.recv_timeout(TIMEOUT).ok()).collect()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether the process runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end of the process and returns its exit code.
    pub(crate) fn exit_code(&mut self) -> i32 {
        let (polls, pause) = (2000, TIMEOUT / 2000);
        for _ in 0..polls {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(pause);
        }
        panic!("the process did not end");
    }

    /// Waits until new connections are refused.
    pub(crate) fn wait_until_refused(&self) {
        let (polls, pause) = (1000, TIMEOUT / 1000);
        for _ in 0..polls {
            if TcpStream::connect_timeout(&self.address, TIMEOUT).is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
        panic!("the process still listens");
    }

    /// Sends a GET request to its admin API.
    pub(crate) fn admin(&self, path: &str) -> Response {
        get(self.admin.parse().unwrap(), path)
    }

    /// Polls `path` of its admin API until the body meets the condition.
    pub(crate) fn poll_admin_until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let (polls, pause) = (1000, TIMEOUT / 1000);
        for _ in 0..polls {
            let value = serde_json::from_str(&self.admin(path).body).unwrap();
            if holds(&value) {
                return value;
            }
            std::thread::sleep(pause);
        }
        panic!("{path}: condition not met in time");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends a request on a new connection.
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    read_response(send_request(address, path))
}

/// Sends a request without reading the response.
pub(crate) fn send_request(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

/// Reads the response on `stream`.
pub(crate) fn read_response(mut stream: TcpStream) -> Response {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head: head.to_owned(), body: body.to_owned() }
}

/// A destination that responds with its name: at once, or on `/slow` when released.
pub(crate) struct Destination {
    pub(crate) address: SocketAddr,
    /// Receives once per slow request.
    pub(crate) arrived: Receiver<()>,
    /// Releases one slow request.
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
                            let _test_is_over = released.lock().unwrap().recv();
                        }
                        let length = name.len();
                        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
                        if (&stream).write_all(response.as_bytes()).is_err() || last {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, arrived, release }
    }
}

/// A directory with a configuration file.
pub(crate) struct Directory(tempfile::TempDir);

impl Directory {
    pub(crate) fn with(text: &str) -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        directory.write(text);
        directory
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

/// Returns a configuration: a listener and an admin API on free ports, one pool, and `more`.
pub(crate) fn config(destinations: &[SocketAddr], more: &str) -> String {
    let destinations: Vec<String> = destinations.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "workers: 2\nlisteners: [{{name: web, address: \"127.0.0.1:0\", pool: default}}]\n\
         admin: {{address: \"127.0.0.1:0\"}}\npools:\n  default: {{destinations: [{}]}}\n{more}\n",
        destinations.join(", ")
    )
}
