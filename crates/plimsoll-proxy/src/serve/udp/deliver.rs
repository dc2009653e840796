//! Where one datagram of a client goes: its flow's destination, a chosen one, or another when that refuses.

use plimsoll_core::{Failure, Outcome, Tick};

use crate::base::reason::Reason;
use crate::forward::attempts::{AttemptError, Attempts, Target, report};
use crate::forward::hash_key;
use crate::listener::worker_listener::ConnectionGuard;
use crate::net::stream::Peer;
use crate::serve::udp::batch::{Load, Run};
use crate::serve::udp::flow::{Fault, Flow, Path};
use crate::serve::udp::flows::Key;
use crate::serve::udp::{Desk, TRIAL, reason_of};
use crate::upstream::pool::Chosen;

/// Why datagrams were not passed on.
enum Undelivered {
    For(Reason),
    /// They cannot leave together. The flow is there all the same.
    Train,
}

impl From<Reason> for Undelivered {
    fn from(reason: Reason) -> Self {
        Self::For(reason)
    }
}

impl Desk {
    /// Passes datagrams of one client on, together where that can be, and says how many. The others are counted
    /// by why they were dropped. Nothing is ever sent back for them.
    pub(crate) fn deliver_run(&mut self, run: &Run<'_>, now: Tick) -> u64 {
        let (worker, table) = (self.worker.number, self.view.table.clone());
        let refuse = |datagrams: usize, reason: Reason| {
            (0..datagrams).for_each(|_| table.shared.counters.of(worker).refuse(reason));
        };
        let (head, load) = (run.head, run.load());
        let datagrams = head.datagrams();
        if self.gate.is_own(&head) {
            refuse(datagrams, Reason::BadRequest);
            return 0;
        }
        if datagrams > 1 && self.keeps_assignment() {
            match self.deliver_in_flow(head.key(), &load, now) {
                Ok(()) => return datagrams as u64,
                Err(Undelivered::Train) => {}
                Err(Undelivered::For(reason)) => {
                    refuse(datagrams, reason);
                    return 0;
                }
            }
        }
        let mut passed = 0;
        for (head, datagram) in run.apart() {
            let load = Load::one(&datagram);
            let delivered = match self.keeps_assignment() {
                true => self.deliver_in_flow(head.key(), &load, now),
                false => self.deliver_by_choice(head.key(), &load, now),
            };
            match delivered {
                Ok(()) => passed += 1,
                Err(Undelivered::For(reason)) => refuse(1, reason),
                Err(Undelivered::Train) => refuse(1, Reason::BadRequest),
            }
        }
        passed
    }

    /// To the destination of the client's flow. A lost one is replaced.
    fn deliver_in_flow(&mut self, key: Key, load: &Load<'_>, now: Tick) -> Result<(), Undelivered> {
        let mut attempts = Attempts::default();
        loop {
            let found = self.find(&key, now);
            let slot = match found.filter(|&slot| self.leads(slot, &mut attempts)) {
                Some(slot) => slot,
                None => {
                    // Chosen first: who cannot be served pushes nobody out.
                    let chosen = self.choose(key, &mut attempts, now)?;
                    let slot = found.unwrap_or_else(|| self.enter(key, now));
                    match self.open(slot, chosen, &mut attempts, now)? {
                        true => slot,
                        false => continue,
                    }
                }
            };
            match self.send(slot, load) {
                Ok(()) => return Ok(()),
                Err(Fault::Refused) => self.refused(slot, &mut attempts, now)?,
                Err(Fault::Train) => return Err(Undelivered::Train),
                Err(fault) => return Err(reason_of(fault).into()),
            }
        }
    }

    /// To a destination chosen for this datagram alone, over the client's flow to it.
    fn deliver_by_choice(&mut self, key: Key, load: &Load<'_>, now: Tick) -> Result<(), Undelivered> {
        let mut attempts = Attempts::default();
        loop {
            let chosen = self.choose(key, &mut attempts, now)?;
            let key = Key { destination: Some(chosen.assignment.id()), ..key };
            let slot = self.find(&key, now).unwrap_or_else(|| self.enter(key, now));
            let path = self.flows.get_mut(slot).and_then(|(_, flow)| flow.path.as_mut());
            if let Some(path) = path.filter(|path| path.address == chosen.address) {
                // A trial is left to prove itself. Who has not replied to the datagram before is forgiven:
                // that it ever will was not promised.
                if !path.is_trial() {
                    path.assignment = Some(chosen.assignment);
                }
            } else if !self.open(slot, chosen, &mut attempts, now)? {
                continue;
            }
            match self.send(slot, load) {
                Ok(()) => return Ok(()),
                Err(Fault::Refused) => self.refused(slot, &mut attempts, now)?,
                Err(Fault::Train) => return Err(Undelivered::Train),
                Err(fault) => return Err(reason_of(fault).into()),
            }
        }
    }

