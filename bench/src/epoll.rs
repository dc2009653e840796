//! Edge-triggered epoll with one token per socket, and a timer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// Maximum events of one wait.
const BATCH: usize = 256;

/// Epoll descriptor with the events of its last wait.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

/// Event of a ready socket.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: u64,
    /// Readable: data, an end, or an error that a read returns.
    pub(crate) readable: bool,
    /// Writable without blocking.
    pub(crate) writable: bool,
    /// The other side sends no more: read on until the end, even after a short read.
    pub(crate) ended: bool,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { fd, events: Vec::with_capacity(BATCH) })
    }

    /// Registers both directions of `socket` once, edge-triggered.
    pub(crate) fn watch(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let edges =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.fd, socket, epoll::EventData::new_u64(token), edges)?)
    }

    /// Registers a listener, level-triggered.
    pub(crate) fn watch_listener(&self, listener: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, listener, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    /// Waits for an event or the timeout (in milliseconds) and returns the number of events.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(timespec);
        self.events.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(self.events.len()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns the event at `index` of the last wait.
    pub(crate) fn ready(&self, index: usize) -> Ready {
        let epoll::Event { flags, data } = self.events[index];
        let ending = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        Ready {
            token: data.u64(),
            readable: flags.intersects(ending | epoll::EventFlags::IN),
            writable: flags.contains(epoll::EventFlags::OUT),
            ended: flags.intersects(ending),
        }
    }
}

/// Timer that ends a wait with a resolution finer than a millisecond.
pub(crate) struct Timer {
    fd: OwnedFd,
}

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: timerfd_create(TimerfdClockId::Monotonic, flags)? })
    }

    /// Arms the timer once after `delay`; immediately if it is zero.
    pub(crate) fn ring_in(&self, delay: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(delay.max(Duration::from_nanos(1))),
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
