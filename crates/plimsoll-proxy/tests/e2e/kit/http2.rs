//! An HTTP/2 client and scripted HTTP/2 destinations, based on the h2 crate.

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

use super::endpoint::Endpoint;
use super::{Balancer, TIMEOUT};

/// An HTTP/2 connection. It makes progress only while one of its methods runs.
pub(crate) struct Http2Client {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Http2Response {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl Http2Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request in progress.
pub(crate) struct Stream {
    pub(crate) response: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

impl Http2Client {
    pub(crate) fn connect(balancer: &Balancer) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let Endpoint::Tcp(address) = balancer.endpoint() else { panic!("a TCP listener") };
        let requests = runtime.block_on(async {
            let socket =
                tokio::net::TcpStream::connect(address).await.expect("the proxy accepts connections");
            socket.set_nodelay(true).expect("a socket");
            // A stream that is not read blocks only itself, not the whole connection.
            let mut builder = h2::client::Builder::new();
            let builder = builder.initial_window_size(65_535).initial_connection_window_size(4 << 20);
            let (requests, connection) = builder.handshake(socket).await.expect("a handshake");
            tokio::spawn(connection);
            requests
        });
        Self { runtime, requests }
    }

    /// Runs `work` and drives the connection meanwhile.
    #[track_caller]
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(TIMEOUT, work).await })
            .expect("progress within the time limit")
    }

    /// Sends a request head; the body is still to be sent unless it `ends`.
    pub(crate) fn start_request(&mut self, request: Request<()>, ends: bool) -> Result<Stream, h2::Error> {
        let requests = self.requests.clone();
        let (response, body) = self.run(async {
            let mut ready = requests.ready().await?;
            ready.send_request(request, ends)
        })?;
        Ok(Stream { response, body })
    }

    /// Sends a complete request and reads the complete response.
    pub(crate) fn fetch(&mut self, request: Request<()>, body: &[u8]) -> Result<Http2Response, h2::Error> {
        let mut stream = self.start_request(request, body.is_empty())?;
        let body = body.to_vec();
        self.run(async move {
            let send = async {
                if !body.is_empty() {
                    send_all(&mut stream.body, body.into(), true).await?;
                }
                Ok(())
            };
            let (sent, response) = tokio::join!(send, read_response(stream.response));
            let _an_early_answer_ends_the_sending: Result<(), h2::Error> = sent;
            response
        })
    }

    pub(crate) fn get(&mut self, path: &str) -> Http2Response {
        self.fetch(get(path), b"").expect("a response")
    }

    /// Reads the response to a request in progress.
    pub(crate) fn read_response(&mut self, stream: Stream) -> Result<Http2Response, h2::Error> {
        self.run(read_response(stream.response))
    }

    /// Drives the connection for `span`.
    pub(crate) fn drive_for(&self, span: Duration) {
        self.run(async { tokio::time::sleep(span).await });
    }
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://test{path}")).body(()).expect("a request")
}

/// Sends a body as flow control allows.
pub(crate) async fn send_all(
    to: &mut SendStream<Bytes>,
    mut bytes: Bytes,
    ends: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let capacity = match to.capacity() {
            0 => poll_fn(|cx| to.poll_capacity(cx)).await.expect("the stream is open")?,
            capacity => capacity,
        };
        let piece = bytes.split_to(capacity.min(bytes.len()));
        to.send_data(piece, ends && bytes.is_empty())?;
    }
    Ok(())
}

pub(crate) async fn read_response(response: ResponseFuture) -> Result<Http2Response, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = poll_fn(|cx| stream.poll_data(cx)).await {
        let data = data?;
        release(&mut stream, data.len());
        body.extend_from_slice(&data);
    }
    let trailers = poll_fn(|cx| stream.poll_trailers(cx)).await?.unwrap_or_default();
    Ok(Http2Response { head: Response::from_parts(head, ()), body, trailers })
}

pub(crate) fn release(stream: &mut RecvStream, len: usize) {
    let _ended_already = stream.flow_control().release_capacity(len);
}

/// A complete request as an HTTP/2 destination received it.
#[derive(Clone, Debug)]
pub(crate) struct Http2Request {
    pub(crate) head: Request<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

/// The reaction to a request.
#[derive(Debug)]
pub(crate) struct ScriptedResponse {
    head: Response<()>,
    body: Vec<u8>,
    trailers: HeaderMap,
    wait: Duration,
    reset: Option<h2::Reason>,
}

impl ScriptedResponse {
    pub(crate) fn new(status: u16) -> Self {
        let head = Response::builder().status(status).body(()).expect("a head");
        let (body, trailers) = (Vec::new(), HeaderMap::new());
        Self { head, body, trailers, wait: Duration::ZERO, reset: None }
    }

