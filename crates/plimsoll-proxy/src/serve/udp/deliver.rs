//! Delivery of datagrams: to the destination of the flow, a newly picked one, or another after a failure.

use plimsoll_core::{Failure, Outcome, Tick};

use crate::base::reason::Reason;
use crate::forward::attempts::{AttemptError, Attempts, Target, report};
use crate::forward::hash_key;
use crate::listener::worker_listener::ConnectionGuard;
use crate::net::stream::Peer;
use crate::serve::udp::batch::{DatagramRun, SegmentBatch};
use crate::serve::udp::flow::{Flow, FlowLimits, SocketFault, UpstreamPath};
use crate::serve::udp::flow_table::FlowKey;
use crate::serve::udp::{TRIAL_PERIOD, UdpListenerTask, reason_of};
use crate::upstream::chosen::Chosen;

/// Why datagrams were not delivered.
enum Undelivered {
    Dropped(Reason),
    /// The datagrams cannot be sent as segments. The flow exists all the same.
    SegmentsRefused,
}

impl From<Reason> for Undelivered {
    fn from(reason: Reason) -> Self {
        Self::Dropped(reason)
    }
}

impl UdpListenerTask {
    /// Delivers datagrams of one client, together if possible, and returns how many. The others are dropped
    /// and counted by reason. The client receives nothing for them.
    pub(crate) fn deliver_run(&mut self, run: &DatagramRun<'_>, now: Tick) -> u64 {
        let (worker, table) = (self.worker.number, self.routes.table.clone());
        let drop_all = |datagrams: usize, reason: Reason| {
            (0..datagrams).for_each(|_| table.shared.counters.of(worker).refuse(reason));
        };
        let (meta, segments) = (run.meta, run.segments());
        let datagrams = meta.datagrams();
        if self.socket_io.is_from_itself(&meta) {
            drop_all(datagrams, Reason::BadRequest);
            return 0;
        }
        if datagrams > 1 && self.keeps_assignment() {
            match self.deliver_in_flow(meta.key(), &segments, now) {
                Ok(()) => return datagrams as u64,
                Err(Undelivered::SegmentsRefused) => {}
                Err(Undelivered::Dropped(reason)) => {
                    drop_all(datagrams, reason);
                    return 0;
                }
            }
        }
        let mut passed = 0;
        for (meta, datagram) in run.split() {
            let segments = SegmentBatch::single(&datagram);
            let delivered = match self.keeps_assignment() {
                true => self.deliver_in_flow(meta.key(), &segments, now),
                false => self.deliver_picked(meta.key(), &segments, now),
            };
            match delivered {
                Ok(()) => passed += 1,
                Err(Undelivered::Dropped(reason)) => drop_all(1, reason),
                Err(Undelivered::SegmentsRefused) => drop_all(1, Reason::BadRequest),
            }
        }
        passed
    }

    /// Delivers to the destination of the client's flow. A lost destination is replaced.
    fn deliver_in_flow(
        &mut self,
        key: FlowKey,
        segments: &SegmentBatch<'_>,
        now: Tick,
    ) -> Result<(), Undelivered> {
        let mut attempts = Attempts::default();
        loop {
            let found = self.find(&key, now);
            let slot = match found.filter(|&slot| self.has_path(slot, &mut attempts)) {
                Some(slot) => slot,
                None => {
                    // Picked first, so that a datagram that cannot be delivered evicts no flow.
                    let chosen = self.pick(key, &mut attempts, now)?;
                    let slot = found.unwrap_or_else(|| self.create_flow(key, now));
                    match self.connect_flow(slot, chosen, &mut attempts, now)? {
                        true => slot,
                        false => continue,
                    }
                }
            };
            match self.send(slot, segments) {
                Ok(()) => return Ok(()),
                Err(SocketFault::Refused) => self.on_refused(slot, &mut attempts, now)?,
                Err(SocketFault::SegmentsRefused) => return Err(Undelivered::SegmentsRefused),
                Err(fault) => return Err(reason_of(fault).into()),
            }
        }
    }

    /// Delivers to a destination picked for this datagram alone, over the client's flow to it.
    fn deliver_picked(
        &mut self,
        key: FlowKey,
        segments: &SegmentBatch<'_>,
        now: Tick,
    ) -> Result<(), Undelivered> {
        let mut attempts = Attempts::default();
        loop {
            let chosen = self.pick(key, &mut attempts, now)?;
            let key = FlowKey { destination: Some(chosen.assignment.id()), ..key };
            let slot = self.find(&key, now).unwrap_or_else(|| self.create_flow(key, now));
            let path = self.flows.get_mut(slot).and_then(|(_, flow)| flow.path.as_mut());
            if let Some(path) = path.filter(|path| path.address == chosen.address) {
                // A trial keeps its assignment. A missing reply to the previous datagram is no failure,
                // because none was promised.
                if !path.is_trial() {
                    path.assignment = Some(chosen.assignment);
                }
            } else if !self.connect_flow(slot, chosen, &mut attempts, now)? {
                continue;
            }
            match self.send(slot, segments) {
                Ok(()) => return Ok(()),
                Err(SocketFault::Refused) => self.on_refused(slot, &mut attempts, now)?,
                Err(SocketFault::SegmentsRefused) => return Err(Undelivered::SegmentsRefused),
                Err(fault) => return Err(reason_of(fault).into()),
            }
        }
    }

