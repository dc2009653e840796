//! A worker's side of a pool: decisions by its snapshot, and its connections, idle or new.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_config::model::{PoolProtocol, ProxyProtocol};
use plimsoll_core::snapshot::assign;
use plimsoll_core::subset::Subset;
use plimsoll_core::{
    Address, DestinationId, DestinationStats, Name, NoDestination, PickRequest, Rng, Snapshot, Status, Tick,
};
use tokio::sync::Notify;

use crate::log::decision_log::DecisionSampler;
use crate::net::proxy_protocol::{self, Origin};
use crate::net::stream::Stream;
use crate::net::tls::client_config::AlpnOffer;
use crate::upstream::chosen::Chosen;
use crate::upstream::h2_connections::{H2ConnectionPool, NewUpstream};
use crate::upstream::hedge_delay::HedgeDelay;

use crate::upstream::table::PoolTable;
use crate::upstream::wait_queue::WaitQueue;

/// Maximum number of idle connections per destination and worker. A worker never has more idle connections than it
/// used concurrently; this bounds what remains of a burst.
const MAX_IDLE: usize = 1024;

/// Time for which a connection is not reused because unexpected bytes may still arrive on it.
const QUARANTINE: Duration = Duration::from_millis(100);

/// One worker's side of a pool: its copy of the snapshot and its idle connections.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    pub(crate) table: RefCell<Arc<PoolTable>>,
    sampler: Rc<DecisionSampler>,
    generation: Cell<u64>,
    snapshot: RefCell<Arc<Snapshot>>,
    idle: RefCell<HashMap<DestinationId, VecDeque<Idle>, BuildHasherDefault<IdHasher>>>,
    h2: H2ConnectionPool,
    pub(crate) worker: usize,
    /// Notified when a connection permit may be free again.
    pub(crate) connection_freed: Notify,
    /// Requests of this worker that wait for a destination.
    pub(crate) queue: WaitQueue,
    /// Delay before a request is hedged, if the pool hedges.
    pub(crate) hedge_delay: RefCell<Option<HedgeDelay>>,
}

/// Requirements of a request on its connection.
#[derive(Copy, Clone, Debug)]
pub(crate) struct ConnectionNeeds<'r> {
    /// Whether the client requests a protocol switch.
    pub(crate) upgrade: bool,
    /// Whether the request authenticates its connection, which then belongs to its client alone.
    pub(crate) dedicated: bool,
    /// Client connection of the request, if the pool sends a PROXY header.
    pub(crate) origin: Option<&'r Rc<Origin>>,
}

/// A connection to open: its destination, protocol and client.
#[derive(Debug)]
pub(crate) struct ConnectRequest {
    id: DestinationId,
    address: Address,
    protocol: PoolProtocol,
    dedicated: bool,
    origin: Option<Rc<Origin>>,
}

/// Hasher for destination ids: they are small and dense, so one multiplication spreads them.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    address: Address,
    since: Tick,
    /// Earliest time of its reuse. (Not `since`: a request that was assigned before the connection became idle may
    /// use it.)
    unused_until: Tick,
}

impl WorkerPool {
    pub(crate) fn new(table: Arc<PoolTable>, worker: usize, sampler: Rc<DecisionSampler>) -> Self {
        let snapshot = table.snapshots.latest();
        Self {
            generation: Cell::new(snapshot.generation),
            snapshot: RefCell::new(snapshot),
            hedge_delay: RefCell::new(table.config.hedge.map(HedgeDelay::new)),
            table: RefCell::new(table),
            sampler,
            idle: RefCell::default(),
            h2: H2ConnectionPool::default(),
            queue: WaitQueue::default(),
            worker,
            connection_freed: Notify::new(),
        }
    }

