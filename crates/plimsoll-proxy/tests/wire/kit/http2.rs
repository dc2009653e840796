//! A client of HTTP/2, and one of single frames for what no library sends.

use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::runtime::Runtime;

use super::socket::Place;
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

/// Single frames on a raw socket.
pub(crate) struct Frames {
    socket: std::net::TcpStream,
}

impl Frames {
    /// The preface and empty settings, and nothing more.
    pub(crate) fn connect(balancer: &Balancer) -> Self {
        let Place::Tcp(address) = balancer.place() else { panic!("a TCP listener") };
        let mut socket = std::net::TcpStream::connect(address).expect("the proxy takes connections");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("room");
        let mut frames = Self { socket };
        assert!(frames.send(4, 0, 0, b""));
        frames
    }

    /// A frame as it stands on the wire.
    pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// `false` when the proxy takes no more.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.send_raw(&Self::frame(kind, flags, stream, payload))
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// The next frame: kind, flags, stream and payload. `None` at the end.
    pub(crate) fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).ok()?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        self.socket.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// The code of the goodbye that ends this connection.
    pub(crate) fn goodbye(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == 7 {
                code = payload.get(4..8).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four")));
            }
        }
        code
    }
}
