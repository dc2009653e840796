//! Where a connection to a destination comes from: the warmest idle one, or a new one.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_config::model::{PoolProtocol, ProxyProtocol};
use plimsoll_core::subset::Subset;
use plimsoll_core::{
    Address, Assignment, DestinationId, DestinationStats, Name, NoDestination, PickRequest, Rng, Snapshot,
    Status, Tick,
};
use tokio::sync::Notify;

use crate::log::decision_log::DecisionSampler;
use crate::net::proxy_protocol::{self, Origin};
use crate::net::stream::Stream;
use crate::net::tls::client_config::AlpnOffer;
use crate::upstream::h2_connections::{H2ConnectionPool, NewUpstream};
use crate::upstream::hedge_delay::HedgeDelay;
use crate::upstream::queue::WaitQueue;
use crate::upstream::table::PoolTable;

/// Idle connections kept per destination and worker. More than a worker needs at once are never idle;
/// the number bounds what a burst leaves behind.
const MAX_IDLE: usize = 1024;

/// How long a connection rests on which bytes may still come that nobody wants.
const REST_TIME: Duration = Duration::from_millis(100);

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
    /// There may be room for a connection again.
    pub(crate) connection_freed: Notify,
    /// Who waits here for a place.
    pub(crate) queue: WaitQueue,
    /// How long messages wait before a copy of them is sent, in a pool that hedges.
    pub(crate) hedge_delay: RefCell<Option<HedgeDelay>>,
}

/// What a request needs of a connection.
#[derive(Copy, Clone, Debug)]
pub(crate) struct ConnectionNeeds<'r> {
    /// The client asks to switch protocols.
    pub(crate) upgrade: bool,
    /// Client's connection that the request came by, where the destination is told.
    pub(crate) origin: Option<&'r Rc<Origin>>,
}

/// A connection that a request wants: to whom, speaking what, and on whose behalf.
#[derive(Debug)]
pub(crate) struct ConnectRequest {
    id: DestinationId,
    address: Address,
    protocol: PoolProtocol,
    origin: Option<Rc<Origin>>,
}

/// A destination that takes a message, and where it listens.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) assignment: Assignment,
    pub(crate) address: Address,
}

