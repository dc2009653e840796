//! How datagrams go from clients to destinations and replies to the clients they are for.
//!
//! A listener's socket at one worker is served by one task. It takes in what has arrived, many datagrams with one
//! system call, and passes each on over the socket of its flow, which is connected to the flow's destination:
//! so a reply is known by the socket it comes to, nobody but the destination can send one, and a destination
//! that refuses (ICMP) is known too. The sockets of flows are watched by an epoll of the task's own, and only
//! that is watched by the worker's: waking costs the same for one reply and for a batch of them.

pub(crate) mod fd_budget;
pub(crate) mod gso;
pub(crate) mod socket_io;

mod batch;
mod deliver;
mod ending;
mod flow;
mod flows;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
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
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::{Adapter, Datagrams};
use crate::listener::worker_listener::ListenerRoutes;
use crate::listener::worker_listener::WorkerListener;
use crate::listener::worker_listener::WorkerRoute;
use crate::net::stream::watch_reading;
use crate::serve::udp::batch::BATCH;
use crate::serve::udp::batch::Batch;
use crate::serve::udp::fd_budget::Room;
use crate::serve::udp::flow::{Fault, Flow};
use crate::serve::udp::flows::Flows;
use crate::serve::udp::socket_io::Gate;

/// Batches of each direction before others of the worker get their turn: a millisecond at most, or a few where
/// a batch of trains is taken apart.
const TURNS: usize = 4;
/// So many sends towards destinations end a turn early: trains taken apart make more of a batch than its pieces.
const SENDS: usize = TURNS * BATCH;
/// Batches that are still passed on when a listener closes.
const LAST: usize = 64;
/// A destination on trial that has not refused for so long has passed: many never reply.
const TRIAL: Duration = Duration::from_secs(1);
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Datagrams, each client's to one destination or each to its own.
#[derive(Debug)]
pub(crate) struct Udp;

impl Adapter for Udp {
    fn name(&self) -> &'static str {
        "udp"
    }

    /// A listener that has just become one for datagrams: its connections are over.
    fn serve(&self, connection: Connection) {
        drop(connection);
    }

    fn serve_datagrams(&self, datagrams: Datagrams) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(serve(datagrams))
    }
}

/// Serves one socket of a listener until it is to stop; flows end with it.
/// Receive buffers of a worker, allocated when its first datagram listener runs.
type BatchBuffer = RefCell<Option<Box<Batch>>>;

