//! Which sockets are ready, or whether it is time: edge-triggered epoll, one token for each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// How many events one wait may return.
const BATCH: usize = 256;

/// An epoll descriptor together with the events of its last wait.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

/// One ready socket.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: u64,
    /// Something to read, or an end or an error that a read will tell.
    pub(crate) readable: bool,
    /// Room to send.
    pub(crate) writable: bool,
    /// The peer sends no more: read on until the end, a short read is not the last one.
    pub(crate) ended: bool,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { fd, events: Vec::with_capacity(BATCH) })
    }

    /// Reports every edge of `socket`, in both directions; armed once, never changed.
    pub(crate) fn watch(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let edges =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.fd, socket, epoll::EventData::new_u64(token), edges)?)
    }

    /// Reports a listener as long as it has something to accept.
    pub(crate) fn watch_listener(&self, listener: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, listener, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    /// Waits for at least one event or the timeout (to the millisecond), and says how many there are.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(timespec);
        self.events.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(self.events.len()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The event at `index` of the last wait.
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

/// Ends a wait at a moment finer than a millisecond.
pub(crate) struct Timer {
    fd: OwnedFd,
}

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: timerfd_create(TimerfdClockId::Monotonic, flags)? })
    }

    /// Makes the timer ready after `delay`, once; at once when it is zero.
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