    /// Adopts a newer configuration. Idle connections are kept unless their TLS configuration changed.
    pub(crate) fn adopt(&self, table: &Arc<PoolTable>) {
        let before = self.table.replace(table.clone());
        let hedge = table.config.hedge;
        let same_hedging = self
            .hedge_delay
            .borrow()
            .as_ref()
            .is_some_and(|hedge_delay| hedge.is_some_and(|spec| hedge_delay.is_for(spec)));
        if !same_hedging {
            self.hedge_delay.replace(hedge.map(HedgeDelay::new));
        }
        let same = match (&before.client_tls, &table.client_tls) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        // Connections that were opened without a limit are not counted.
        let counts = table.config.limits_connections() && !before.config.limits_connections();
        if !same || counts {
            self.idle.borrow_mut().clear();
            self.h2.clear();
        }
    }

    /// Adopts a newer snapshot if one was published. Otherwise it costs one atomic load.
    fn refresh(&self) {
        let table = self.table.borrow();
        if table.snapshots.generation() != self.generation.get() {
            let latest = table.snapshots.latest();
            self.generation.set(latest.generation);
            *self.snapshot.borrow_mut() = latest;
        }
    }

    /// Chooses a destination for a request by the latest snapshot.
    pub(crate) fn balance_load(
        &self,
        want: &PickRequest<'_>,
        now: Tick,
        rng: &mut Rng,
    ) -> Result<Chosen, NoDestination> {
        self.refresh();
        let snapshot = self.snapshot.borrow();
        let assignment = self.sampler.balance_load(&snapshot, want, now, rng, |note| {
            note(self.table.borrow().counters.of(want.worker));
        })?;
        let member = &snapshot.members[assignment.member()].destination;
        Ok(Chosen { assignment, address: member.address.clone() })
    }

    /// Reports whether slow requests are hedged.
    pub(crate) fn hedges(&self) -> bool {
        self.hedge_delay.borrow().is_some()
    }

    /// Returns the generation of the latest snapshot.
    pub(crate) fn generation(&self) -> u64 {
        self.table.borrow().snapshots.generation()
    }

    /// Reports whether a destination may finish existing work and still has this address.
    pub(crate) fn allows_existing(&self, id: DestinationId, address: &Address) -> bool {
        self.refresh();
        let snapshot = self.snapshot.borrow();
        let member = snapshot.members.iter().find(|member| member.id == id);
        member.is_some_and(|member| {
            let finishes =
                member.status.serves() || matches!(member.status, Status::Draining | Status::Overloaded);
            finishes && member.destination.address == *address
        })
    }

    /// Returns the preferred destination of `key`, and the time of its last status change.
    pub(crate) fn preferred_destination(
        &self,
        key: u64,
        subset: Option<&Subset>,
    ) -> Option<(DestinationId, Tick)> {
        self.refresh();
        let snapshot = self.snapshot.borrow();
        snapshot.preferred_destination(key, subset).map(|member| (member.id, member.since))
    }

    /// Reports whether a destination may serve the request, has capacity and was not tried yet.
    pub(crate) fn has_untried(&self, want: &PickRequest<'_>) -> bool {
        self.snapshot.borrow().has_untried(want)
    }

    /// Opens a connection to a destination, with the pool's PROXY header and TLS.
    pub(crate) async fn connect(
        &self,
        id: DestinationId,
        address: &Address,
        origin: Option<&Origin>,
    ) -> io::Result<Stream> {
        // The content is opaque, so ALPN must not select HTTP/2.
        self.connect_for(id, address, origin, AlpnOffer::Http1).await
    }

    async fn connect_for(
        &self,
        id: DestinationId,
        address: &Address,
        origin: Option<&Origin>,
        offer: AlpnOffer,
    ) -> io::Result<Stream> {
        let mut socket = self.connect_limited(id, address).await?;
        socket.write_all(&proxy_protocol::header(self.proxy_protocol(), origin)).await?;
        let client_tls = self.table.borrow().client_tls.clone();
        let Some(client_tls) = client_tls else { return Ok(socket.into()) };
        let name = self.name_of(id).ok_or(io::ErrorKind::NotFound)?;
        let secured = client_tls.handshake(socket, &name, offer).await;
        secured.map(Stream::Tls).inspect_err(|error| self.log_handshake_failure(&name, error))
    }

