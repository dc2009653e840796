//! The flow table: flows by key, and in the order of their last use.
//!
//! It is a slab with an index and a linked list: every operation takes constant time, and free slots are
//! reused before the slab grows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use plimsoll_core::DestinationId;

/// Addresses that the datagrams of one flow have in common.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) client: SocketAddr,
    /// Local address that received them, where a listener has several: replies are sent from it.
    pub(crate) local: Option<IpAddr>,
    /// Destination, where each datagram gets its own.
    pub(crate) destination: Option<DestinationId>,
}

/// Marks the absence of a slot.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<T> {
    older: u32,
    newer: u32,
    flow: Option<(FlowKey, T)>,
}

/// Flows of one listener on one worker.
#[derive(Debug)]
pub(crate) struct FlowTable<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    index: HashMap<FlowKey, u32>,
    oldest: u32,
    newest: u32,
}

impl<T> FlowTable<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), index: HashMap::new(), oldest: NONE, newest: NONE }
    }

    pub(crate) fn find(&self, key: &FlowKey) -> Option<u32> {
        self.index.get(key).copied()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<(&FlowKey, &mut T)> {
        let (key, flow) = self.slots.get_mut(slot as usize)?.flow.as_mut()?;
        Some((key, flow))
    }

    /// Returns the flow that was idle longest.
    pub(crate) fn oldest(&self) -> Option<(u32, &T)> {
        let (_, flow) = self.slots.get(self.oldest as usize)?.flow.as_ref()?;
        Some((self.oldest, flow))
    }

    /// Inserts a flow with a new key as the newest.
    pub(crate) fn insert(&mut self, key: FlowKey, flow: T) -> u32 {
        let entry = Slot { older: NONE, newer: NONE, flow: Some((key, flow)) };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                self.slots.len() as u32 - 1
            }
        };
        self.index.insert(key, slot);
        self.append(slot);
        slot
    }

    /// Marks a flow as the newest.
    pub(crate) fn touch(&mut self, slot: u32) {
        if self.newest != slot {
            self.unlink(slot);
            self.append(slot);
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<(FlowKey, T)> {
        let (key, flow) = self.slots.get_mut(slot as usize)?.flow.take()?;
        self.index.remove(&key);
        self.unlink(slot);
        self.free.push(slot);
        Some((key, flow))
    }

    fn append(&mut self, slot: u32) {
        (self.slots[slot as usize].older, self.slots[slot as usize].newer) = (self.newest, NONE);
        match self.slots.get_mut(self.newest as usize) {
            Some(before) => before.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { older, newer, .. } = self.slots[slot as usize];
        match self.slots.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use plimsoll_core::Rng;

    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey { client: ([127, 0, 0, 1], port).into(), local: None, destination: None }
    }

    #[test]
    fn flows_stay_in_the_order_of_their_last_use() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let (mut flows, mut expected) = (FlowTable::new(), VecDeque::new());
            for _ in 0..2_000 {
                let port = (rng.next_u64() % 64) as u16;
                match (flows.find(&key(port)), rng.next_u64() % 3) {
                    (None, _) => {
                        flows.insert(key(port), port);
                        expected.push_back(port);
                    }
                    (Some(slot), 0) => {
                        assert_eq!(flows.remove(slot), Some((key(port), port)), "seed {seed}");
                        expected.retain(|&p| p != port);
                    }
                    (Some(slot), _) => {
                        flows.touch(slot);
                        expected.retain(|&p| p != port);
                        expected.push_back(port);
                    }
                }
                let oldest = flows.oldest().map(|(_, &port)| port);
                assert_eq!(oldest, expected.front().copied(), "seed {seed}");
            }
            while let Some((slot, _)) = flows.oldest() {
                let port = flows.remove(slot).map(|(_, port)| port);
                assert_eq!(port, expected.pop_front(), "seed {seed}");
            }
            assert!(expected.is_empty() && flows.slots.len() <= 64, "slots are used again, seed {seed}");
        }
    }

    #[test]
    fn a_client_has_a_flow_for_each_local_address_and_destination() {
        let mut flows = FlowTable::new();
        let here = FlowKey { local: Some([10, 0, 0, 1].into()), ..key(1) };
        let there = FlowKey { local: Some([10, 0, 0, 2].into()), ..key(1) };
        let first = FlowKey { destination: Some(DestinationId(1)), ..key(1) };
        let slots = [key(1), here, there, first].map(|key| flows.insert(key, ()));
        assert_eq!([key(1), here, there, first].map(|key| flows.find(&key)), slots.map(Some));
    }
}
