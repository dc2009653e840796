//! Round robin, being written.
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
macro_rules! placeholder { ($($t:ident)*) => { $(
    #[allow(missing_docs)] pub struct $t;
    impl $t { #[allow(missing_docs)] pub fn new(_: usize) -> Self { Self } #[allow(missing_docs)] pub fn weighted() -> Self { Self } #[allow(missing_docs)] pub fn unweighted() -> Self { Self } }
    impl Policy for $t {
        fn name(&self) -> &'static str { stringify!($t) }
        fn needs(&self) -> Needs { Needs::Nothing }
        fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> { Box::new(P(slots.len(), AtomicUsize::new(0))) }
    } )* } }
struct P(usize, AtomicUsize);
impl Picker for P { fn pick(&self, _: &Want<'_>, _: Tick, _: &mut Rng) -> usize { self.1.fetch_add(1, Relaxed) % self.0 } }
placeholder!(RoundRobin WeightedRoundRobin LeastConnections);