/// Destination numbers are small and dense; one multiplication spreads them.
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
    /// It is not to be used before this moment. (Not `since`: a message that was chosen for earlier than the
    /// connection became idle may well have it.)
    resting_until: Tick,
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

    /// Takes over a newer configuration. Idle connections stay, unless what proves their other end is new.
    pub(crate) fn adopt(&self, table: &Arc<PoolTable>) {
        let before = self.table.replace(table.clone());
        let hedge = table.config.hedge;
        let goes_on = self
            .hedge_delay
            .borrow()
            .as_ref()
            .is_some_and(|hedge_delay| hedge.is_some_and(|spec| hedge_delay.follows(spec)));
        if !goes_on {
            self.hedge_delay.replace(hedge.map(HedgeDelay::new));
        }
        let same = match (&before.client_tls, &table.client_tls) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        // Only those opened from now on are counted.
        let counts = table.config.limits_connections() && !before.config.limits_connections();
        if !same || counts {
            self.idle.borrow_mut().clear();
            self.h2.clear();
        }
    }

    /// Takes over a newer snapshot if one was published: one atomic load when not.
    fn refresh(&self) {
        let table = self.table.borrow();
        if table.snapshots.generation() != self.generation.get() {
            let latest = table.snapshots.latest();
            self.generation.set(latest.generation);
            *self.snapshot.borrow_mut() = latest;
        }
    }

    /// Chooses a destination for one message from the latest snapshot.
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

    /// Messages that wait long are sent to a second destination as well.
    pub(crate) fn hedges(&self) -> bool {
        self.hedge_delay.borrow().is_some()
    }

    /// The number of the pool's latest snapshot.
    pub(crate) fn generation(&self) -> u64 {
        self.table.borrow().snapshots.generation()
    }

    /// May a destination finish what it has begun, and is it still where it was?
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

    /// Where `key` belongs, and since when it stands as it does.
    pub(crate) fn preferred_destination(
        &self,
        key: u64,
        subset: Option<&Subset>,
    ) -> Option<(DestinationId, Tick)> {
        self.refresh();
        let snapshot = self.snapshot.borrow();
        snapshot.preferred_destination(key, subset).map(|member| (member.id, member.since))
    }

    /// Is there a destination for such a message that may serve, has room and was not tried?
    pub(crate) fn has_untried(&self, want: &PickRequest<'_>) -> bool {
        self.snapshot.borrow().has_untried(want)
    }

    /// Opens a connection to a destination, which is told whose it is where the pool wants that, with TLS on
    /// it where the pool speaks that.
    pub(crate) async fn connect(
        &self,
        id: DestinationId,
        address: &Address,
        origin: Option<&Origin>,
    ) -> io::Result<Stream> {
        // Nobody knows what is said on it; a choice of the destination would be of no use to anybody.
        self.connect_for(id, address, origin, AlpnOffer::Http1).await
    }

    async fn connect_for(
        &self,
        id: DestinationId,
        address: &Address,
        origin: Option<&Origin>,
        offer: AlpnOffer,
    ) -> io::Result<Stream> {
        let mut stream = self.connect_limited(id, address).await?;
        let header = proxy_protocol::header(self.proxy_protocol(), origin);
        stream.write_all(&header).await?;
        let client_tls = self.table.borrow().client_tls.clone();
        match client_tls {
            None => Ok(stream),
            Some(client_tls) => {
                let name = self.name_of(id).ok_or(io::ErrorKind::NotFound)?;
                let secured = client_tls.handshake(stream, &name, offer).await;
                secured.inspect_err(|error| self.log_handshake_failure(&name, error))
            }
        }
    }

    /// Clients are only told that there is no connection. What rustls says names certificates, and no secrets.
    fn log_handshake_failure(&self, destination: &Name, error: &io::Error) {
        let pool = &self.table.borrow().config.name;
        tracing::debug!(event = "no_handshake", %pool, %destination, %error, "a handshake with a destination failed");
    }

    /// What a request can have at once: an idle connection, or room on a link.
    pub(crate) fn ready_upstream(
        &self,
        id: DestinationId,
        address: &Address,
        needs: &ConnectionNeeds<'_>,
        now: Tick,
    ) -> Option<NewUpstream> {
        let protocol = self.protocol_for(needs);
        if protocol != PoolProtocol::Http1
            && let Some(link) = self.h2.take(id, address)
        {
            return Some(NewUpstream::Http2(link));
        }
        let idle = match protocol {
            PoolProtocol::Http2 => None,
            _ if self.is_per_client() => needs.origin?.take(self.number(), id, address),
            _ => self.take_idle(id, address, now),
        }?;
        Some(NewUpstream::Http1(idle))
    }

    /// What it wants when there is nothing at once.
    pub(crate) fn connect_request(
        &self,
        id: DestinationId,
        address: &Address,
        needs: &ConnectionNeeds<'_>,
    ) -> ConnectRequest {
        let (protocol, origin) = (self.protocol_for(needs), needs.origin.cloned());
        ConnectRequest { id, address: address.clone(), protocol, origin }
    }

    /// A new connection, or room on a new link.
    ///
    /// # Errors
    /// It could not be opened.
    pub(crate) async fn open(&self, request: &ConnectRequest) -> io::Result<NewUpstream> {
        let ConnectRequest { id, address, protocol, origin } = request;
        let offer = if *protocol == PoolProtocol::Http1 { AlpnOffer::Http1 } else { AlpnOffer::Pool };
        let connect = self.connect_for(*id, address, origin.as_deref(), offer);
        match protocol {
            PoolProtocol::Http1 => connect.await.map(NewUpstream::Http1),
            PoolProtocol::Http2 => self.h2.open(*id, address, connect, false).await,
            PoolProtocol::Auto => self.h2.open(*id, address, connect, true).await,
        }
    }

    fn number(&self) -> u64 {
        self.table.borrow().number
    }

    fn proxy_protocol(&self) -> ProxyProtocol {
        self.table.borrow().config.proxy_protocol
    }

    /// A connection to a destination is for one client only: it began with that one's header.
    fn is_per_client(&self) -> bool {
        self.proxy_protocol() != ProxyProtocol::None
    }

    /// What is spoken for this request. Where there is a choice, a switch of protocols goes by HTTP/1: every
    /// destination that speaks both can be asked for it there, and few over HTTP/2.
    fn protocol_for(&self, needs: &ConnectionNeeds<'_>) -> PoolProtocol {
        match self.table.borrow().config.protocol {
            PoolProtocol::Auto if needs.upgrade => PoolProtocol::Http1,
            protocol => protocol,
        }
    }

    /// The destination's name, for a log line.
    pub(crate) fn name_of(&self, id: DestinationId) -> Option<Name> {
        self.snapshot.borrow().members.iter().find(|m| m.id == id).map(|m| m.destination.name.clone())
    }

    /// The most recently used idle connection that is still quiet; warm ones are the likeliest to live.
    pub(crate) fn take_idle(&self, id: DestinationId, address: &Address, now: Tick) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&id)?;
        while let Some(mut candidate) = list.pop_back() {
            if now < candidate.resting_until {
                list.push_back(candidate);
                return None;
            }
            if candidate.address == *address && candidate.stream.is_idle() {
                return Some(candidate.stream);
            }
        }
        None
    }

    /// Keeps a connection whose last answer was read to its very end.
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
            // What is kept for one client cannot be closed for another.
            let kept = origin.filter(|_| !self.table.borrow().config.limits_connections());
            if let Some(origin) = kept {
                origin.keep(self.number(), id, address, stream);
            }
            return;
        }
        self.keep(id, |list| list.push_back(Idle { stream, address, since: now, resting_until: Tick::ZERO }));
    }

    /// Keeps a connection whose last answer told of a body it must not have: a destination that sends one
    /// all the same would have it taken for the next answer. Used again after a rest, if it was silent.
    pub(crate) fn put_resting(&self, id: DestinationId, address: Address, stream: Stream, now: Tick) {
        if self.is_per_client() || self.should_close_for_waiters(id) {
            return;
        }
        self.keep(id, |list| {
            list.push_front(Idle { stream, address, since: now, resting_until: now + REST_TIME })
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

    /// Closes what was idle for longest: of one destination, or of all.
    pub(crate) fn close_coldest(&self, of: Option<DestinationId>) {
        let mut idle = self.idle.borrow_mut();
        let lists = idle.iter_mut().filter(|(id, list)| !list.is_empty() && of.is_none_or(|of| of == **id));
        let coldest = lists.min_by_key(|(_, list)| list.front().map(|idle| idle.since));
        match coldest.and_then(|(_, list)| list.pop_front()) {
            Some(closed) => drop(closed),
            None => self.h2.close_idle(of),
        }
    }

    /// Closes what was idle too long, what the destination closed, and what belongs to nobody any more.
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
