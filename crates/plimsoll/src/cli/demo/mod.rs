//! `plimsoll demo`: destinations, the balancer and live traffic in one process.

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

use self::client_stats::ClientStats;
use self::display::Dashboard;
use self::load_generator::LoadGenerator;
use self::servers::DemoServers;
use super::exit_code::{FAILED, OK};
use super::logging;
use super::terminal::{error_line, print};

pub(crate) const HELP: &str =
    "Exit codes: 0 stopped after --seconds or by ctrl-c; 1 cannot start; 2 usage error";

/// Deadline of the drain at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Flags of `plimsoll demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Stop after this many seconds and print a summary [default: run until ctrl-c]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
}

impl DemoArgs {
    pub(crate) fn run(self) -> u8 {
        let _log = logging::start("off");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(run_demo(self.seconds)),
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) => OK,
            Err(error) => {
                error_line(&format!("cannot run the demo: {error}"));
                FAILED
            }
        }
    }
}

/// Builds the demo's configuration.
fn config(addresses: &[(&str, SocketAddr)]) -> Result<Config, String> {
    let destinations: Vec<_> =
        addresses.iter().map(|(name, address)| json!({"id": name, "address": address.to_string()})).collect();
    let text = json!({
        "workers": 2,
        "admin": {"address": "127.0.0.1:0"},
        "listeners": [{"name": "demo", "address": "127.0.0.1:0", "pool": "demo"}],
        "pools": {"demo": {
            "load_balancer": {
                "algorithm": "least_connections",
                "health_monitoring": {
                    "check_interval": "500ms", "timeout": "1s", "protocol": "http", "path": servers::HEALTH_PATH,
                    "failure_threshold": 1, "recovery_threshold": 1,
                },
                // A short ejection, so that recovery shows within a short demo.
                "outlier_detection": {"base_ejection": "1s"},
            },
            "destinations": destinations,
        }},
    });
    let loaded = load(&text.to_string(), "demo", Path::new("."), &|_| None);
    loaded.config.ok_or_else(|| plimsoll_config::render_text(&loaded.problems, &loaded.sources))
}

async fn run_demo(seconds: Option<u64>) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let servers = DemoServers::start().map_err(text)?;
    let config = config(&servers.addresses())?;
    let admin = config.admin.as_ref().map(|admin| plimsoll_admin::bind(admin.address)).transpose();
    let admin = admin.map_err(|error| error.to_string())?.ok_or("no admin API")?;
    let admin_address = admin.address();
    let source = Box::new(|| Err("the demo has no configuration file".into()));
    let mut proxy =
        Proxy::start(config, source, Adapters::built_in()).await.map_err(|error| error.to_string())?;
    let handle = proxy.handle();
    tokio::spawn(plimsoll_admin::serve(admin, handle.clone()));
    let address = handle.traffic().listeners.first().and_then(|l| l.addresses.first()?.parse().ok());
    let address: SocketAddr = address.ok_or("no address")?;
    print(&headline(address, admin_address));
    let clients = LoadGenerator::start(address).map_err(text)?;
    let total = watch(&handle, &clients, seconds).await.map_err(text)?;
    let total = total.merge(clients.stop());
    print(&display::summary(&handle.pools().await, &total));
    handle.drain();
    if timeout(DRAIN_TIMEOUT, proxy.ended()).await.is_err() {
        // A request of the user's own, from the URL in the headline.
        handle.abort();
    }
    Ok(())
}

fn headline(address: SocketAddr, admin: SocketAddr) -> String {
    format!(
        "plimsoll demo: {} destinations, one of them unreliable; {} clients send {} requests/s\n\
         \n  try it     curl -i http://{address}/\n  status     plimsoll status --admin {admin}\n  \
         metrics    curl http://{admin}/metrics\n\n",
        servers::SERVERS.len(),
        load_generator::CLIENTS,
        load_generator::PER_SECOND,
    )
}

/// Prints the state every second until the end; returns the client counts up to then.
async fn watch(handle: &Handle, clients: &LoadGenerator, seconds: Option<u64>) -> io::Result<ClientStats> {
    let mut dashboard = Dashboard::new(io::stdout().is_terminal());
    let mut total = ClientStats::default();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut ticker = interval(Duration::from_secs(1));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker.tick().await;
    for second in 1_u64.. {
        tokio::select! {
            _ = ticker.tick() => {}
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        let recent = clients.take_stats();
        total = total.merge(recent.clone());
        print(&dashboard.draw(&handle.pools().await, second, &recent, &total));
        if seconds == Some(second) {
            break;
        }
    }
    Ok(total)
}
