//! A client of HTTP/2, and one of single frames for what no library sends.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::runtime::Runtime;

use super::endpoint::Place;
use super::{Balancer, PATIENCE};

/// A connection of HTTP/2. Nothing moves on it but while one of its methods runs.
pub(crate) struct Http2Client {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Http2Answer {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl Http2Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request on its way.
pub(crate) struct Stream {
    pub(crate) answer: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

impl Http2Client {
    pub(crate) fn connect(balancer: &Balancer) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let Place::Tcp(address) = balancer.place() else { panic!("a TCP listener") };
        let requests = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(address).await.expect("the proxy takes connections");
            socket.set_nodelay(true).expect("a socket");
            // A stream that nobody reads holds up itself and not the whole connection.
            let mut builder = h2::client::Builder::new();
            let builder = builder.initial_window_size(65_535).initial_connection_window_size(4 << 20);
            let (requests, connection) = builder.handshake(socket).await.expect("a handshake");
            tokio::spawn(connection);
            requests
        });
        Self { runtime, requests }
    }

    /// Runs `work`, and with it the connection.
    #[track_caller]
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await }).expect("it does not hang")
    }

    /// Begins a request; its body is still to be sent unless it `ends`.
    pub(crate) fn begin(&mut self, request: Request<()>, ends: bool) -> Result<Stream, h2::Error> {
        let requests = self.requests.clone();
        let (answer, body) = self.run(async {
            let mut ready = requests.ready().await?;
            ready.send_request(request, ends)
        })?;
        Ok(Stream { answer, body })
    }

    /// A whole request and its whole answer.
    pub(crate) fn ask(&mut self, request: Request<()>, body: &[u8]) -> Result<Http2Answer, h2::Error> {
        let mut stream = self.begin(request, body.is_empty())?;
        let body = body.to_vec();
        self.run(async move {
            let send = async {
                if !body.is_empty() {
                    send_all(&mut stream.body, body.into(), true).await?;
                }
                Ok(())
            };
            let (sent, answer) = tokio::join!(send, whole(stream.answer));
            let _an_early_answer_ends_the_sending: Result<(), h2::Error> = sent;
            answer
        })
    }

    pub(crate) fn get(&mut self, path: &str) -> Http2Answer {
        self.ask(get(path), b"").expect("an answer")
    }

    /// The answer to a request that was begun.
    pub(crate) fn finish(&mut self, stream: Stream) -> Result<Http2Answer, h2::Error> {
        self.run(whole(stream.answer))
    }

    /// Lets the connection do what it does by itself.
    pub(crate) fn idle(&self, span: Duration) {
        self.run(async { tokio::time::sleep(span).await });
    }
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://test{path}")).body(()).expect("a request")
}

/// Sends a body as the window allows.
pub(crate) async fn send_all(
    to: &mut SendStream<Bytes>,
    mut bytes: Bytes,
    ends: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let room = match to.capacity() {
            0 => poll_fn(|cx| to.poll_capacity(cx)).await.expect("the stream is open")?,
            room => room,
        };
        let piece = bytes.split_to(room.min(bytes.len()));
        to.send_data(piece, ends && bytes.is_empty())?;
    }
    Ok(())
}

pub(crate) async fn whole(answer: ResponseFuture) -> Result<Http2Answer, h2::Error> {
    let (head, mut stream) = answer.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = poll_fn(|cx| stream.poll_data(cx)).await {
        let data = data?;
        release(&mut stream, data.len());
        body.extend_from_slice(&data);
    }
    let trailers = poll_fn(|cx| stream.poll_trailers(cx)).await?.unwrap_or_default();
    Ok(Http2Answer { head: Response::from_parts(head, ()), body, trailers })
}

pub(crate) fn release(stream: &mut RecvStream, len: usize) {
    let _ended_already = stream.flow_control().release_capacity(len);
}

/// A request as a destination of HTTP/2 got it, whole.
#[derive(Clone, Debug)]
pub(crate) struct Http2Request {
    pub(crate) head: Request<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

/// What it does with one.
#[derive(Debug)]
pub(crate) struct Played {
    head: Response<()>,
    body: Vec<u8>,
    trailers: HeaderMap,
    wait: Duration,
    reset: Option<h2::Reason>,
}

impl Played {
    pub(crate) fn answer(status: u16) -> Self {
        let head = Response::builder().status(status).body(()).expect("a head");
        let (body, trailers) = (Vec::new(), HeaderMap::new());
        Self { head, body, trailers, wait: Duration::ZERO, reset: None }
    }

    pub(crate) fn reset(reason: h2::Reason) -> Self {
        Self { reset: Some(reason), ..Self::answer(200) }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.head.headers_mut().insert(name, value.parse().expect("a value"));
        self
    }

    pub(crate) fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn trailer(mut self, name: &'static str, value: &str) -> Self {
        self.trailers.insert(name, value.parse().expect("a value"));
        self
    }

