//! The demo's destinations: minimal HTTP servers with different response times, one of them unreliable.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use plimsoll_core::Rng;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Name and mean response time of each server.
pub(crate) const SERVERS: [(&str, Duration); 4] = [
    ("fast", Duration::from_millis(2)),
    ("medium", Duration::from_millis(8)),
    ("slow", Duration::from_millis(25)),
    (FLAKY, Duration::from_millis(4)),
];
/// Name of the unreliable server: it repeatedly closes its port and all connections, even within a response.
const FLAKY: &str = "flaky";
/// First uptime of the unreliable server.
const FIRST_UPTIME: Duration = Duration::from_millis(1200);
/// Later uptimes of the unreliable server.
const UPTIME: Duration = Duration::from_secs(4);
/// Downtime of the unreliable server.
const DOWNTIME: Duration = Duration::from_millis(1300);
/// Path of health checks, which get a response at once.
pub(crate) const HEALTH_PATH: &str = "/healthz";
/// Maximum bytes of a request head.
const MAX_HEAD: usize = 16 * 1024;
const BACKLOG: i32 = 128;

/// All servers, on one thread; they stop when this is dropped.
#[derive(Debug)]
pub(crate) struct DemoServers {
    addresses: Vec<(&'static str, SocketAddr)>,
    _stop: oneshot::Sender<()>,
}

impl DemoServers {
    /// Starts all servers.
    ///
    /// # Errors
    /// An error of the system: no port, no thread or no runtime.
    pub(crate) fn start() -> io::Result<Self> {
        let mut servers = Vec::new();
        for (name, response_time) in SERVERS {
            let port = ReservedPort::reserve()?;
            // All listen before the first health check.
            let socket = port.listen()?;
            servers.push((socket, DemoServer { name, response_time, port }));
        }
        let addresses = servers.iter().map(|(_, server)| (server.name, server.port.address)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("destinations".into()).spawn(move || {
            runtime.block_on(async {
                for (socket, server) in servers {
                    tokio::spawn(server.run(socket));
                }
                let _sender_dropped = stopped.await;
            });
        })?;
        Ok(Self { addresses, _stop: stop })
    }

    /// Returns name and address of each server.
    pub(crate) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.addresses.clone()
    }
}

/// A port that stays bound during a downtime: otherwise the kernel might assign it to a client.
#[derive(Debug)]
struct ReservedPort {
    address: SocketAddr,
    _bound: Socket,
}

impl ReservedPort {
    fn reserve() -> io::Result<Self> {
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, _bound: socket })
    }

    fn listen(&self) -> io::Result<Socket> {
        let socket = bind(self.address)?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// One of the demo's servers.
struct DemoServer {
    name: &'static str,
    response_time: Duration,
    port: ReservedPort,
}

impl DemoServer {
    async fn run(self, socket: Socket) {
        let mut listening = Some(socket);
        let mut uptime = FIRST_UPTIME;
        loop {
            if let Some(listener) = listening.and_then(|socket| TcpListener::from_std(socket.into()).ok()) {
                if self.name != FLAKY {
                    return self.serve(listener).await;
                }
                // At the end of the uptime the listener and all connections are dropped.
                let _elapsed = timeout(uptime, self.serve(listener)).await;
                uptime = UPTIME;
            }
            sleep(DOWNTIME).await;
            listening = self.port.listen().ok();
        }
    }

    async fn serve(&self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut rng = Rng::new(u64::from(self.port.address.port()));
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let rng = Rng::new(rng.next_u64());
                        connections.spawn(serve_connection(stream, self.name, self.response_time, rng));
                    }
                    Err(_) => sleep(Duration::from_millis(10)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// The parts of a request head that decide about the response.
struct Request {
    /// Bytes of the head.
    head: usize,
    /// Bytes of the body.
    body: usize,
    is_check: bool,
    is_head: bool,
    closes: bool,
}

/// Parses the request head at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// The request is not supported: not HTTP, or a body without a length.
fn parse_request(bytes: &[u8]) -> Result<Option<Request>, ()> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut slots);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(()),
    };
    let find = |name: &str| {
        let mut found = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
        found.next().map(|h| std::str::from_utf8(h.value).unwrap_or_default().trim())
    };
    if find("transfer-encoding").is_some() {
        return Err(());
    }
    Ok(Some(Request {
        head,
        body: find("content-length").map_or(Ok(0), str::parse).map_err(|_| ())?,
        is_check: request.path == Some(HEALTH_PATH),
        is_head: request.method == Some("HEAD"),
        closes: request.version == Some(0)
            || find("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")),
    }))
}

/// Serves the requests of one connection.
async fn serve_connection(mut stream: TcpStream, name: &'static str, response_time: Duration, mut rng: Rng) {
    let mut buffer = Vec::with_capacity(1024);
    // Without TCP_NODELAY, delayed acknowledgements add 40 ms.
    let _best_effort = stream.set_nodelay(true);
    loop {
        let request = match parse_request(&buffer) {
            Ok(Some(request)) => request,
            Ok(None) => match stream.read_buf(&mut buffer).await {
                Ok(1..) => continue,
                _ => return,
            },
            Err(()) => return,
        };
        buffer.drain(..request.head);
        let mut body = request.body;
        while body > 0 {
            let available = body.min(buffer.len());
            buffer.drain(..available);
            body -= available;
            if body > 0 && !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        if !request.is_check {
            // 50 % to 150 % of the mean.
            sleep(response_time.mul_f64(0.5 + rng.share())).await;
        }
        let response = response(name, request.is_head, request.closes);
        if stream.write_all(response.as_bytes()).await.is_err() || request.closes {
            return;
        }
    }
}

fn response(name: &str, is_head: bool, closes: bool) -> String {
    let body = format!("hello from {name}\n");
    let connection = if closes { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let body = if is_head { "" } else { &*body };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Served-By: {name}\r\n{connection}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}
