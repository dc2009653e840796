//! TLS on both sides: who is let in, who is believed, and what a broken connection looks like.

mod clients;
mod destinations;
mod listeners;

use crate::kit::{Authority, Balancer, Destination, Setup, serves};

/// A listener that ends TLS for `a.test`.
fn secured(setup: Setup, authority: &Authority) -> Setup {
    setup.with(|s| s.listeners[0].tls = Some(serves(&[&authority.issue(&["a.test"])])))
}

fn https(destination: &Destination, authority: &Authority) -> Balancer {
    secured(Setup::http(&[destination]), authority).start()
}