    pub(crate) fn after(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }
}

type Plays = dyn Fn(&Http2Request) -> Played + Send + Sync;

/// What a destination does with streams.
#[derive(Clone)]
enum Manner {
    /// Answers when the request is whole.
    Whole(Arc<Plays>),
    /// Answers at its head.
    Early(Arc<Plays>),
    /// Piece by piece.
    Streaming,
    Tunnels,
}

/// A destination of HTTP/2, on a thread of its own.
pub(crate) struct Http2Destination {
    address: std::net::SocketAddr,
    requests: Arc<Mutex<Vec<Http2Request>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    goodbyes: tokio::sync::watch::Sender<usize>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Http2Destination {
    pub(crate) fn start(plays: impl Fn(&Http2Request) -> Played + Send + Sync + 'static) -> Self {
        Self::run(Manner::Whole(Arc::new(plays)))
    }

    /// Answers a request at its head, and reads none of its body.
    pub(crate) fn start_early(plays: impl Fn(&Http2Request) -> Played + Send + Sync + 'static) -> Self {
        Self::run(Manner::Early(Arc::new(plays)))
    }

    /// Answers at once, and then each piece of a body with the same piece.
    pub(crate) fn start_streaming() -> Self {
        Self::run(Manner::Streaming)
    }

    /// Opens tunnels of WebSocket (RFC 8441) in which everything comes back, and a goodbye at the end. To `/no` it
    /// opens none, and in `/break` it breaks off at the first word.
    pub(crate) fn start_tunnels() -> Self {
        Self::run(Manner::Tunnels)
    }

    fn run(manner: Manner) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let (requests, connections) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicUsize::new(0)));
        let (goodbyes, said) = tokio::sync::watch::channel(0);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (seen, counted) = (requests.clone(), connections.clone());
        let open = Arc::new(AtomicUsize::new(0));
        let opened = open.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a reactor");
                let accept = async {
                    while let Ok((socket, _)) = listener.accept().await {
                        counted.fetch_add(1, SeqCst);
                        socket.set_nodelay(true).expect("a socket");
                        let serving = serve(socket, manner.clone(), seen.clone(), said.clone());
                        let open = opened.clone();
                        tokio::spawn(async move {
                            open.fetch_add(1, SeqCst);
                            serving.await;
                            open.fetch_sub(1, SeqCst);
                        });
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, requests, connections, open, goodbyes, _stop: stop }
    }

    pub(crate) fn as_member(&self, number: usize) -> plimsoll_config::model::Destination {
        plimsoll_config::model::Destination {
            name: format!("h2-{number}").into(),
            address: plimsoll_config::model::DestinationAddress::Socket(self.address),
            weight: plimsoll_core::Weight::ONE,
            priority: 0,
            zone: None,
            labels: Default::default(),
            limits: Default::default(),
        }
    }

    pub(crate) fn requests(&self) -> Vec<Http2Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Connections that have not ended.
    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets every connection go that is open now.
    pub(crate) fn say_goodbye(&self) {
        self.goodbyes.send_modify(|times| *times += 1);
    }
}

async fn serve(
    socket: tokio::net::TcpStream,
    manner: Manner,
    seen: Arc<Mutex<Vec<Http2Request>>>,
    mut said: tokio::sync::watch::Receiver<usize>,
) {
    said.mark_unchanged();
    let mut builder = h2::server::Builder::new();
    if matches!(manner, Manner::Tunnels) {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(socket).await else { return };
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => match manner.clone() {
                    Manner::Streaming => drop(tokio::spawn(stream_back(request, respond))),
                    Manner::Whole(plays) => drop(tokio::spawn(play(request, respond, plays, true, seen.clone()))),
                    Manner::Early(plays) => drop(tokio::spawn(play(request, respond, plays, false, seen.clone()))),
                    Manner::Tunnels => drop(tokio::spawn(tunnel(request, respond, seen.clone()))),
                },
                _ => return,
            },
            Ok(()) = said.changed() => connection.graceful_shutdown(),
        }
    }
}

async fn play(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    plays: Arc<Plays>,
    reads: bool,
    seen: Arc<Mutex<Vec<Http2Request>>>,
) {
    let (head, mut stream) = request.into_parts();
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    if reads {
        while let Some(Ok(data)) = poll_fn(|cx| stream.poll_data(cx)).await {
            release(&mut stream, data.len());
            body.extend_from_slice(&data);
        }
        trailers = poll_fn(|cx| stream.poll_trailers(cx)).await.ok().flatten().unwrap_or_default();
    }
    let request = Http2Request { head: Request::from_parts(head, ()), body, trailers };
    let played = plays(&request);
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    tokio::time::sleep(played.wait).await;
    if let Some(reason) = played.reset {
        return respond.send_reset(reason);
    }
    let bare = played.body.is_empty() && played.trailers.is_empty();
    let Ok(mut answer) = respond.send_response(played.head, bare) else { return };
    if !bare {
        let ends = played.trailers.is_empty();
        let _gone = send_all(&mut answer, played.body.into(), ends).await;
        if !ends {
            let _gone = answer.send_trailers(played.trailers);
        }
    }
}

