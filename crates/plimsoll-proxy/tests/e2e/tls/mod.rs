//! TLS on both sides: verification of clients and destinations, and truncated connections.

mod clients;
mod destinations;
mod listeners;

use crate::kit::{Balancer, Destination, Setup, TestCa, server_tls};

/// Makes the listener terminate TLS for `a.test`.
fn with_tls(setup: Setup, ca: &TestCa) -> Setup {
    setup.with(|s| s.listeners[0].tls = Some(server_tls(&[&ca.issue(&["a.test"])])))
}

fn https(destination: &Destination, ca: &TestCa) -> Balancer {
    with_tls(Setup::http(&[destination]), ca).start()
}
