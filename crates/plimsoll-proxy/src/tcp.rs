//! How a TCP connection finds its destination.

use std::rc::Rc;
use std::task::Poll;

use plimsoll_core::retry::{self, Attempt, Decision};
use plimsoll_core::route::Facts;
use plimsoll_core::{Failure, Outcome, Tick, Ticket, Tried, Want};

use crate::access_log::ConnectionLine;
use crate::clock::Clock;
use crate::counters::Before;
use crate::forward::{connect, tell};
use crate::http1::answer::Reason;
use crate::http1::target::Method;
use crate::listener::Guest;
use crate::stream::{Peer, Stream};
use crate::timer::Alarm;
use crate::tls::enter::Introduction;
use crate::tls::hello::{self, Hello};
use crate::tunnel::{Moved, tunnel};
use crate::upstream::Chosen;
use crate::worker::{Rule, Worker};

/// Serves one TCP connection: a destination that can be connected to, then a tunnel.
pub(crate) async fn serve(
    guest: Guest,
    mut client: Stream,
    peer: Peer,
    introduction: Option<Box<Introduction>>,
) {
    let worker = guest.worker.clone();
    let view = guest.door.view();
    let started = worker.now();
    let log = worker.log.as_ref().map(|log| (log, Clock::wall()));
    let alarm = worker.timers.alarm(started + view.table.config.timeouts.handshake);
    let (mut early, mut sni) = (Vec::new(), introduction.and_then(|introduction| introduction.sni));
    if view.table.voucher.is_none() && view.table.asks_for_sni() {
        match alarm.within(read_hello(&worker, &mut client, &mut early)).await {
            Some(Some(asked)) => sni = asked,
            Some(None) => return,
            None => {
                view.table.shared.tallies.of(worker.number).refuse(Reason::HandshakeTimeout);
                return;
            }
        }
    }
    let Some(rule) = view.table.route(&Asked(sni)).map(|rule| view.rules[rule].clone()) else {
        view.table.shared.tallies.of(worker.number).refuse(Reason::NoRoute);
        return client.reset_on_close();
    };
    let counts = rule.table.tallies.of(worker.number);
    counts.started.add(1);
    let mut moved = Moved::default();
    let (id, reason) = match find(&worker, &alarm, &rule, started).await {
        Ok((mut upstream, ticket)) => {
            let idle = view.table.config.timeouts.idle.max(rule.table.pool.config.timeouts.idle);
            moved = tunnel(&worker, &alarm, [&mut client, &mut upstream], early, Vec::new(), idle).await;
            (Some(ticket.id()), None)
        }
        Err(reason) => {
            view.table.shared.tallies.of(worker.number).refuse(reason);
            // A reset tells the client that nobody served it; an end of data would look like an empty answer.
            client.reset_on_close();
            (None, Some(reason))
        }
    };
    let total = worker.now().since(started);
    counts.ended.add(1);
    counts.request_bytes.add(moved.to_destination);
    counts.response_bytes.add(moved.to_client);
    counts.request(Method::Other, if reason.is_none() { 200 } else { 0 }, total);
    if let Some((log, time)) = log {
        let listener = view.table.config.name.clone();
        let (pool, destination) =
            (rule.table.pool.config.name.clone(), id.and_then(|id| rule.pool.name_of(id)));
        log.send_connection(ConnectionLine {
            protocol: "TCP",
            time,
            peer,
            listener,
            pool,
            destination,
            reason,
            moved,
            total,
        });
    }
}

/// Reads the hello of TLS and leaves it, with all that came along, in `early`. Answers the name it asks for;
/// who speaks something else asks for none. `None`: the client left.
async fn read_hello(worker: &Worker, client: &mut Stream, early: &mut Vec<u8>) -> Option<Option<Box<str>>> {
    std::future::poll_fn(|cx| {
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            match client.poll_read(cx, &mut scratch[..hello::MAX_HELLO]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n @ 1..)) => early.extend_from_slice(&scratch[..n]),
                Poll::Ready(_) => return Poll::Ready(None),
            }
            match hello::read(early) {
                Hello::Incomplete => {}
                Hello::Asks(name) => return Poll::Ready(Some(name.map(String::into_boxed_str))),
                Hello::NotTls => return Poll::Ready(Some(None)),
            }
        }
    })
    .await
}

/// What routing may ask of a connection: the name in its hello.
struct Asked(Option<Box<str>>);

impl Facts for Asked {
    fn host(&self) -> &[u8] {
        b""
    }

    fn path(&self) -> &[u8] {
        b""
    }

    fn method(&self) -> &[u8] {
        b""
    }

    fn header_is(&self, _lower_name: &str, _value: &str) -> bool {
        false
    }

    fn sni(&self) -> Option<&[u8]> {
        self.0.as_deref().map(str::as_bytes)
    }
}

/// A destination that can be connected to, and the hold on it.
async fn find(
    worker: &Rc<Worker>,
    alarm: &Rc<Alarm>,
    rule: &Rule,
    started: Tick,
) -> Result<(Stream, Ticket), Reason> {
    let pool = rule.pool.table.borrow().clone();
    let timeouts = pool.config.timeouts;
    let deadline = timeouts.total.map_or(Tick::NEVER, |total| started + total);
    let (mut tried, mut tries, mut now, mut before) = (Tried::default(), 0, started, None);
    pool.budget.earn(worker.number);
    loop {
        let want = Want { worker: worker.number, tried: Some(&tried), repeatable: true };
        let chosen = rule.pool.balance_load(&want, now, &mut worker.rng.borrow_mut());
        pool.tallies.of(worker.number).decided(chosen.as_ref().err().copied(), before);
        let Ok(Chosen { mut ticket, address }) = chosen else {
            return Err(if tries == 0 { Reason::NoHealthyDestination } else { Reason::ConnectFailed });
        };
        tried.add(ticket.id());
        tries += 1;
        let connected =
            connect(worker, alarm, &rule.pool, ticket.id(), &address, (now + timeouts.connect).min(deadline))
                .await;
        now = worker.now();
        let failure = match connected {
            Ok(upstream) => {
                let first_byte = now.since(ticket.started());
                tell(rule, ticket.learn(Outcome::Answered { status: 200, first_byte }));
                return Ok((upstream, ticket));
            }
            Err(failure) => failure,
        };
        tell(rule, ticket.learn(Outcome::Failed(failure)));
        let attempt = connect_attempt(failure, tries);
        if now >= deadline
            || matches!(retry::decide(&pool.config.retry, &attempt, &pool.budget, now), Decision::Stop(_))
        {
            return Err(match failure {
                Failure::NoResources => Reason::NoResources,
                _ => Reason::ConnectFailed,
            });
        }
        before = Some(Before::Failed(failure));
    }
}

/// A try that failed before anything was sent.
pub(crate) fn connect_attempt(failure: Failure, tries: u8) -> Attempt {
    Attempt {
        failure,
        tries,
        idempotent: true,
        sent: false,
        reused_connection: false,
        fresh_repeat_used: false,
        body_replayable: true,
        answer_started: false,
    }
}
