//! The adapter for MQTT 3.1, 3.1.1 and 5: reads the CONNECT and finds the client's destination.
//!
//! A client with an identifier goes to the same destination each time it connects, while that serves, because
//! its session is stored there. The destination follows from the identifier and the names of the destinations
//! alone, so several balancers agree without shared state. A client without an identifier goes where the
//! pool's algorithm decides.

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
use crate::serve::mqtt::packet_boundary::{ClientEnd, DestinationEnd, Directions};
use crate::serve::mqtt::rebalancer::Rebalancer;
use plimsoll_wire::Detection;

/// Added to 1.5 times the keep-alive, after which a server closes the connection. The destination closes it
/// first.
const KEEP_ALIVE_GRACE: Duration = Duration::from_secs(10);
/// Idle timeout of a client without keep-alive.
const NO_KEEP_ALIVE_IDLE: Duration = Duration::from_secs(24 * 3600);

/// Adapter for MQTT.
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

/// Parts of a CONNECT that are needed to find its destination.
struct ConnectInfo {
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
    let connect = match read {
        Ok(connect) => connect,
        Err(None) => return,
        Err(Some((fault, packet))) => {
            connection.refuse(fault);
            return send_final(&mut connection, packet).await;
        }
    };
    let unavailable = connack::reject(Some(connect.version), Rejection::Unavailable);
    let Some(mut session) = connection.route("MQTT") else {
        return send_final(&mut connection, unavailable).await;
    };
    match connect_upstream(&mut session, &connect).await {
        Some((destination, idle)) => relay(session, connection, destination, &connect, idle).await,
        None => send_final(&mut connection, unavailable).await,
    }
}

/// Reads the CONNECT and removes it from the buffer. The error is the fault and the CONNACK to send, or
/// `None` if the client disconnected.
async fn read_connect(connection: &mut Connection) -> Result<ConnectInfo, Option<(Fault, &'static [u8])>> {
    let max = connection.max_bytes();
    loop {
        let parsed = connect::parse(connection.buffer(), max).map(|connect| {
            // Without an identifier, the destination assigns one.
            let key_of = |id: &[u8]| (!id.is_empty()).then(|| hash(id));
            connect.map(|c| (c.version, key_of(c.client_id), c.keep_alive, c.len))
        });
        let (fault, version, rejection) = match parsed {
            Ok(Some((version, key, keep_alive, len))) => {
                let packet = connection.buffer().drain(..len).collect();
                return Ok(ConnectInfo { version, key, keep_alive, packet });
            }
            Ok(None) if matches!(connection.read().await, Ok(1..)) => continue,
            Ok(None) => return Err(None),
            Err(ConnectError::UnsupportedVersion) => (Fault::Malformed, None, Rejection::UnsupportedVersion),
            Err(ConnectError::TooLarge(version)) => (Fault::TooLarge, version, Rejection::TooLarge),
            Err(ConnectError::Malformed(version)) => (Fault::Malformed, version, Rejection::Malformed),
            Err(_) => (Fault::Malformed, None, Rejection::Malformed),
        };
        return Err(Some((fault, connack::reject(version, rejection))));
    }
}

/// Sends a final packet and closes the connection. Waits two seconds at most.
async fn send_final(connection: &mut Connection, packet: &[u8]) {
    let limit = connection.limit(Duration::from_secs(2));
    let _best_effort = limit.within(connection.write_all(packet)).await;
    connection.end();
}

/// Connects to a destination that accepts the CONNECT, and returns it with the idle timeout. Destinations
/// that report themselves unavailable are skipped.
async fn connect_upstream(
    session: &mut UpstreamSession,
    connect: &ConnectInfo,
) -> Option<(Destination, Duration)> {
    loop {
        let mut destination = session.next(connect.key).await.ok()?;
        let limit = session.limit(session.response_timeout());
        let fault = match limit.within(send_connect(&mut destination, connect)).await {
            Some(Connack::Final { keep_alive }) => {
                session.served(&mut destination);
                return Some((destination, idle_timeout(keep_alive.unwrap_or(connect.keep_alive))));
            }
            Some(_) => UpstreamFault::Refused,
            None => UpstreamFault::TimedOut,
        };
        session.failed(destination, fault).ok()?;
    }
}

async fn send_connect(destination: &mut Destination, connect: &ConnectInfo) -> Connack {
    if destination.write_all(&connect.packet).await.is_err() {
        return Connack::Unavailable;
    }
    loop {
        match connack::parse(destination.buffer(), connect.version) {
            None if matches!(destination.read().await, Ok(1..)) => {}
            None => return Connack::Unavailable,
            Some(response) => return response,
        }
    }
}

fn idle_timeout(keep_alive: u16) -> Duration {
    match keep_alive {
        0 => NO_KEEP_ALIVE_IDLE,
        seconds => Duration::from_secs(u64::from(seconds)) * 3 / 2 + KEEP_ALIVE_GRACE,
    }
}

/// Copies packets both ways. A client that belongs to another destination may be disconnected meanwhile.
async fn relay(
    mut session: UpstreamSession,
    mut connection: Connection,
    mut destination: Destination,
    connect: &ConnectInfo,
    idle: Duration,
) {
    let Some(key) = connect.key else { return session.relay_for(connection, destination, idle).await };
    let directions = Directions::new(connection.buffer().len(), destination.buffer().len());
    let (worker, listener) = (connection.guard.worker.clone(), connection.guard.listener.clone());
    let upstream = (session.route(), destination.id());
    let registered = Rebalancer::register(&worker, &listener, key, upstream);
    let mut client_end = ClientEnd {
        stream: &mut connection.stream,
        directions: directions.clone(),
        registered,
        disconnecting: false,
    };
    let mut destination_end = DestinationEnd { stream: &mut destination.stream, directions };
    let early = std::mem::take(&mut connection.early);
    let unsent = std::mem::take(&mut destination.early);
    let ends: [&mut dyn TunnelEnd; 2] = [&mut client_end, &mut destination_end];
    session.copy_both_ways(ends, &destination.assignment, early, unsent, idle).await;
    if client_end.disconnecting {
        session.record_end(Reason::Rebalanced);
    }
}
