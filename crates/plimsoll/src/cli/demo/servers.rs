//! The destinations of the demonstration: tiny HTTP servers, each with its own pace, one unreliable.

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

/// Names, and how long an answer takes.
pub(crate) const CAST: [(&str, Duration); 4] = [
    ("fast", Duration::from_millis(2)),
    ("medium", Duration::from_millis(8)),
    ("slow", Duration::from_millis(25)),
    (FLAKY, Duration::from_millis(4)),
];
/// The one that comes and goes: it closes its port and every connection, in the middle of an answer too.
const FLAKY: &str = "flaky";
/// It is there for so long, the first time; later for `UP`.
const FIRST_UP: Duration = Duration::from_millis(1200);
const UP: Duration = Duration::from_secs(4);
/// … and away for so long.
const AWAY: Duration = Duration::from_millis(1300);
/// Answered at once.
pub(crate) const HEALTH: &str = "/healthz";
/// A request head may be so long.
const MAX_HEAD: usize = 16 * 1024;
const BACKLOG: i32 = 128;

/// All of them, on a thread of their own; they go when this goes.
#[derive(Debug)]
pub(crate) struct Stage {
    places: Vec<(&'static str, SocketAddr)>,
    _end: oneshot::Sender<()>,
}

impl Stage {
    /// Opens them.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open() -> io::Result<Self> {
        let mut actors = Vec::new();
        for (name, pace) in CAST {
            let port = Port::take()?;
            // All listen before anybody comes to check.
            let socket = port.listen()?;
            actors.push((socket, Actor { name, pace, port }));
        }
        let places = actors.iter().map(|(_, actor)| (actor.name, actor.port.address)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("destinations".into()).spawn(move || {
            runtime.block_on(async {
                for (socket, actor) in actors {
                    tokio::spawn(actor.play(socket));
                }
                let _the_other_end_went = ended.await;
            });
        })?;
        Ok(Self { places, _end: end })
    }

    /// Names and addresses.
    pub(crate) fn places(&self) -> Vec<(&'static str, SocketAddr)> {
        self.places.clone()
    }
}

/// A port that stays ours while nobody listens on it: otherwise the kernel might give it to a client.
#[derive(Debug)]
struct Port {
    address: SocketAddr,
    _holder: Socket,
}

impl Port {
    fn take() -> io::Result<Self> {
        let holder = bound(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = holder.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, _holder: holder })
    }

    fn listen(&self) -> io::Result<Socket> {
        let socket = bound(self.address)?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    }
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

struct Actor {
    name: &'static str,
    pace: Duration,
    port: Port,
}

impl Actor {
    async fn play(self, socket: Socket) {
        let mut here = Some(socket);
        let mut stay = FIRST_UP;
        loop {
            if let Some(listener) = here.and_then(|socket| TcpListener::from_std(socket.into()).ok()) {
                if self.name != FLAKY {
                    return self.serve(listener).await;
                }
                // When the time is over, the listener and all connections are dropped.
                let _it_never_ends_by_itself = timeout(stay, self.serve(listener)).await;
                stay = UP;
            }
            sleep(AWAY).await;
            here = self.port.listen().ok();
        }
    }

    async fn serve(&self, listener: TcpListener) {
        let mut conversations = JoinSet::new();
        let mut rng = Rng::new(u64::from(self.port.address.port()));
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let rng = Rng::new(rng.next_u64());
                        conversations.spawn(converse(stream, self.name, self.pace, rng));
                    }
                    Err(_) => sleep(Duration::from_millis(10)).await,
                },
                Some(_) = conversations.join_next() => {}
            }
        }
    }
}

/// What a request head says that matters here.
struct Request {
    head: usize,
    body: usize,
    is_check: bool,
    is_head: bool,
    closes: bool,
}

/// The head at the front of `bytes`; `None` when it is incomplete.
///
/// # Errors
/// It is none that can be served here: not HTTP, or a body without a length.
fn parse(bytes: &[u8]) -> Result<Option<Request>, ()> {
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
        is_check: request.path == Some(HEALTH),
        is_head: request.method == Some("HEAD"),
        closes: request.version == Some(0)
            || find("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")),
    }))
}

/// Answers one connection's requests, one after the other.
async fn converse(mut stream: TcpStream, name: &'static str, pace: Duration, mut rng: Rng) {
    let mut seen = Vec::with_capacity(1024);
    let _a_delay_of_40_ms_otherwise = stream.set_nodelay(true);
    loop {
        let request = match parse(&seen) {
            Ok(Some(request)) => request,
            Ok(None) => match stream.read_buf(&mut seen).await {
                Ok(1..) => continue,
                _ => return,
            },
            Err(()) => return,
        };
        seen.drain(..request.head);
        let mut body = request.body;
        while body > 0 {
            let here = body.min(seen.len());
            seen.drain(..here);
            body -= here;
            if body > 0 && !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                return;
            }
        }
        if !request.is_check {
            // Half as long to half as long again.
            sleep(pace.mul_f64(0.5 + rng.share())).await;
        }
        let answer = answer(name, request.is_head, request.closes);
        if stream.write_all(answer.as_bytes()).await.is_err() || request.closes {
            return;
        }
    }
}

fn answer(name: &str, is_head: bool, closes: bool) -> String {
    let body = format!("hello from {name}\n");
    let connection = if closes { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let body = if is_head { "" } else { &*body };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Served-By: {name}\r\n{connection}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}