    /// Logs the error of rustls, which names certificates and no secrets. Clients only see a failed connection.
    fn log_handshake_failure(&self, destination: &Name, error: &io::Error) {
        let pool = &self.table.borrow().config.name;
        tracing::debug!(event = "upstream_handshake_failed", %pool, %destination, %error, "TLS handshake with a destination failed");
    }

    /// Returns a connection that is ready: an idle one, or an HTTP/2 connection with a free stream slot.
    pub(crate) fn ready_upstream(
        &self,
        id: DestinationId,
        address: &Address,
        needs: &ConnectionNeeds<'_>,
        now: Tick,
    ) -> Option<NewUpstream> {
        let protocol = self.protocol_for(needs);
        if protocol != PoolProtocol::Http1
            && !needs.dedicated
            && let Some(connection) = self.h2.take(id, address)
        {
            return Some(NewUpstream::Http2(connection));
        }
        let idle = match protocol {
            PoolProtocol::Http2 => None,
            _ if self.is_per_client() => needs.origin?.take(self.number(), id, address),
            _ => self.take_idle(id, address, now),
        }?;
        Some(NewUpstream::Http1(idle))
    }

    /// Describes the connection to open if none is ready.
    pub(crate) fn connect_request(
        &self,
        id: DestinationId,
        address: &Address,
        needs: &ConnectionNeeds<'_>,
    ) -> ConnectRequest {
        let (protocol, origin) = (self.protocol_for(needs), needs.origin.cloned());
        ConnectRequest { id, address: address.clone(), protocol, dedicated: needs.dedicated, origin }
    }

    /// Opens a connection, or waits for a new HTTP/2 connection.
    ///
    /// # Errors
    /// The connection cannot be opened.
    pub(crate) async fn open(&self, request: &ConnectRequest) -> io::Result<NewUpstream> {
        let ConnectRequest { id, address, protocol, dedicated, origin } = request;
        let offer = if *protocol == PoolProtocol::Http1 { AlpnOffer::Http1 } else { AlpnOffer::Pool };
        let connect = self.connect_for(*id, address, origin.as_deref(), offer);
        match protocol {
            PoolProtocol::Http1 => connect.await.map(NewUpstream::Http1),
            PoolProtocol::Http2 if *dedicated => H2ConnectionPool::open_alone(address, connect).await,
            PoolProtocol::Http2 => self.h2.open(*id, address, connect, false).await,
            PoolProtocol::Auto => self.h2.open(*id, address, connect, true).await,
        }
    }

    /// Assigns a message to the destination that it has to stay at, if that may still finish existing work.
    pub(crate) fn assign(&self, id: DestinationId, address: Address, now: Tick) -> Option<Chosen> {
        if !self.allows_existing(id, &address) {
            return None;
        }
        let assignment = assign(&self.snapshot.borrow(), id, self.worker, now)?;
        Some(Chosen { assignment, address })
    }

    /// Returns the number of the pool, which is kept over reloads.
    pub(crate) fn number(&self) -> u64 {
        self.table.borrow().number
    }

    fn proxy_protocol(&self) -> ProxyProtocol {
        self.table.borrow().config.proxy_protocol
    }

    /// Reports whether each connection serves one client only, because it began with that client's PROXY header.
    fn is_per_client(&self) -> bool {
        self.proxy_protocol() != ProxyProtocol::None
    }

    /// Returns the protocol for a request. Protocol switches use HTTP/1 if there is a choice, because few destinations
    /// support them over HTTP/2; authentication of a connection is impossible over HTTP/2.
    fn protocol_for(&self, needs: &ConnectionNeeds<'_>) -> PoolProtocol {
        match self.table.borrow().config.protocol {
            PoolProtocol::Auto if needs.upgrade || needs.dedicated => PoolProtocol::Http1,
            protocol => protocol,
        }
    }

