//! How the demonstration plays: destinations, the balancer and live traffic in this one process.

mod client_stats;
mod display;
mod load_generator;
mod servers;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use plimsoll_config::{Config, load};
use plimsoll_proxy::adapter::Adapters;
use plimsoll_proxy::{Handle, Proxy};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::client_stats::Tally;
use self::display::Board;
use self::load_generator::Crowd;
use self::servers::Stage;
use super::terminal::{complain, say};
use super::{FAILED, OK, logging};

/// At the end, what still runs gets so long.
const CURTAIN: Duration = Duration::from_secs(2);

/// `plimsoll demo`.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// End after so many seconds, with a summary; without it ctrl-c ends it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
}

impl Demo {
    pub(crate) fn run(self) -> u8 {
        let _log = logging::start("off");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let played = match runtime {
            Ok(runtime) => runtime.block_on(play(self.seconds)),
            Err(error) => Err(error.to_string()),
        };
        match played {
            Ok(()) => OK,
            Err(error) => {
                complain(&format!("the demo cannot play: {error}"));
                FAILED
            }
        }
    }
}

/// The balancer of the demonstration: what a file with these keys would give.
fn config(places: &[(&str, SocketAddr)]) -> Result<Config, String> {
    let destinations: Vec<_> =
        places.iter().map(|(name, address)| json!({"id": name, "address": address.to_string()})).collect();
    let text = json!({
        "workers": 2,
        "admin": {"address": "127.0.0.1:0"},
        "listeners": [{"name": "demo", "address": "127.0.0.1:0", "pool": "demo"}],
        "pools": {"demo": {
            "load_balancer": {
                "algorithm": "least_connections",
                "health_monitoring": {
                    "check_interval": "500ms", "timeout": "1s", "protocol": "http", "path": servers::HEALTH,
                    "failure_threshold": 1, "recovery_threshold": 1,
                },
                // What broke off a request is tried again soon: there is not much time to show it.
                "outlier_detection": {"base_ejection": "1s"},
            },
            "destinations": destinations,
        }},
    });
    let loaded = load(&text.to_string(), "demo", Path::new("."), &|_| None);
    loaded.config.ok_or_else(|| plimsoll_config::render_text(&loaded.problems, &loaded.sources))
}

async fn play(seconds: Option<u64>) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let stage = Stage::open().map_err(text)?;
    let config = config(&stage.places())?;
    let door = config.admin.as_ref().map(|admin| plimsoll_admin::bind(admin.address)).transpose();
    let door = door.map_err(|error| error.to_string())?.ok_or("no admin plane")?;
    let admin = door.address();
    let source = Box::new(|| Err("the demo has no configuration file".into()));
    let mut proxy =
        Proxy::start(config, source, Adapters::built_in()).await.map_err(|error| error.to_string())?;
    let handle = proxy.handle();
    tokio::spawn(plimsoll_admin::serve(door, handle.clone()));
    let address = handle.traffic().listeners.first().and_then(|l| l.addresses.first()?.parse().ok());
    let address: SocketAddr = address.ok_or("no address")?;
    say(&headline(address, admin));
    let crowd = Crowd::start(address).map_err(text)?;
    let total = watch(&handle, &crowd, seconds).await.map_err(text)?;
    let total = total.and(crowd.leave());
    say(&display::summary(&handle.pools().await, &total));
    handle.drain();
    if timeout(CURTAIN, proxy.ended()).await.is_err() {
        // Somebody else's request; it was told of in the headline that this is a demo.
        handle.cut();
    }
    Ok(())
}

fn headline(address: SocketAddr, admin: SocketAddr) -> String {
    format!(
        "plimsoll demo: {} destinations, one of which comes and goes; {} clients send {} requests a second\n\
         \n  try it     curl -i http://{address}/\n  status     plimsoll status --admin {admin}\n  \
         metrics    curl http://{admin}/metrics\n\n",
        servers::CAST.len(),
        load_generator::CLIENTS,
        load_generator::PER_SECOND,
    )
}

/// Shows what goes on until it is over; answers what the clients saw.
async fn watch(handle: &Handle, crowd: &Crowd, seconds: Option<u64>) -> io::Result<Tally> {
    let mut board = Board::new(io::stdout().is_terminal());
    let mut total = Tally::default();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    second.tick().await;
    for played in 1_u64.. {
        tokio::select! {
            _ = second.tick() => {}
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        let seen = crowd.seen();
        total = total.and(seen.clone());
        say(&board.draw(&handle.pools().await, played, &seen, &total));
        if seconds == Some(played) {
            break;
        }
    }
    Ok(total)
}
