//! Who drives a scenario: the client of this harness, or for HTTP/2 h2load.

use std::io;
use std::time::Duration;

use super::client::{Client, Tally};
use super::h2load::H2load;
use super::pace::Pace;

pub(crate) enum Driver {
    Own(Box<Client>),
    H2load(H2load),
}

impl Driver {
    /// So many more connections.
    pub(crate) fn open(&mut self, count: usize) -> io::Result<()> {
        match self {
            Self::Own(client) => client.open(count),
            Self::H2load(program) => {
                program.open(count);
                Ok(())
            }
        }
    }

    pub(crate) fn warm_up(&mut self, pace: Pace, period: Duration) -> io::Result<Tally> {
        match self {
            Self::Own(client) => drive(client, pace, period),
            Self::H2load(program) => program.warm_up(pace, period),
        }
    }

    /// After a warm-up: drives for `period`, or about so long.
    pub(crate) fn measure(&mut self, pace: Pace, period: Duration) -> io::Result<Tally> {
        match self {
            Self::Own(client) => drive(client, pace, period),
            Self::H2load(program) => program.measure(pace, period),
        }
    }

    /// This many messages in all, and every answer.
    pub(crate) fn exchange(&mut self, count: u64) -> io::Result<Tally> {
        match self {
            Self::Own(client) => {
                client.exchange(count)?;
                Ok(client.take_tally())
            }
            Self::H2load(program) => program.exchange(Pace::Closed, count),
        }
    }
}

/// Whether one message over a connection of its own is answered well.
pub(crate) fn answers(driver: io::Result<Driver>) -> io::Result<()> {
    let mut driver = driver?;
    driver.open(1)?;
    let tally = driver.exchange(1)?;
    if tally.faults.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(format!("it answered wrongly: {:?}", tally.faults)))
}

fn drive(client: &mut Client, pace: Pace, period: Duration) -> io::Result<Tally> {
    client.drive(pace, period)?;
    Ok(client.take_tally())
}