    /// Returns the flow of a key and marks it as used; `None` if there is none or it has expired.
    fn find(&mut self, key: &FlowKey, now: Tick) -> Option<u32> {
        let idle = self.config().idle;
        let slot = self.flows.find(key)?;
        match self.flows.get_mut(slot) {
            Some((_, flow)) if now.since(flow.last) < idle => {
                flow.last = now;
                self.flows.touch(slot);
                Some(slot)
            }
            _ => {
                self.end(slot, now);
                None
            }
        }
    }

    /// Creates a flow, without a destination yet.
    fn create_flow(&mut self, key: FlowKey, now: Tick) -> u32 {
        self.evict_idle(now);
        self.next += 1;
        let guard = ConnectionGuard::open(&self.worker, &self.listener);
        self.flows.insert(key, Flow::new(self.next, guard, &self.route, now))
    }

    /// Reports whether the flow has a destination that may continue to serve it. A lost destination is
    /// excluded from the next pick.
    fn has_path(&mut self, slot: u32, attempts: &mut Attempts) -> bool {
        let generation = self.route.pool.generation();
        let Some((_, flow)) = self.flows.get_mut(slot) else { return false };
        if let Some(path) = &mut flow.path
            && path.generation != generation
        {
            path.generation = generation;
            if !path.is_trial() && !self.route.pool.allows_existing(path.destination, &path.address) {
                flow.path = None;
            }
        }
        if let Some(lost) = flow.avoid.take() {
            attempts.exclude(lost);
        }
        flow.path.is_some()
    }

    /// Returns the target of a datagram. Datagrams are never queued: late ones are worth less than none.
    fn target(&self, key: Option<u64>) -> Target<'_> {
        let (worker, route) = (&self.worker, &self.route);
        Target {
            worker,
            route,
            key,
            affinity_key: None,
            repeatable: true,
            sent_later: false,
            deadline: Tick::NEVER,
        }
    }

    fn pick(&self, key: FlowKey, attempts: &mut Attempts, now: Tick) -> Result<Chosen, Reason> {
        let hashed = self.route.pool.table.borrow().config.hash_key().is_some();
        let key = if hashed { hash_key::source_key(Peer::Socket(key.client)) } else { None };
        attempts.next_unqueued(&self.target(key), now).map_err(AttemptError::reason)
    }

    /// Connects a flow to the picked destination. Returns `false` if that failed and the flow has ended, but
    /// another destination may be tried.
    fn connect_flow(
        &mut self,
        slot: u32,
        chosen: Chosen,
        attempts: &mut Attempts,
        now: Tick,
    ) -> Result<bool, Reason> {
        let Chosen { mut assignment, address } = chosen;
        let generation = self.route.pool.generation();
        let mut evicted = false;
        loop {
            match UpstreamPath::open(
                assignment,
                address.clone(),
                generation,
                self.epoll.get_ref(),
                slot,
                FlowLimits { budget: self.fd_budget, own: self.own },
            ) {
                Ok(mut path) => {
                    path.gso = self.socket_io.kernel_gso;
                    let Some((_, flow)) = self.flows.get_mut(slot) else { return Err(Reason::NoResources) };
                    if path.is_trial() {
                        self.trials.push_back((slot, flow.number, now + TRIAL_PERIOD));
                    }
                    flow.path = Some(path);
                    return Ok(true);
                }
                // The flow that was idle longest gives up its descriptor.
                Err((Failure::NoResources, returned)) if !std::mem::replace(&mut evicted, true) => {
                    assignment = returned;
                    if self.flows.oldest().is_some_and(|(oldest, _)| oldest != slot) {
                        self.evict(now);
                    }
                }
                Err((failure, failed)) => {
                    report(&self.route, failed.finish(now, Outcome::Failed(failure)));
                    self.end(slot, now);
                    return self.retry(failure, attempts, now).map(|()| false);
                }
            }
        }
    }

    fn send(&mut self, slot: u32, segments: &SegmentBatch<'_>) -> Result<(), SocketFault> {
        self.sends += 1;
        let Some((_, flow)) = self.flows.get_mut(slot) else { return Err(SocketFault::NoResources) };
        flow.path.as_mut().ok_or(SocketFault::NoResources)?.send(segments)?;
        flow.copied.to_destination += segments.len as u64;
        Ok(())
    }

    /// Handles the refusal of an earlier datagram, which the kernel reports instead of sending this one.
    fn on_refused(&mut self, slot: u32, attempts: &mut Attempts, now: Tick) -> Result<(), Reason> {
        if let Some((_, flow)) = self.flows.get_mut(slot)
            && let Some(path) = flow.path.take()
        {
            attempts.replaces(path.failed(&self.route, now));
        }
        if !self.keeps_assignment() {
            self.end(slot, now);
        }
        self.retry(Failure::Connect, attempts, now)
    }

    /// Decides whether the datagram is sent to another destination.
    fn retry(&self, failure: Failure, attempts: &mut Attempts, now: Tick) -> Result<(), Reason> {
        let failed = attempts.unsent(failure, true, true);
        attempts.failed(&self.target(None), &failed, now).map_err(AttemptError::reason)
    }
}
