//! Bound on the bytes that the process buffers for clients that do not read.
//!
//! A test binary of its own, because the bound holds for the whole process.

#[path = "e2e/kit/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `e2e` use all of it.
mod kit;

use kit::{Connection, Destination, Setup, get, ok, wait_until};
use plimsoll_config::model::MemoryLimit;
use plimsoll_proxy::buffered_bytes;

const LIMIT: usize = 1 << 20;
/// Number of clients that do not read. Each holds at least one read of the balancer.
const CLIENTS: usize = 64;

/// Sends responses without an end to `/endless`.
fn serve(conn: &mut Connection) {
    while let Some(request) = conn.request() {
        if request.target == "/endless" {
            conn.send("HTTP/1.1 200 OK\r\n\r\n");
            let piece = vec![b'x'; 64 * 1024];
            while conn.send(&piece) {}
            return;
        }
        conn.send(ok("fine"));
    }
}

#[test]
fn new_requests_are_refused_while_clients_that_do_not_read_fill_the_buffers() {
    let destination = Destination::start(serve);
    let balancer =
        Setup::http(&[&destination]).with(|s| s.max_buffered = MemoryLimit::Bytes(LIMIT as u64)).start();
    assert_eq!(buffered_bytes().max, LIMIT);
    let mut stuck = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = balancer.connect();
        client.send(get("/endless"));
        stuck.push(client);
    }
    // Until the sockets are full, the buffers fill and drain.
    wait_until("new requests are refused", || {
        let response = balancer.fetch(get("/"));
        response.status == 503 && response.text().contains("memory_limit")
    });
    assert!(balancer.refusals("memory_limit") > 0);
    // One read each is the most that is held: the first ones of 256 KiB, those above the limit of 4 KiB.
    assert!(buffered_bytes().current <= LIMIT + CLIENTS * 256 * 1024, "{:?}", buffered_bytes());
    assert!(balancer.destination(0).status.serves(), "it is not the destination's fault");
    drop(stuck);
    wait_until("the buffers are empty", || buffered_bytes().current == 0);
    assert_eq!(balancer.fetch(get("/")).text(), "fine");
}
