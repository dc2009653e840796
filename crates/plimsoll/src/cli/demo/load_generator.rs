//! The clients of the demonstration: a steady stream of requests that does not wait for slow answers.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_core::Tick;
use plimsoll_proxy::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::client_stats::Tally;

/// Connections that are kept open.
pub(crate) const CLIENTS: usize = 32;
/// Requests a second, whatever becomes of them.
pub(crate) const PER_SECOND: u32 = 300;
/// Requests that may wait for a free client: three seconds' worth. More count as errors.
const WAITING: usize = 1024;
/// A client waits so long for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// All clients, on a thread of their own.
#[derive(Debug)]
pub(crate) struct Crowd {
    tally: Arc<Mutex<Tally>>,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What clients share.
struct Shared {
    address: SocketAddr,
    clock: Clock,
    tally: Arc<Mutex<Tally>>,
    /// When each request was due.
    due: tokio::sync::Mutex<mpsc::Receiver<Tick>>,
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crowd {
    /// Begins to send to `address`.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn start(address: SocketAddr) -> io::Result<Self> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (to, due) = mpsc::channel(WAITING);
        let due = tokio::sync::Mutex::new(due);
        let shared = Arc::new(Shared { address, clock: Clock::start(), tally: tally.clone(), due });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("clients".into())
            .spawn(move || runtime.block_on(perform(shared, to, ended)))?;
        Ok(Self { tally, end, thread })
    }

    /// What was seen since the last call.
    pub(crate) fn seen(&self) -> Tally {
        std::mem::take(&mut lock(&self.tally))
    }

    /// Sends no more and waits for the last answers.
    pub(crate) fn leave(self) -> Tally {
        let _it_is_over_already = self.end.send(());
        let _panicked_and_said_so = self.thread.join();
        std::mem::take(&mut lock(&self.tally))
    }
}

async fn perform(shared: Arc<Shared>, to: mpsc::Sender<Tick>, mut ended: oneshot::Receiver<()>) {
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(shared.clone()))).collect();
    let mut beat = interval(Duration::from_secs(1) / PER_SECOND);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            biased;
            _ = &mut ended => break,
            _ = beat.tick() => if to.try_send(shared.clock.now()).is_err() {
                lock(&shared.tally).bad("all clients were busy for seconds".to_owned());
            },
        }
    }
    drop(to);
    for client in clients {
        let _panicked_and_said_so = client.await;
    }
}

/// Sends what is due on one connection, opened anew whenever it broke.
async fn client(shared: Arc<Shared>) {
    let mut connection = None;
    loop {
        // The lock is held while waiting: clients take turns.
        let Some(due) = shared.due.lock().await.recv().await else { return };
        let answered = match timeout(PATIENCE, request(shared.address, &mut connection)).await {
            Ok(Ok(200)) => Ok(()),
            Ok(Ok(status)) => Err(format!("answered {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        let latency = shared.clock.now().since(due);
        match answered {
            Ok(()) => lock(&shared.tally).good(latency),
            Err(error) => {
                connection = None;
                lock(&shared.tally).bad(error);
            }
        }
    }
}

/// One request and its whole answer; its status.
async fn request(address: SocketAddr, connection: &mut Option<TcpStream>) -> io::Result<u16> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address).await?,
    };
    stream.write_all(b"GET /demo HTTP/1.1\r\nHost: demo\r\nUser-Agent: plimsoll-demo\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection ended within an answer",
            ));
        }
        if let Some((status, len)) = head(&answer)?
            && answer.len() >= len
        {
            *connection = (answer.len() == len).then_some(stream);
            return Ok(status);
        }
    }
}

/// Status and whole length of an answer whose head has arrived.
fn head(answer: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let mut slots = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut slots);
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "an answer that is none");
    match response.parse(answer).map_err(|_| invalid())? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(head) => {
            let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.parse::<usize>().ok());
            Ok(Some((response.code.unwrap_or(0), head + length.ok_or_else(invalid)?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_says_so() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").unwrap(), Some((200, 41)));
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
