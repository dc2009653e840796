//! The adapter for UDP: datagrams to destinations, and replies to their clients.
//!
//! - One task serves a listener's socket on a worker. It receives many datagrams with one system call.
//! - Each flow has a socket that is connected to its destination. A reply is assigned to its flow by that
//!   socket, only the destination can send one, and a refusal (ICMP) is reported there.
//! - The sockets of flows are watched by an epoll of the task, and the worker watches only that: waking up
//!   costs the same for one reply and for a batch.

pub(crate) mod fd_budget;
pub(crate) mod gso;
pub(crate) mod socket_io;

mod batch;
mod deliver;
mod expiry;
mod flow;
mod flow_table;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_config::model::{self, Protocol, UdpFlow};
use plimsoll_core::Tick;
use rustix::event::{Timespec, epoll};
use tokio::io::unix::AsyncFd;

use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::base::timer::Timer;
use crate::listener::adapter::{DatagramHandler, Datagrams};
use crate::listener::worker_listener::ListenerRoutes;
use crate::listener::worker_listener::WorkerListener;
use crate::listener::worker_listener::WorkerRoute;
use crate::net::stream::watch_reading;
use crate::serve::udp::batch::BATCH;
use crate::serve::udp::batch::Batch;
use crate::serve::udp::fd_budget::FdBudget;
use crate::serve::udp::flow::{Flow, SocketFault};
use crate::serve::udp::flow_table::FlowTable;
use crate::serve::udp::socket_io::UdpSocketIo;

/// Batches of each direction per poll: up to a millisecond, or a few where segment batches are split.
const MAX_ITERATIONS: usize = 4;
/// Sends towards destinations that end a poll early: split segment batches need more than one each.
const MAX_SENDS: usize = MAX_ITERATIONS * BATCH;
/// Batches that are still delivered when a listener closes.
const CLOSING_BATCHES: usize = 64;
/// A destination on trial passes if it does not refuse for this long: many never reply.
const TRIAL_PERIOD: Duration = Duration::from_secs(1);
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Adapter for UDP.
#[derive(Debug)]
pub(crate) struct Udp;

impl DatagramHandler for Udp {
    fn serve_datagrams(&self, datagrams: Datagrams) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(serve(datagrams))
    }
}

/// Receive buffers of a worker, allocated when its first datagram listener runs.
type BatchBuffer = RefCell<Option<Box<Batch>>>;