    pub(crate) fn reset(reason: h2::Reason) -> Self {
        Self { reset: Some(reason), ..Self::new(200) }
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

type ResponseScript = dyn Fn(&Http2Request) -> ScriptedResponse + Send + Sync;

/// How a destination handles streams.
#[derive(Clone)]
enum Behaviour {
    /// Responds when the request is complete.
    Whole(Arc<ResponseScript>),
    /// Responds to the request head.
    Early(Arc<ResponseScript>),
    /// Echoes the body piece by piece.
    Streaming,
    Tunnels,
}

/// An HTTP/2 destination on a thread of its own.
pub(crate) struct Http2Destination {
    address: std::net::SocketAddr,
    requests: Arc<Mutex<Vec<Http2Request>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    goaways: tokio::sync::watch::Sender<usize>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Http2Destination {
    pub(crate) fn start(script: impl Fn(&Http2Request) -> ScriptedResponse + Send + Sync + 'static) -> Self {
        Self::run(Behaviour::Whole(Arc::new(script)))
    }

    /// Starts a destination that responds to the request head and never reads the body.
    pub(crate) fn start_early(
        script: impl Fn(&Http2Request) -> ScriptedResponse + Send + Sync + 'static,
    ) -> Self {
        Self::run(Behaviour::Early(Arc::new(script)))
    }

    /// Starts a destination that responds at once and echoes the body piece by piece.
    pub(crate) fn start_streaming() -> Self {
        Self::run(Behaviour::Streaming)
    }

    /// Starts a destination that echoes WebSocket tunnels (RFC 8441) and ends them with "goodbye". It declines
    /// tunnels to `/no`, and resets tunnels to `/break` at the first data.
    pub(crate) fn start_tunnels() -> Self {
        Self::run(Behaviour::Tunnels)
    }

    fn run(behaviour: Behaviour) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let (requests, connections) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicUsize::new(0)));
        let (goaways, goaway) = tokio::sync::watch::channel(0);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (recorded, counted) = (requests.clone(), connections.clone());
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
                        let serving = serve(socket, behaviour.clone(), recorded.clone(), goaway.clone());
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
        Self { address, requests, connections, open, goaways, _stop: stop }
    }

    pub(crate) fn as_member(&self, number: usize) -> plimsoll_config::model::Destination {
        let address = plimsoll_config::model::DestinationAddress::Socket(self.address);
        plimsoll_config::model::Destination::new(format!("h2-{number}"), address)
    }

    pub(crate) fn requests(&self) -> Vec<Http2Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sends GOAWAY on every open connection.
    pub(crate) fn send_goaway(&self) {
        self.goaways.send_modify(|times| *times += 1);
    }
}

async fn serve(
    socket: tokio::net::TcpStream,
    behaviour: Behaviour,
    requests: Arc<Mutex<Vec<Http2Request>>>,
    mut goaway: tokio::sync::watch::Receiver<usize>,
) {
    goaway.mark_unchanged();
    let mut builder = h2::server::Builder::new();
    if matches!(behaviour, Behaviour::Tunnels) {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(socket).await else { return };
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => match behaviour.clone() {
                    Behaviour::Streaming => drop(tokio::spawn(echo_stream(request, respond))),
                    Behaviour::Whole(script) => drop(tokio::spawn(respond_scripted(request, respond, script, true, requests.clone()))),
                    Behaviour::Early(script) => drop(tokio::spawn(respond_scripted(request, respond, script, false, requests.clone()))),
                    Behaviour::Tunnels => drop(tokio::spawn(serve_tunnel(request, respond, requests.clone()))),
                },
                _ => return,
            },
            Ok(()) = goaway.changed() => connection.graceful_shutdown(),
        }
    }
}

async fn respond_scripted(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    script: Arc<ResponseScript>,
    read_body: bool,
    requests: Arc<Mutex<Vec<Http2Request>>>,
) {
    let (head, mut stream) = request.into_parts();
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    if read_body {
        while let Some(Ok(data)) = poll_fn(|cx| stream.poll_data(cx)).await {
            release(&mut stream, data.len());
            body.extend_from_slice(&data);
        }
        trailers = poll_fn(|cx| stream.poll_trailers(cx)).await.ok().flatten().unwrap_or_default();
    }
    let request = Http2Request { head: Request::from_parts(head, ()), body, trailers };
    let scripted = script(&request);
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    tokio::time::sleep(scripted.wait).await;
    if let Some(reason) = scripted.reset {
        return respond.send_reset(reason);
    }
    let head_only = scripted.body.is_empty() && scripted.trailers.is_empty();
    let Ok(mut response) = respond.send_response(scripted.head, head_only) else { return };
    if !head_only {
        let ends = scripted.trailers.is_empty();
        let _gone = send_all(&mut response, scripted.body.into(), ends).await;
        if !ends {
            let _gone = response.send_trailers(scripted.trailers);
        }
    }
}

