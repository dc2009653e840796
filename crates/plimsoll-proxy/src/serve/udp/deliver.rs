//! Where one datagram of a client goes: its flow's destination, a chosen one, or another when that refuses.

use plimsoll_core::retry::{self, Decision};
use plimsoll_core::{AttemptedSet, Failure, NoDestination, Outcome, PickRequest, Tick};

use crate::base::counters::Before;
use crate::base::reason::Reason;
use crate::forward::connection::find_failed;
use crate::forward::hash_key;
use crate::forward::request::tell;
use crate::listener::worker_listener::ConnectionGuard;
use crate::net::stream::Peer;
use crate::serve::udp::batch::{Load, Run};
use crate::serve::udp::flow::{Fault, Flow, Path};
use crate::serve::udp::flows::Key;
use crate::serve::udp::{Desk, TRIAL, reason_of};
use crate::upstream::pool::Chosen;

/// The tries of one datagram.
#[derive(Default)]
struct Tries {
    tried: AttemptedSet,
    count: u8,
    before: Option<Before>,
}

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
            (0..datagrams).for_each(|_| table.shared.tallies.of(worker).refuse(reason));
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
        let mut tries = Tries::default();
        loop {
            let found = self.find(&key, now);
            let slot = match found.filter(|&slot| self.leads(slot, &mut tries)) {
                Some(slot) => slot,
                None => {
                    // Chosen first: who cannot be served pushes nobody out.
                    let chosen = self.choose(key, &mut tries, now)?;
                    let slot = found.unwrap_or_else(|| self.enter(key, now));
                    match self.open(slot, chosen, &mut tries, now)? {
                        true => slot,
                        false => continue,
                    }
                }
            };
            match self.send(slot, load) {
                Ok(()) => return Ok(()),
                Err(Fault::Refused) => self.refused(slot, &mut tries, now)?,
                Err(Fault::Train) => return Err(Undelivered::Train),
                Err(fault) => return Err(reason_of(fault).into()),
            }
        }
    }

    /// To a destination chosen for this datagram alone, over the client's flow to it.
    fn deliver_by_choice(&mut self, key: Key, load: &Load<'_>, now: Tick) -> Result<(), Undelivered> {
        let mut tries = Tries::default();
        loop {
            let chosen = self.choose(key, &mut tries, now)?;
            let key = Key { destination: Some(chosen.assignment.id()), ..key };
            let slot = self.find(&key, now).unwrap_or_else(|| self.enter(key, now));
            let path = self.flows.get_mut(slot).and_then(|(_, flow)| flow.path.as_mut());
            if let Some(path) = path.filter(|path| path.address == chosen.address) {
                // A trial is left to prove itself. Who has not replied to the datagram before is forgiven:
                // that it ever will was not promised.
                if !path.is_trial() {
                    path.assignment = Some(chosen.assignment);
                }
            } else if !self.open(slot, chosen, &mut tries, now)? {
                continue;
            }
            match self.send(slot, load) {
                Ok(()) => return Ok(()),
                Err(Fault::Refused) => self.refused(slot, &mut tries, now)?,
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
        self.make_room(now);
        self.next += 1;
        let guard = ConnectionGuard::open(&self.worker, &self.listener);
        self.flows.insert(key, Flow::new(self.next, guard, &self.rule, now))
    }

    /// Does this flow lead to a destination that may go on serving it? The one it has lost, if it has, is not
    /// to be the next.
    fn leads(&mut self, slot: u32, tries: &mut Tries) -> bool {
        let generation = self.rule.pool.generation();
        let Some((_, flow)) = self.flows.get_mut(slot) else { return false };
        if let Some(path) = &mut flow.path
            && path.generation != generation
        {
            path.generation = generation;
            if !path.is_trial() && !self.rule.pool.keeps(path.destination, &path.address) {
                flow.path = None;
            }
        }
        if let Some(lost) = flow.avoid.take() {
            tries.tried.add(lost);
        }
        flow.path.is_some()
    }

    fn choose(&self, key: Key, tries: &mut Tries, now: Tick) -> Result<Chosen, Reason> {
        let (worker, pool) = (&self.worker, &self.rule.pool);
        let mut rng = worker.rng.borrow_mut();
        let hashed = pool.table.borrow().config.hash_key().is_some();
        let key = if hashed { hash_key::source(Peer::Socket(key.client)) } else { None };
        let subset = self.rule.table.subset.as_deref();
        let mut ask = |tried: &AttemptedSet| {
            let want = PickRequest {
                worker: worker.number,
                tried: Some(tried),
                key,
                subset,
                ..PickRequest::default()
            };
            pool.balance_load(&want, now, &mut rng)
        };
        let mut chosen = ask(&tries.tried);
        if tries.count == 0 && matches!(chosen, Err(NoDestination::AllTried)) {
            // The one lost before is the only one there is.
            tries.tried = AttemptedSet::default();
            chosen = ask(&tries.tried);
        }
        let missed = chosen.as_ref().err().copied();
        pool.table.borrow().tallies.of(worker.number).decided(missed, tries.before);
        tries.count += 1;
        // Datagrams do not wait: what comes too late is worth less than nothing.
        chosen.map_err(|why| match (why, tries.before) {
            (NoDestination::Full, _) => Reason::Overflow,
            (_, None) => Reason::NoHealthyDestination,
            (_, Some(_)) => Reason::ConnectFailed,
        })
    }

    /// Opens a flow's way to the chosen destination. `false`: there is none and the flow is over, but another
    /// destination may be tried.
    fn open(&mut self, slot: u32, chosen: Chosen, tries: &mut Tries, now: Tick) -> Result<bool, Reason> {
        let Chosen { mut assignment, address } = chosen;
        let generation = self.rule.pool.generation();
        tries.tried.add(assignment.id());
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
                    tell(&self.rule, failed.finish(now, Outcome::Failed(failure)));
                    self.end(slot, now);
                    return self.again(failure, tries, now).map(|()| false);
                }
            }
        }
    }

    fn send(&mut self, slot: u32, load: &Load<'_>) -> Result<(), Fault> {
        self.sends += 1;
        let Some((_, flow)) = self.flows.get_mut(slot) else { return Err(Fault::Means) };
        flow.path.as_mut().ok_or(Fault::Means)?.send(load)?;
        flow.moved.to_destination += load.len as u64;
        Ok(())
    }

    /// The destination has refused an earlier datagram, and the system told of it instead of sending this one.
    fn refused(&mut self, slot: u32, tries: &mut Tries, now: Tick) -> Result<(), Reason> {
        if let Some((_, flow)) = self.flows.get_mut(slot)
            && let Some(path) = flow.path.take()
        {
            tries.tried.add(path.failed(&self.rule, now));
        }
        if !self.keeps_assignment() {
            self.end(slot, now);
        }
        tries.count = tries.count.max(1);
        self.again(Failure::Connect, tries, now)
    }

    /// May another destination be tried?
    fn again(&self, failure: Failure, tries: &mut Tries, now: Tick) -> Result<(), Reason> {
        tries.before = Some(Before::Failed(failure));
        let pool = self.rule.pool.table.borrow();
        match retry::decide(&pool.config.retry, &find_failed(failure, tries.count), &pool.budget, now) {
            Decision::Stop(_) if failure == Failure::NoResources => Err(Reason::NoResources),
            Decision::Stop(_) => Err(Reason::ConnectFailed),
            _ => Ok(()),
        }
    }
}