    /// Returns a destination's name, for log lines.
    pub(crate) fn name_of(&self, id: DestinationId) -> Option<Name> {
        self.snapshot.borrow().members.iter().find(|m| m.id == id).map(|m| m.destination.name.clone())
    }

    /// Returns the most recently used idle connection that is still open, because it most likely stays open.
    pub(crate) fn take_idle(&self, id: DestinationId, address: &Address, now: Tick) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&id)?;
        while let Some(mut candidate) = list.pop_back() {
            if now < candidate.unused_until {
                list.push_back(candidate);
                return None;
            }
            if candidate.address == *address && candidate.stream.is_idle() {
                return Some(candidate.stream);
            }
        }
        None
    }

    /// Keeps a connection after its last response was read completely.
    pub(crate) fn put_idle(
        &self,
        id: DestinationId,
        address: Address,
        stream: Stream,
        origin: Option<&Rc<Origin>>,
        now: Tick,
    ) {
        if self.should_close_for_waiters(id) {
            return;
        }
        if self.is_per_client() {
            // A connection kept for one client cannot be closed for another.
            let kept = origin.filter(|_| !self.table.borrow().config.limits_connections());
            if let Some(origin) = kept {
                origin.keep(self.number(), id, address, stream);
            }
            return;
        }
        self.keep(id, |list| list.push_back(Idle { stream, address, since: now, unused_until: Tick::ZERO }));
    }

    /// Keeps a connection after its last response announced a body that it must not have.
    ///
    /// If the destination sends that body, it would be read as the next response. So the connection is reused only
    /// if nothing arrives on it for a while.
    pub(crate) fn put_quarantined(&self, id: DestinationId, address: Address, stream: Stream, now: Tick) {
        if self.is_per_client() || self.should_close_for_waiters(id) {
            return;
        }
        self.keep(id, |list| {
            list.push_front(Idle { stream, address, since: now, unused_until: now + QUARANTINE })
        });
    }

    fn keep(&self, id: DestinationId, add: impl FnOnce(&mut VecDeque<Idle>)) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(id).or_default();
        if list.len() == MAX_IDLE {
            list.pop_front();
        }
        add(list);
    }

    /// Returns the statistics of each member, by its id.
    pub(crate) fn destination_stats(
        &self,
    ) -> impl Iterator<Item = (DestinationId, Arc<DestinationStats>)> + use<> {
        self.refresh();
        let snapshot = self.snapshot.borrow().clone();
        (0..snapshot.members.len()).map(move |n| (snapshot.members[n].id, snapshot.members[n].stats.clone()))
    }

    /// Closes the connection that was idle for longest, of one destination or of all.
    pub(crate) fn close_coldest(&self, of: Option<DestinationId>) {
        let mut idle = self.idle.borrow_mut();
        let lists = idle.iter_mut().filter(|(id, list)| !list.is_empty() && of.is_none_or(|of| of == **id));
        let coldest = lists.min_by_key(|(_, list)| list.front().map(|idle| idle.since));
        match coldest.and_then(|(_, list)| list.pop_front()) {
            Some(closed) => drop(closed),
            None => self.h2.close_idle(of),
        }
    }

    /// Closes connections that were idle too long, were closed by the destination, or belong to removed members.
    pub(crate) fn sweep(&self, now: Tick) {
        let limit: Duration = self.table.borrow().config.timeouts.idle;
        self.refresh();
        let snapshot = self.snapshot.borrow();
        self.h2.sweep(|id| snapshot.members.iter().any(|m| m.id == id));
        self.idle.borrow_mut().retain(|id, list| {
            let member = snapshot.members.iter().any(|m| m.id == *id);
            list.retain_mut(|idle| member && now.since(idle.since) < limit && idle.stream.is_idle());
            !list.is_empty()
        });
    }
}