async fn stream_back(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let mut body = request.into_body();
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let Ok(mut answer) = respond.send_response(head, false) else { return };
    while let Some(Ok(data)) = poll_fn(|cx| body.poll_data(cx)).await {
        release(&mut body, data.len());
        if send_all(&mut answer, data, false).await.is_err() {
            return;
        }
    }
    let _gone = answer.send_data(Bytes::new(), true);
}

async fn tunnel(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: Arc<Mutex<Vec<Http2Request>>>,
) {
    let (head, mut from) = request.into_parts();
    let path = head.uri.path().to_owned();
    let head = Request::from_parts(head, ());
    let seen_now = Http2Request { head, body: Vec::new(), trailers: HeaderMap::new() };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen_now);
    let opens = path != "/no";
    let head = Response::builder().status(if opens { 200 } else { 403 });
    let head = head.header("sec-websocket-protocol", "chat").body(()).expect("a head");
    let Ok(mut to) = respond.send_response(head, false) else { return };
    while let Some(Ok(data)) = poll_fn(|cx| from.poll_data(cx)).await {
        release(&mut from, data.len());
        if path == "/break" {
            return to.send_reset(h2::Reason::CANCEL);
        }
        if opens && send_all(&mut to, data, false).await.is_err() {
            return;
        }
    }
    let _gone = send_all(&mut to, "goodbye".into(), true).await;
}

/// Asks for a tunnel of WebSocket, or of something else (RFC 8441).
pub(crate) fn connect(protocol: &'static str, path: &str) -> Request<()> {
    let request = Request::connect(format!("http://test{path}"))
        .extension(h2::ext::Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat");
    request.body(()).expect("a request")
}

/// The right answer to a key (RFC 6455 section 4.2.2), put together without the proxy's help.
pub(crate) fn accept(key: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let hash =
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let bits: String = hash.as_ref().iter().map(|byte| format!("{byte:08b}")).collect();
    let digit = |six: &[u8]| {
        let six = format!("{:0<6}", String::from_utf8_lossy(six));
        char::from(DIGITS[usize::from_str_radix(&six, 2).expect("bits")])
    };
    bits.as_bytes().chunks(6).map(digit).collect::<String>() + "="
}

/// A tunnel, as far as its bytes go.
pub(crate) struct Tunnel {
    pub(crate) to: SendStream<Bytes>,
    pub(crate) from: RecvStream,
    have: Vec<u8>,
}

impl Http2Client {
    /// So many requests for `path` that leave together, before anything is heard.
    pub(crate) fn burst(&mut self, path: &str, many: usize) -> Vec<Stream> {
        let requests = self.requests.clone();
        self.run(async {
            let (mut requests, mut streams) = (requests, Vec::new());
            for _ in 0..many {
                requests = requests.ready().await.expect("room");
                let (answer, body) = requests.send_request(get(path), true).expect("room");
                streams.push(Stream { answer, body });
            }
            streams
        })
    }

    /// Streams the server takes at once, as it said.
    pub(crate) fn streams_at_once(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// The server has said that it opens tunnels.
    pub(crate) fn may_connect(&self) -> bool {
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// The answer's head, and the tunnel if there is one.
    pub(crate) fn open(&mut self, path: &str) -> (Response<()>, Tunnel) {
        let stream = self.begin(connect("websocket", path), false).expect("room");
        self.opened(stream)
    }

    pub(crate) fn opened(&mut self, stream: Stream) -> (Response<()>, Tunnel) {
        let (head, from) = self.run(stream.answer).expect("a head").into_parts();
        (Response::from_parts(head, ()), Tunnel { to: stream.body, from, have: Vec::new() })
    }

    pub(crate) fn say(&self, tunnel: &mut Tunnel, bytes: &[u8], ends: bool) {
        if bytes.is_empty() {
            return tunnel.to.send_data(Bytes::new(), ends).expect("it is open");
        }
        let bytes = Bytes::copy_from_slice(bytes);
        self.run(send_all(&mut tunnel.to, bytes, ends)).expect("it is open");
    }

    /// Reads until these bytes are there, and not one more.
    #[track_caller]
    pub(crate) fn hear(&self, tunnel: &mut Tunnel, bytes: &[u8]) {
        while tunnel.have.len() < bytes.len() {
            let piece = self.run(poll_fn(|cx| tunnel.from.poll_data(cx)));
            let piece = piece.expect("it goes on").expect("it is whole");
            release(&mut tunnel.from, piece.len());
            tunnel.have.extend_from_slice(&piece);
        }
        assert!(tunnel.have == bytes, "{:?}", super::http::clip(&tunnel.have));
        tunnel.have.clear();
    }

    /// How it ended, with nothing more in it.
    pub(crate) fn end_of(&self, tunnel: &mut Tunnel) -> Result<(), h2::Error> {
        match self.run(poll_fn(|cx| tunnel.from.poll_data(cx))) {
            None => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(data)) => {
                assert!(data.is_empty(), "{:?}", super::http::clip(&data));
                self.end_of(tunnel)
            }
        }
    }
}
