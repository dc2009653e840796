//! What a connection passes between the door and the protocol that serves it: the limit, then TLS.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use crate::adapter::Connection;
use crate::http1::answer::Reason;
use crate::listener::Guest;
use crate::stream::{Peer, Stream};
use crate::tls::enter::enter;
use crate::worker::{Door, Worker};

/// Lets a connection in, or turns it away when the listener is full.
pub(crate) fn admit(worker: &Rc<Worker>, door: &Rc<Door>, stream: Stream, peer: Peer) {
    let view = door.view();
    let table = &view.table;
    let guest = Guest::enter(worker, door);
    let mut connection = Connection { guest, stream, peer, introduction: None, early: Vec::new() };
    if table.shared.open.load(Relaxed) > table.config.limits.connections {
        connection.count(Reason::ConnectionLimit);
        if table.voucher.is_none() {
            table.adapter.turn_away(&mut connection);
        }
        return;
    }
    match table.voucher {
        None => table.adapter.serve(connection),
        Some(_) => {
            tokio::task::spawn_local(pass(connection));
        }
    }
}

/// The way of a connection of which something is asked before its protocol begins.
async fn pass(mut connection: Connection) {
    if !enter(&mut connection).await {
        return;
    }
    let view = connection.guest.door.view();
    view.table.adapter.serve(connection);
}
