//! The demo's clients: open-loop HTTP requests at a constant rate.

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

use super::client_stats::ClientStats;

/// Number of clients, each with one connection.
pub(crate) const CLIENTS: usize = 32;
/// Requests per second, independent of response times.
pub(crate) const PER_SECOND: u32 = 300;
/// Maximum number of requests waiting for a free client: about three seconds of traffic. More are failures.
const MAX_WAITING: usize = 1024;
/// Time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// All clients, on one thread.
#[derive(Debug)]
pub(crate) struct LoadGenerator {
    stats: Arc<Mutex<ClientStats>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// State shared by all clients.
struct Shared {
    address: SocketAddr,
    clock: Clock,
    stats: Arc<Mutex<ClientStats>>,
    /// Scheduled times of the waiting requests.
    scheduled: tokio::sync::Mutex<mpsc::Receiver<Tick>>,
}

fn lock(stats: &Mutex<ClientStats>) -> MutexGuard<'_, ClientStats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LoadGenerator {
    /// Starts sending requests to `address`.
    ///
    /// # Errors
    /// An error of the system: no thread or no runtime.
    pub(crate) fn start(address: SocketAddr) -> io::Result<Self> {
        let stats = Arc::new(Mutex::new(ClientStats::default()));
        let (schedule, scheduled) = mpsc::channel(MAX_WAITING);
        let scheduled = tokio::sync::Mutex::new(scheduled);
        let shared = Arc::new(Shared { address, clock: Clock::start(), stats: stats.clone(), scheduled });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("clients".into())
            .spawn(move || runtime.block_on(generate_load(shared, schedule, stopped)))?;
        Ok(Self { stats, stop, thread })
    }

    /// Returns the counts since the last call.
    pub(crate) fn take_stats(&self) -> ClientStats {
        std::mem::take(&mut lock(&self.stats))
    }

    /// Stops sending, waits for the last responses and returns the counts since the last call.
    pub(crate) fn stop(self) -> ClientStats {
        let _already_stopped = self.stop.send(());
        let _panic_is_reported = self.thread.join();
        std::mem::take(&mut lock(&self.stats))
    }
}

async fn generate_load(
    shared: Arc<Shared>,
    schedule: mpsc::Sender<Tick>,
    mut stopped: oneshot::Receiver<()>,
) {
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(shared.clone()))).collect();
    let mut ticker = interval(Duration::from_secs(1) / PER_SECOND);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            _ = ticker.tick() => if schedule.try_send(shared.clock.now()).is_err() {
                lock(&shared.stats).record_failure("no client was free for three seconds".to_owned());
            },
        }
    }
    drop(schedule);
    for client in clients {
        let _panic_is_reported = client.await;
    }
}

/// Sends scheduled requests on one connection, which is opened again after a failure.
async fn client(shared: Arc<Shared>) {
    let mut connection = None;
    loop {
        // The lock is held while waiting, so the clients receive in turn.
        let Some(scheduled) = shared.scheduled.lock().await.recv().await else { return };
        let result = match timeout(REQUEST_TIMEOUT, send_request(shared.address, &mut connection)).await {
            Ok(Ok(200)) => Ok(()),
            Ok(Ok(status)) => Err(format!("response status {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no response within {REQUEST_TIMEOUT:?}")),
        };
        let latency = shared.clock.now().since(scheduled);
        match result {
            Ok(()) => lock(&shared.stats).record_success(latency),
            Err(error) => {
                connection = None;
                lock(&shared.stats).record_failure(error);
            }
        }
    }
}

/// Sends one request, reads the whole response and returns its status.
async fn send_request(address: SocketAddr, connection: &mut Option<TcpStream>) -> io::Result<u16> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address).await?,
    };
    stream.write_all(b"GET /demo HTTP/1.1\r\nHost: demo\r\nUser-Agent: plimsoll-demo\r\n\r\n").await?;
    let mut response = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut response).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed before the response was complete",
            ));
        }
        if let Some((status, len)) = parse_head(&response)?
            && response.len() >= len
        {
            *connection = (response.len() == len).then_some(stream);
            return Ok(status);
        }
    }
}

/// Returns status and total length of a response; `None` while its head is incomplete.
fn parse_head(response_bytes: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let mut slots = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut slots);
    let invalid =
        || io::Error::new(io::ErrorKind::InvalidData, "expected an HTTP response with Content-Length");
    match response.parse(response_bytes).map_err(|_| invalid())? {
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
    fn response_is_complete_at_its_content_length() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").unwrap(), Some((200, 41)));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