async fn echo_stream(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let mut body = request.into_body();
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let Ok(mut response) = respond.send_response(head, false) else { return };
    while let Some(Ok(data)) = poll_fn(|cx| body.poll_data(cx)).await {
        release(&mut body, data.len());
        if send_all(&mut response, data, false).await.is_err() {
            return;
        }
    }
    let _gone = response.send_data(Bytes::new(), true);
}

async fn serve_tunnel(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    requests: Arc<Mutex<Vec<Http2Request>>>,
) {
    let (head, mut from) = request.into_parts();
    let path = head.uri.path().to_owned();
    let head = Request::from_parts(head, ());
    let request = Http2Request { head, body: Vec::new(), trailers: HeaderMap::new() };
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
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

/// Returns an extended CONNECT request for a WebSocket or another protocol (RFC 8441).
pub(crate) fn extended_connect(protocol: &'static str, path: &str) -> Request<()> {
    let request = Request::connect(format!("http://test{path}"))
        .extension(h2::ext::Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat");
    request.body(()).expect("a request")
}

/// Computes Sec-WebSocket-Accept of a key (RFC 6455 section 4.2.2), without code of the proxy.
pub(crate) fn websocket_accept(key: &str) -> String {
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

/// Both directions of a tunnel.
pub(crate) struct Tunnel {
    pub(crate) to: SendStream<Bytes>,
    pub(crate) from: RecvStream,
    received: Vec<u8>,
}

impl Http2Client {
    /// Sends `count` requests for `path` at once, before reading anything.
    pub(crate) fn send_burst(&mut self, path: &str, count: usize) -> Vec<Stream> {
        let requests = self.requests.clone();
        self.run(async {
            let (mut requests, mut streams) = (requests, Vec::new());
            for _ in 0..count {
                requests = requests.ready().await.expect("a free stream");
                let (response, body) = requests.send_request(get(path), true).expect("a free stream");
                streams.push(Stream { response, body });
            }
            streams
        })
    }

    /// Returns the server's SETTINGS_MAX_CONCURRENT_STREAMS.
    pub(crate) fn max_concurrent_streams(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Reports whether the server announced SETTINGS_ENABLE_CONNECT_PROTOCOL.
    pub(crate) fn supports_extended_connect(&self) -> bool {
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// Opens a WebSocket tunnel; returns the response head and the tunnel.
    pub(crate) fn open_tunnel(&mut self, path: &str) -> (Response<()>, Tunnel) {
        let stream = self.start_request(extended_connect("websocket", path), false).expect("a free stream");
        self.finish_opening(stream)
    }

    pub(crate) fn finish_opening(&mut self, stream: Stream) -> (Response<()>, Tunnel) {
        let (head, from) = self.run(stream.response).expect("a head").into_parts();
        (Response::from_parts(head, ()), Tunnel { to: stream.body, from, received: Vec::new() })
    }

    pub(crate) fn send_to_tunnel(&self, tunnel: &mut Tunnel, bytes: &[u8], ends: bool) {
        if bytes.is_empty() {
            return tunnel.to.send_data(Bytes::new(), ends).expect("it is open");
        }
        let bytes = Bytes::copy_from_slice(bytes);
        self.run(send_all(&mut tunnel.to, bytes, ends)).expect("it is open");
    }

    /// Reads from the tunnel until exactly these bytes have arrived.
    #[track_caller]
    pub(crate) fn expect_from_tunnel(&self, tunnel: &mut Tunnel, bytes: &[u8]) {
        while tunnel.received.len() < bytes.len() {
            let piece = self.run(poll_fn(|cx| tunnel.from.poll_data(cx)));
            let piece = piece.expect("more data").expect("no error");
            release(&mut tunnel.from, piece.len());
            tunnel.received.extend_from_slice(&piece);
        }
        assert!(tunnel.received == bytes, "{:?}", super::http::clip(&tunnel.received));
        tunnel.received.clear();
    }

    /// Reads to the end of the tunnel, which must bring no further data.
    pub(crate) fn read_tunnel_end(&self, tunnel: &mut Tunnel) -> Result<(), h2::Error> {
        match self.run(poll_fn(|cx| tunnel.from.poll_data(cx))) {
            None => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(data)) => {
                assert!(data.is_empty(), "{:?}", super::http::clip(&data));
                self.read_tunnel_end(tunnel)
            }
        }
    }
}