    /// The flow of that key, now the newest, unless there is none or its time is over.
    fn find(&mut self, key: &Key, now: Tick) -> Option<u32> {
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

    /// A new flow, without a destination yet.
    fn enter(&mut self, key: Key, now: Tick) -> u32 {
        self.evict_idle(now);
        self.next += 1;
        let guard = ConnectionGuard::open(&self.worker, &self.listener);
        self.flows.insert(key, Flow::new(self.next, guard, &self.rule, now))
    }

    /// Does this flow lead to a destination that may go on serving it? The one it has lost, if it has, is not
    /// to be the next.
    fn leads(&mut self, slot: u32, attempts: &mut Attempts) -> bool {
        let generation = self.rule.pool.generation();
        let Some((_, flow)) = self.flows.get_mut(slot) else { return false };
        if let Some(path) = &mut flow.path
            && path.generation != generation
        {
            path.generation = generation;
            if !path.is_trial() && !self.rule.pool.allows_existing(path.destination, &path.address) {
                flow.path = None;
            }
        }
        if let Some(lost) = flow.avoid.take() {
            attempts.exclude(lost);
        }
        flow.path.is_some()
    }

    /// Returns where a datagram may go. Datagrams are never queued: late ones are worth less than none.
    fn target(&self, key: Option<u64>) -> Target<'_> {
        let (worker, route) = (&self.worker, &self.rule);
        Target { worker, route, key, home: None, repeatable: true, deadline: Tick::NEVER }
    }

    fn choose(&self, key: Key, attempts: &mut Attempts, now: Tick) -> Result<Chosen, Reason> {
        let hashed = self.rule.pool.table.borrow().config.hash_key().is_some();
        let key = if hashed { hash_key::source(Peer::Socket(key.client)) } else { None };
        attempts.next_unqueued(&self.target(key), now).map_err(AttemptError::reason)
    }

    /// Opens a flow's way to the chosen destination. `false`: there is none and the flow is over, but another
    /// destination may be tried.
    fn open(
        &mut self,
        slot: u32,
        chosen: Chosen,
        attempts: &mut Attempts,
        now: Tick,
    ) -> Result<bool, Reason> {
        let Chosen { mut assignment, address } = chosen;
        let generation = self.rule.pool.generation();
        let mut evicted = false;
        loop {
            match Path::open(assignment, address.clone(), generation, self.epoll.get_ref(), slot, self.room) {
                Ok(mut path) => {
                    path.trains = self.gate.can;
                    let Some((_, flow)) = self.flows.get_mut(slot) else { return Err(Reason::NoResources) };
                    if path.is_trial() {
                        self.trials.push_back((slot, flow.number, now + TRIAL));
                    }
                    flow.path = Some(path);
                    return Ok(true);
                }
                // Whoever has been silent longest gives its descriptor to who speaks now.
                Err((Failure::NoResources, again)) if !std::mem::replace(&mut evicted, true) => {
                    assignment = again;
                    if self.flows.oldest().is_some_and(|(oldest, _)| oldest != slot) {
                        self.evict(now);
                    }
                }
                Err((failure, failed)) => {
                    report(&self.rule, failed.finish(now, Outcome::Failed(failure)));
                    self.end(slot, now);
                    return self.again(failure, attempts, now).map(|()| false);
                }
            }
        }
    }

    fn send(&mut self, slot: u32, load: &Load<'_>) -> Result<(), Fault> {
        self.sends += 1;
        let Some((_, flow)) = self.flows.get_mut(slot) else { return Err(Fault::Means) };
        flow.path.as_mut().ok_or(Fault::Means)?.send(load)?;
        flow.copied.to_destination += load.len as u64;
        Ok(())
    }

    /// The destination has refused an earlier datagram, and the system told of it instead of sending this one.
    fn refused(&mut self, slot: u32, attempts: &mut Attempts, now: Tick) -> Result<(), Reason> {
        if let Some((_, flow)) = self.flows.get_mut(slot)
            && let Some(path) = flow.path.take()
        {
            attempts.replaces(path.failed(&self.rule, now));
        }
        if !self.keeps_assignment() {
            self.end(slot, now);
        }
        self.again(Failure::Connect, attempts, now)
    }

    /// Decides whether the datagram is sent to another destination.
    fn again(&self, failure: Failure, attempts: &mut Attempts, now: Tick) -> Result<(), Reason> {
        let failed = attempts.unsent(failure, true, true);
        attempts.failed(&self.target(None), &failed, now).map_err(AttemptError::reason)
    }
}