async fn serve(datagrams: Datagrams) {
    let Datagrams { worker, listener, socket, stopped } = datagrams;
    let mut task = match UdpListenerTask::new(&worker, &listener, socket) {
        Ok(Some(task)) => task,
        Ok(None) => return,
        Err(error) => return tracing::error!(%error, "cannot use a datagram socket"),
    };
    let work = async {
        loop {
            std::future::poll_fn(|cx| task.poll(cx)).await;
            // Yields, so that other sockets of the worker are polled before the next batch.
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = stopped => {}
        () = work => {}
    }
    task.close();
}

/// The task of a listener's socket on one worker, with its flows.
struct UdpListenerTask {
    worker: Rc<WorkerContext>,
    /// Receive buffers, shared by the datagram listeners of the worker. Borrowed only between two awaits.
    batch: Rc<BatchBuffer>,
    listener: Rc<WorkerListener>,
    routes: Rc<ListenerRoutes>,
    /// The last route: a datagram has no properties that routes match on.
    route: WorkerRoute,
    socket_io: UdpSocketIo,
    /// Watches the sockets of all flows, by the number of their slot.
    epoll: Rc<AsyncFd<OwnedFd>>,
    flows: FlowTable<Flow>,
    fd_budget: FdBudget,
    /// Address of the listening socket.
    own: Option<SocketAddr>,
    /// Fires when a flow expires or a trial has passed.
    timer: Rc<Timer>,
    /// Flows on trial: slot, number, and end of the trial.
    trials: VecDeque<(u32, u64, Tick)>,
    /// Number of the latest flow.
    next: u64,
    /// Sends towards destinations in this poll.
    sends: usize,
    /// Counts the reads of replies; one number is skipped between two polls.
    round: u64,
}

/// Direction of a datagram, in the order of [`crate::DIRECTIONS`].
#[derive(Copy, Clone)]
enum Direction {
    FromClients,
    ToDestinations,
    FromDestinations,
    ToClients,
}

impl UdpListenerTask {
    fn new(
        worker: &Rc<WorkerContext>,
        listener: &Rc<WorkerListener>,
        socket: socket2::Socket,
    ) -> io::Result<Option<Self>> {
        let routes = listener.routes();
        let Some(route) = routes.routes.last().cloned() else { return Ok(None) };
        let own = socket.local_addr().ok().and_then(|address| address.as_socket());
        Ok(Some(Self {
            worker: worker.clone(),
            batch: worker.local.get(),
            listener: listener.clone(),
            routes,
            route,
            socket_io: UdpSocketIo::new(socket)?,
            epoll: Rc::new(watch_reading(epoll::create(epoll::CreateFlags::CLOEXEC)?)?),
            flows: FlowTable::new(),
            fd_budget: FdBudget::from_system(),
            own,
            timer: worker.timers.timer(Tick::NEVER),
            trials: VecDeque::new(),
            next: 0,
            sends: 0,
            round: 0,
        }))
    }

    fn config(&self) -> model::Udp {
        self.routes.table.config.udp
    }

    /// Reports whether a flow keeps one destination for its life.
    fn keeps_assignment(&self) -> bool {
        self.config().flow == UdpFlow::Source
    }

    fn count(&self, direction: Direction, datagrams: u64) {
        self.routes.table.shared.counters.of(self.worker.number).datagrams[direction as usize].add(datagrams);
    }

    /// Transfers datagrams; ready when more may be left than one poll allows.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let worker = self.worker.clone();
        let buffer = self.batch.clone();
        let mut batch = buffer.borrow_mut();
        let batch = batch.get_or_insert_with(|| Box::new(Batch::new()));
        let now = worker.now();
        self.apply_config(now);
        self.round += 1;
        self.sends = 0;
        let (socket, epoll) = (self.socket_io.socket.clone(), self.epoll.clone());
        for _ in 0..MAX_ITERATIONS {
            let mut moved = false;
            if let Poll::Ready(Ok(mut ready)) = socket.poll_read_ready(cx) {
                moved = true;
                if self.receive_from_clients(batch, now) < BATCH {
                    ready.clear_ready();
                }
            }
            if let Poll::Ready(Ok(mut ready)) = epoll.poll_read_ready(cx) {
                moved = true;
                if self.receive_from_destinations(batch, now) == 0 {
                    ready.clear_ready();
                }
            }
            if self.timer.poll(cx).is_ready() {
                moved = true;
                self.expire_flows(now);
            }
            if !moved {
                return Poll::Pending;
            }
            if self.sends > MAX_SENDS {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Applies a new configuration. Flows stay if they lead to the same pool.
    fn apply_config(&mut self, now: Tick) {
        let routes = self.listener.routes();
        if Rc::ptr_eq(&routes, &self.routes) || routes.table.config.protocol != Protocol::Udp {
            return;
        }
        let Some(route) = routes.routes.last().cloned() else { return };
        if !Rc::ptr_eq(&route.pool, &self.route.pool) {
            self.end_all(now);
        }
        (self.routes, self.route) = (routes, route);
        self.set_timer(now);
    }

    /// Receives and delivers one batch of clients' datagrams; returns the number of messages.
    fn receive_from_clients(&mut self, batch: &mut Batch, now: Tick) -> usize {
        let count = match self.socket_io.receive(batch) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // A pending socket error is cleared by returning it; the datagrams behind it are received now.
            Err(_) => self.socket_io.receive(batch).unwrap_or(0),
        };
        let was_empty = self.flows.oldest().is_none();
        let (mut taken, mut passed, mut bytes) = (0, 0, 0);
        for run in batch.runs(count) {
            taken += run.meta.datagrams() as u64;
            bytes += run.meta.len as u64;
            passed += self.deliver_run(&run, now);
        }
        self.count(Direction::FromClients, taken);
        self.count(Direction::ToDestinations, passed);
        self.route.table.counters.of(self.worker.number).request_bytes.add(bytes);
        if was_empty || !self.trials.is_empty() {
            self.set_timer(now);
        }
        count
    }

    /// Receives and forwards one batch of replies; returns the number of ready sockets.
    fn receive_from_destinations(&mut self, batch: &mut Batch, now: Tick) -> usize {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; BATCH];
        let Ok(count) = epoll::wait(self.epoll.get_ref(), &mut events, Some(&NO_WAIT)) else { return 0 };
        self.round += 1;
        let (mut received, mut replies) = (0, 0);
        for (n, event) in events[..count].iter().enumerate() {
            let slot = event.data.u64() as u32;
            // Leaves a buffer for each socket after this one.
            let until = BATCH + n + 1 - count;
            match self.receive_replies(slot, batch, replies..until, now) {
                Ok((datagrams, messages)) => {
                    received += datagrams;
                    replies += messages;
                }
                Err(SocketFault::Refused) => self.lose_destination(slot, now),
                Err(
                    SocketFault::WouldBlock
                    | SocketFault::NoResources
                    | SocketFault::BadDatagram
                    | SocketFault::SegmentsRefused,
                ) => {}
            }
        }
        let (datagrams, bytes) = self.socket_io.send(batch, replies);
        self.count(Direction::FromDestinations, received);
        self.count(Direction::ToClients, datagrams);
        self.route.table.counters.of(self.worker.number).response_bytes.add(bytes);
        count
    }

    /// Receives replies of a flow into the given buffers. Returns the number of datagrams and of buffers
    /// used, which is 0 if the flow has expired.
    fn receive_replies(
        &mut self,
        slot: u32,
        batch: &mut Batch,
        buffers: Range<usize>,
        now: Tick,
    ) -> Result<(u64, usize), SocketFault> {
        let (idle, keeps_assignment, round) = (self.config().idle, self.keeps_assignment(), self.round);
        let Some((key, flow)) = self.flows.get_mut(slot) else { return Err(SocketFault::WouldBlock) };
        let Some(path) = &mut flow.path else { return Err(SocketFault::WouldBlock) };
        let messages = path.receive(batch, buffers.start, buffers.end, round)?;
        let (mut datagrams, mut bytes) = (0, 0);
        for meta in batch.buffers(buffers.start).1.iter_mut().take(messages) {
            (meta.client, meta.local) = (key.client, key.local);
            datagrams += meta.datagrams() as u64;
            bytes += meta.len as u64;
        }
        if now.since(flow.last) >= idle {
            return Ok((datagrams, 0));
        }
        flow.replied(&self.route, keeps_assignment, now);
        flow.copied.to_client += bytes;
        Ok((datagrams, messages))
    }

    /// Handles a refusal: the next datagram of the client goes to another destination.
    fn lose_destination(&mut self, slot: u32, now: Tick) {
        let keeps = self.keeps_assignment();
        let Some((_, flow)) = self.flows.get_mut(slot) else { return };
        flow.avoid = flow.path.take().map(|path| path.failed(&self.route, now));
        if !keeps {
            self.end(slot, now);
        }
    }

    /// Delivers the datagrams that have arrived, then ends all flows.
    fn close(mut self) {
        let worker = self.worker.clone();
        let now = worker.now();
        if let Some(batch) = self.batch.clone().borrow_mut().as_mut() {
            for _ in 0..CLOSING_BATCHES {
                if self.receive_from_clients(batch, now) < BATCH {
                    break;
                }
            }
        }
        self.end_all(now);
    }
}

/// Returns the reason a datagram was dropped, from the fault of its last attempt.
fn reason_of(fault: SocketFault) -> Reason {
    match fault {
        SocketFault::WouldBlock | SocketFault::NoResources => Reason::NoResources,
        SocketFault::Refused => Reason::ConnectFailed,
        SocketFault::BadDatagram | SocketFault::SegmentsRefused => Reason::BadRequest,
    }
}
