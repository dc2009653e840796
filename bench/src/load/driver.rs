//! Driver of a scenario: the client of this harness, or h2load for HTTP/2.

use std::io;
use std::time::Duration;

use super::client::{Client, LoadStats};
use super::h2load::H2load;
use super::load_mode::LoadMode;

pub(crate) enum Driver {
    Own(Box<Client>),
    H2load(H2load),
}

impl Driver {
    /// Opens more connections.
    pub(crate) fn open(&mut self, count: usize) -> io::Result<()> {
        match self {
            Self::Own(client) => client.open(count),
            Self::H2load(program) => {
                program.open(count);
                Ok(())
            }
        }
    }

    pub(crate) fn warm_up(&mut self, mode: LoadMode, period: Duration) -> io::Result<LoadStats> {
        match self {
            Self::Own(client) => drive(client, mode, period),
            Self::H2load(program) => program.warm_up(mode, period),
        }
    }

    /// Sends for about `period`, after a warm-up.
    pub(crate) fn measure(&mut self, mode: LoadMode, period: Duration) -> io::Result<LoadStats> {
        match self {
            Self::Own(client) => drive(client, mode, period),
            Self::H2load(program) => program.measure(mode, period),
        }
    }

    /// Sends this many messages and waits for every response.
    pub(crate) fn exchange(&mut self, count: u64) -> io::Result<LoadStats> {
        match self {
            Self::Own(client) => {
                client.exchange(count)?;
                Ok(client.take_stats())
            }
            Self::H2load(program) => program.exchange(LoadMode::Closed, count),
        }
    }
}

/// Checks that one message over its own connection gets the expected response.
pub(crate) fn answers(driver: io::Result<Driver>) -> io::Result<()> {
    let mut driver = driver?;
    driver.open(1)?;
    let stats = driver.exchange(1)?;
    if stats.errors.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(format!("unexpected response: {:?}", stats.errors)))
}

fn drive(client: &mut Client, mode: LoadMode, period: Duration) -> io::Result<LoadStats> {
    client.drive(mode, period)?;
    Ok(client.take_stats())
}
