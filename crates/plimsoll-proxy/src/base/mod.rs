//! Clock, timers, buffers, counters, log writers, and the context that connections borrow from their worker.

pub(crate) mod buffers;
pub(crate) mod clock;
pub(crate) mod connection_lifetime;
pub(crate) mod context;
pub(crate) mod counters;
pub(crate) mod fd_reserve;
pub(crate) mod handshake_queue;
pub(crate) mod log_writer;
pub(crate) mod memory;
pub(crate) mod min_rate;
pub(crate) mod reason;
pub(crate) mod timer;
pub(crate) mod turn;
pub(crate) mod write_buffer;