async fn serve(datagrams: Datagrams) {
    let Datagrams { worker, listener, socket, stopped } = datagrams;
    let mut desk = match Desk::new(&worker, &listener, socket) {
        Ok(Some(desk)) => desk,
        Ok(None) => return,
        Err(error) => return tracing::error!(%error, "a socket for datagrams cannot be used"),
    };
    let work = async {
        loop {
            std::future::poll_fn(|cx| desk.poll(cx)).await;
            // Not just a wake: everybody else's sockets are looked at too before the next turn.
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = stopped => {}
        () = work => {}
    }
    desk.close();
}

/// All of one socket's flows and what they share.
struct Desk {
    worker: Rc<WorkerContext>,
    /// Receive buffers, shared by the datagram listeners of the worker. Borrowed only between two awaits.
    batch: Rc<BatchBuffer>,
    listener: Rc<WorkerListener>,
    view: Rc<ListenerRoutes>,
    /// The only one: what can be asked of a datagram is not known before its flow.
    rule: WorkerRoute,
    gate: Gate,
    /// Watches the sockets of all flows, by the number of their slot.
    epoll: Rc<AsyncFd<OwnedFd>>,
    flows: Flows<Flow>,
    room: Room,
    /// Rings when the flow idle longest is to end, or sooner.
    timer: Rc<Timer>,
    /// Flows that carry a trial: slot, number, and when it is passed.
    trials: VecDeque<(u32, u64, Tick)>,
    /// The number of the next flow.
    next: u64,
    /// Sends towards destinations in this turn.
    sends: usize,
    /// Counts how often replies were looked for; between two turns one is left out.
    round: u64,
}

/// Which way a datagram went, in the order of [`crate::DIRECTIONS`].
#[derive(Copy, Clone)]
enum Way {
    FromClients,
    ToDestinations,
    FromDestinations,
    ToClients,
}

impl Desk {
    fn new(
        worker: &Rc<WorkerContext>,
        listener: &Rc<WorkerListener>,
        socket: socket2::Socket,
    ) -> io::Result<Option<Self>> {
        let view = listener.routes();
        let Some(rule) = view.routes.last().cloned() else { return Ok(None) };
        Ok(Some(Self {
            worker: worker.clone(),
            batch: worker.local.get(),
            listener: listener.clone(),
            view,
            rule,
            gate: Gate::new(socket)?,
            epoll: Rc::new(watch_reading(epoll::create(epoll::CreateFlags::CLOEXEC)?)?),
            flows: Flows::new(),
            room: Room::of_system(),
            timer: worker.timers.timer(Tick::NEVER),
            trials: VecDeque::new(),
            next: 0,
            sends: 0,
            round: 0,
        }))
    }

    fn config(&self) -> model::Udp {
        self.view.table.config.udp
    }

    /// A flow has one destination for as long as it lives.
    fn keeps_assignment(&self) -> bool {
        self.config().flow == UdpFlow::Source
    }

    fn count(&self, way: Way, datagrams: u64) {
        self.view.table.shared.counters.of(self.worker.number).datagrams[way as usize].add(datagrams);
    }

    /// Ready when there may be more to do than one turn allows.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let worker = self.worker.clone();
        let buffer = self.batch.clone();
        let mut batch = buffer.borrow_mut();
        let batch = batch.get_or_insert_with(|| Box::new(Batch::new()));
        let now = worker.now();
        self.adopt(now);
        self.round += 1;
        self.sends = 0;
        let (gate, epoll) = (self.gate.socket.clone(), self.epoll.clone());
        for _ in 0..TURNS {
            let mut moved = false;
            if let Poll::Ready(Ok(mut ready)) = gate.poll_read_ready(cx) {
                moved = true;
                if self.take_from_clients(batch, now) < BATCH {
                    ready.clear_ready();
                }
            }
            if let Poll::Ready(Ok(mut ready)) = epoll.poll_read_ready(cx) {
                moved = true;
                if self.take_from_destinations(batch, now) == 0 {
                    ready.clear_ready();
                }
            }
            if self.timer.poll(cx).is_ready() {
                moved = true;
                self.expire(now);
            }
            if !moved {
                return Poll::Pending;
            }
            if self.sends > SENDS {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Takes over a newer configuration. Flows stay while they lead to the same pool.
    fn adopt(&mut self, now: Tick) {
        let view = self.listener.routes();
        if Rc::ptr_eq(&view, &self.view) || view.table.config.protocol != Protocol::Udp {
            return;
        }
        let Some(rule) = view.routes.last().cloned() else { return };
        if !Rc::ptr_eq(&rule.pool, &self.rule.pool) {
            self.end_all(now);
        }
        (self.view, self.rule) = (view, rule);
        self.set_timer(now);
    }

    /// One batch from clients; the answer says how many it was.
    fn take_from_clients(&mut self, batch: &mut Batch, now: Tick) -> usize {
        let count = match self.gate.receive(batch) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // An error that was waiting is taken by telling it; what is behind it is to be received.
            Err(_) => self.gate.receive(batch).unwrap_or(0),
        };
        let was_empty = self.flows.oldest().is_none();
        let (mut taken, mut passed, mut bytes) = (0, 0, 0);
        for run in batch.runs(count) {
            taken += run.head.datagrams() as u64;
            bytes += run.head.len as u64;
            passed += self.deliver_run(&run, now);
        }
        self.count(Way::FromClients, taken);
        self.count(Way::ToDestinations, passed);
        self.rule.table.counters.of(self.worker.number).request_bytes.add(bytes);
        if was_empty || !self.trials.is_empty() {
            self.set_timer(now);
        }
        count
    }

    /// One batch of replies; the answer says how many sockets had something to tell.
    fn take_from_destinations(&mut self, batch: &mut Batch, now: Tick) -> usize {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; BATCH];
        let Ok(count) = epoll::wait(self.epoll.get_ref(), &mut events, Some(&AT_ONCE)) else { return 0 };
        self.round += 1;
        let (mut received, mut replies) = (0, 0);
        for (n, event) in events[..count].iter().enumerate() {
            let slot = event.data.u64() as u32;
            // Everybody after this one finds room too.
            let until = BATCH + n + 1 - count;
            match self.take_replies(slot, batch, replies..until, now) {
                Ok((datagrams, pieces)) => {
                    received += datagrams;
                    replies += pieces;
                }
                Err(Fault::Refused) => self.lose(slot, now),
                Err(Fault::NotNow | Fault::Means | Fault::Datagram | Fault::Train) => {}
            }
        }
        let (datagrams, bytes) = self.gate.send(batch, replies);
        self.count(Way::FromDestinations, received);
        self.count(Way::ToClients, datagrams);
        self.rule.table.counters.of(self.worker.number).response_bytes.add(bytes);
        count
    }

    /// Receives replies of a flow into those rooms: how many datagrams, and how many rooms they take. None, if
    /// its client has been silent for too long to get them.
    fn take_replies(
        &mut self,
        slot: u32,
        batch: &mut Batch,
        rooms: Range<usize>,
        now: Tick,
    ) -> Result<(u64, usize), Fault> {
        let (idle, keeps_assignment, round) = (self.config().idle, self.keeps_assignment(), self.round);
        let Some((key, flow)) = self.flows.get_mut(slot) else { return Err(Fault::NotNow) };
        let Some(path) = &mut flow.path else { return Err(Fault::NotNow) };
        let pieces = path.receive(batch, rooms.start, rooms.end, round)?;
        let (mut datagrams, mut bytes) = (0, 0);
        for head in batch.rooms(rooms.start).1.iter_mut().take(pieces) {
            (head.client, head.local) = (key.client, key.local);
            datagrams += head.datagrams() as u64;
            bytes += head.len as u64;
        }
        if now.since(flow.last) >= idle {
            return Ok((datagrams, 0));
        }
        flow.replied(&self.rule, keeps_assignment, now);
        flow.copied.to_client += bytes;
        Ok((datagrams, pieces))
    }

    /// A destination refused: the flow goes elsewhere with its client's next datagram.
    fn lose(&mut self, slot: u32, now: Tick) {
        let keeps = self.keeps_assignment();
        let Some((_, flow)) = self.flows.get_mut(slot) else { return };
        flow.avoid = flow.path.take().map(|path| path.failed(&self.rule, now));
        if !keeps {
            self.end(slot, now);
        }
    }

    /// Passes on what has come already, then ends all flows.
    fn close(mut self) {
        let worker = self.worker.clone();
        let now = worker.now();
        if let Some(batch) = self.batch.clone().borrow_mut().as_mut() {
            for _ in 0..LAST {
                if self.take_from_clients(batch, now) < BATCH {
                    break;
                }
            }
        }
        self.end_all(now);
    }
}

/// The reason a datagram was dropped for, from what its last try came to.
fn reason_of(fault: Fault) -> Reason {
    match fault {
        Fault::NotNow | Fault::Means => Reason::NoResources,
        Fault::Refused => Reason::ConnectFailed,
        Fault::Datagram | Fault::Train => Reason::BadRequest,
    }
}
