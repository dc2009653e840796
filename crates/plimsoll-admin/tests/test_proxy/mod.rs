//! A running proxy with two destinations and an admin API, and a client for both.
#![allow(dead_code)] // Each test file uses a part of it.
#![allow(clippy::unwrap_used)] // A test's helpers may do what a test may.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_proxy::adapter::Adapters;
use plimsoll_proxy::{Handle, InvalidConfig, Proxy};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct TestProxy {
    pub(crate) handle: Handle,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    text: Arc<Mutex<String>>,
    _proxy: Proxy,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Starts a destination that responds with 503 to `/503` and with 200 to all else.
async fn destination() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while stream.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                    while let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                        let bad = buffer.starts_with(b"GET /503");
                        buffer.drain(..end + 4);
                        let status = if bad { "503 Service Unavailable" } else { "200 OK" };
                        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nyes");
                        if stream.write_all(response.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn exchange(address: SocketAddr, request: &str) -> Response {
    let transfer = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server does not read a rejected body to its end.
        let _rejected_early = stream.write_all(request.as_bytes()).await;
        let mut response = Vec::new();
        let _reset_after_the_answer = stream.read_to_end(&mut response).await;
        String::from_utf8(response).unwrap()
    };
    let text = tokio::time::timeout(Duration::from_secs(10), transfer).await.unwrap();
    let (head, body) =
        text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response to {request:?}: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head: head.to_owned(), body: body.to_owned() }
}

impl TestProxy {
    pub(crate) async fn start() -> Self {
        let (a, b) = (destination().await, destination().await);
        let text = format!(
            "workers: 1\nlisteners: [{{name: web, address: \"127.0.0.1:0\", pool: default}}]\npools:\n  default:\n    load_balancer: {{algorithm: round_robin, health_monitoring: {{check_interval: 50ms, alerting: true}}, quality: {{quality_metrics: true}}}}\n    limits: {{requests: 100, per_destination: {{requests: 50}}}}\n    destinations: [{{id: a, address: \"{a}\"}}, {{id: 'b\"\\/é', address: \"{b}\"}}]\n"
        );
        let text = Arc::new(Mutex::new(text));
        let read = {
            let text = text.clone();
            move || {
                let text = text.lock().unwrap().clone();
                let loaded = plimsoll_config::load(&text, "test.yaml", Path::new("/"), &|_| None);
                loaded.config.ok_or_else(|| InvalidConfig {
                    text: plimsoll_config::render_text(&loaded.problems, &loaded.sources),
                    problems: loaded.problems,
                })
            }
        };
        let config = read().unwrap_or_else(|invalid| panic!("{}", invalid.text));
        let proxy = Proxy::start(config, Box::new(read), Adapters::built_in()).await.unwrap();
        let handle = proxy.handle();
        let listener = plimsoll_admin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let admin = listener.address();
        tokio::spawn(plimsoll_admin::serve(listener, handle.clone()));
        let address = handle.traffic().listeners[0].addresses[0].parse().unwrap();
        Self { handle, address, admin, text, _proxy: proxy }
    }

    /// Sets the configuration that the next reload reads.
    pub(crate) fn set_config(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap());
    }

    /// Returns the text of the configuration.
    pub(crate) fn config(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Sends a request through the proxy.
    pub(crate) async fn send(&self, request: &str) -> Response {
        exchange(self.address, request).await
    }

    /// Opens a connection to the admin API and sends `start`.
    pub(crate) async fn open_admin(&self, start: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a GET request to the admin API.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request("GET", path, "", "").await
    }

    /// Sends a request to the admin API; `head` may replace the `Host` line.
    pub(crate) async fn request(&self, method: &str, path: &str, head: &str, body: &str) -> Response {
        let host =
            if head.starts_with("Host:") { String::new() } else { format!("Host: {}\r\n", self.admin) };
        let request = format!("{method} {path} HTTP/1.1\r\n{host}{head}Connection: close\r\n\r\n{body}");
        exchange(self.admin, &request).await
    }

    /// Polls `path` until its body meets the condition.
    pub(crate) async fn poll_until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            let value = self.get(path).await.json();
            if holds(&value) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path}: condition not met in time");
    }
}
