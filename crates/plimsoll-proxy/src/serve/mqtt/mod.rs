//! MQTT (3.1, 3.1.1 and 5): whose connection it is, said by its CONNECT, and where that client belongs.
//!
//! A client with an id goes to the same destination each time it connects, as long as that serves: its session is
//! there, and nobody has to take it over. Which one that is follows from the id and the names of the destinations
//! alone, so several balancers agree, and none remembers anything. A client without an id goes where the pool's
//! algorithm says.

pub(crate) mod packet_boundary;
pub(crate) mod rebalancer;

use std::time::Duration;

use plimsoll_core::hash::hash;
use plimsoll_wire::mqtt::connack::{self, Connack, Rejection};
use plimsoll_wire::mqtt::connect::{self, ConnectError};
use plimsoll_wire::mqtt::{self, Version};

use crate::base::reason::Reason;
use crate::forward::connection::{Destination, UpstreamFault, UpstreamSession};
use crate::listener::accepted_connection::{Connection, Fault};
use crate::listener::adapter::Adapter;
use crate::net::tunnel::TunnelEnd;
use crate::serve::mqtt::packet_boundary::{ClientEnd, DestinationEnd, Lines};
use crate::serve::mqtt::rebalancer::Homing;
use plimsoll_wire::Detection;

/// A server ends the connection of a client that was silent for 1.5 times its keep-alive; a little more is given
/// here, so that the destination is the one who does it.
const GRACE: Duration = Duration::from_secs(10);
/// Where the client said that it need not say anything.
const SILENCE: Duration = Duration::from_secs(24 * 3600);

/// MQTT.
#[derive(Debug)]
pub(crate) struct Mqtt;

impl Adapter for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    fn alpn(&self) -> Vec<&'static [u8]> {
        vec![b"mqtt"]
    }

    fn detect(&self, first: &[u8]) -> Detection {
        mqtt::detect(first)
    }

    fn serve(&self, connection: Connection) {
        Connection::spawn(serve(connection));
    }
}

/// What is kept of a CONNECT while its destination is looked for.
struct Wish {
    version: Version,
    key: Option<u64>,
    keep_alive: u16,
    packet: Vec<u8>,
}

async fn serve(mut connection: Connection) {
    let limit = connection.limit(connection.timeout());
    let Some(read) = limit.within(read_connect(&mut connection)).await else {
        return connection.refuse(Fault::TooSlow);
    };
    drop(limit);
    let wish = match read {
        Ok(wish) => wish,
        Err(None) => return,
        Err(Some((fault, answer))) => {
            connection.refuse(fault);
            return say(&mut connection, answer).await;
        }
    };
    let unavailable = connack::reject(Some(wish.version), Rejection::Unavailable);
    let Some(mut session) = connection.route("MQTT") else { return say(&mut connection, unavailable).await };
    match find(&mut session, &wish).await {
        Some((destination, idle)) => relay(session, connection, destination, &wish, idle).await,
        None => say(&mut connection, unavailable).await,
    }
}

/// Reads the CONNECT and takes it from the buffer. Who leaves is given no answer.
async fn read_connect(connection: &mut Connection) -> Result<Wish, Option<(Fault, &'static [u8])>> {
    let most = connection.max_bytes();
    loop {
        let parsed = connect::parse(connection.buffer(), most).map(|connect| {
            // Without an id the destination is to give the client one.
            let key_of = |id: &[u8]| (!id.is_empty()).then(|| hash(id));
            connect.map(|c| (c.version, key_of(c.client_id), c.keep_alive, c.len))
        });
        let (fault, version, why) = match parsed {
            Ok(Some((version, key, keep_alive, len))) => {
                let packet = connection.buffer().drain(..len).collect();
                return Ok(Wish { version, key, keep_alive, packet });
            }
            Ok(None) if matches!(connection.read().await, Ok(1..)) => continue,
            Ok(None) => return Err(None),
            Err(ConnectError::UnsupportedVersion) => (Fault::Malformed, None, Rejection::UnsupportedVersion),
            Err(ConnectError::TooLarge(version)) => (Fault::TooLarge, version, Rejection::TooLarge),
            Err(ConnectError::Malformed(version)) => (Fault::Malformed, version, Rejection::Malformed),
            Err(_) => (Fault::Malformed, None, Rejection::Malformed),
        };
        return Err(Some((fault, connack::reject(version, why))));
    }
}

/// A last word, for which nobody waits long.
async fn say(connection: &mut Connection, word: &[u8]) {
    let limit = connection.limit(Duration::from_secs(2));
    let _best_effort = limit.within(connection.write_all(word)).await;
    connection.end();
}

/// A destination that answered the CONNECT, and how long the connection may be silent; who says that it cannot
/// serve is passed over.
async fn find(session: &mut UpstreamSession, wish: &Wish) -> Option<(Destination, Duration)> {
    loop {
        let mut destination = session.next(wish.key).await.ok()?;
        let limit = session.limit(session.response_timeout());
        let failing = match limit.within(ask(&mut destination, wish)).await {
            Some(Connack::Final { keep_alive }) => {
                session.served(&mut destination);
                return Some((destination, silence(keep_alive.unwrap_or(wish.keep_alive))));
            }
            Some(_) => UpstreamFault::Refused,
            None => UpstreamFault::TimedOut,
        };
        session.failed(destination, failing).ok()?;
    }
}

async fn ask(destination: &mut Destination, wish: &Wish) -> Connack {
    if destination.write_all(&wish.packet).await.is_err() {
        return Connack::Unavailable;
    }
    loop {
        match connack::parse(destination.buffer(), wish.version) {
            None if matches!(destination.read().await, Ok(1..)) => {}
            None => return Connack::Unavailable,
            Some(response) => return response,
        }
    }
}

fn silence(keep_alive: u16) -> Duration {
    match keep_alive {
        0 => SILENCE,
        seconds => Duration::from_secs(u64::from(seconds)) * 3 / 2 + GRACE,
    }
}

/// Runs packets both ways. A client that belongs to a destination may be asked to come home meanwhile.
async fn relay(
    mut session: UpstreamSession,
    mut connection: Connection,
    mut destination: Destination,
    wish: &Wish,
    idle: Duration,
) {
    let Some(key) = wish.key else { return session.relay_for(connection, destination, idle).await };
    let lines = Lines::new(connection.buffer().len(), destination.buffer().len());
    let (worker, listener) = (connection.guard.worker.clone(), connection.guard.listener.clone());
    let place = (session.route(), destination.id());
    let resident = Homing::enter(&worker, &listener, key, place);
    let mut client_end =
        ClientEnd { stream: &mut connection.stream, lines: lines.clone(), resident, recalled: false };
    let mut destination_end = DestinationEnd { stream: &mut destination.stream, lines };
    let early = std::mem::take(&mut connection.early);
    let unsent = std::mem::take(&mut destination.early);
    let ends: [&mut dyn TunnelEnd; 2] = [&mut client_end, &mut destination_end];
    session.carry(ends, &destination.assignment, early, unsent, idle).await;
    if client_end.recalled {
        session.ended(Reason::Rebalanced);
    }
}
