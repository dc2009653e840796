//! How the balancer runs as a process: started whole or not at all, told by signals, stopped with care.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_admin::Door;
use plimsoll_config::Config;
use plimsoll_config::model::Admin;
use plimsoll_proxy::adapter::Adapters;
use plimsoll_proxy::{Handle, Proxy, Source};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::terminal::complain;
use super::{FAILED, OK, USAGE, config_file, logging};

/// Connections that were cut get so long to go.
const CUT_TAKES: Duration = Duration::from_secs(1);
/// Without a deadline: as long as anybody will wait.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// `plimsoll run`.
pub(crate) fn run(given: Option<PathBuf>) -> u8 {
    let path = match config_file::find(given) {
        Ok(path) => path,
        Err(sentence) => {
            complain(&sentence);
            return USAGE;
        }
    };
    let _log = logging::start("info");
    match config_file::load(&path) {
        Ok(config) => serve(config, config_file::source(path)),
        Err(invalid) => {
            eprintln!("{}\n", invalid.text);
            complain(&format!("{} cannot be used; nothing was started", path.display()));
            FAILED
        }
    }
}

/// Serves `config` until a signal says stop. Logging has begun.
pub(crate) fn serve(config: Config, source: Source) -> u8 {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(live(config, source)),
        Err(error) => Err(format!("cannot start the control plane: {error}")),
    };
    match served {
        Ok(()) => OK,
        Err(sentence) => {
            tracing::error!(event = "not_started", "{sentence}");
            FAILED
        }
    }
}

/// As many connections as the system lets us have: each takes two descriptors.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

async fn live(config: Config, source: Source) -> Result<(), String> {
    // Before anything listens, so that no signal finds us without an answer.
    let mut signals = Signals::new().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let door = config.admin.as_ref().map(admin_door).transpose()?.flatten();
    let mut proxy =
        Proxy::start(config, source, Adapters::built_in()).await.map_err(|error| error.to_string())?;
    let handle = proxy.handle();
    let admin = door.as_ref().map_or("off".to_owned(), |door| door.address().to_string());
    if let Some(door) = door {
        tokio::spawn(plimsoll_admin::serve(door, handle.clone()));
    }
    let listeners = addresses(&handle);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(event = "ready", version, listeners, admin, workers = handle.workers(), "ready");
    let first = until_told_to_stop(&mut signals, &handle).await;
    stop(&mut proxy, &mut signals, first).await;
    Ok(())
}

/// `web=127.0.0.1:8080 web=[::1]:8080`: where listeners really listen.
fn addresses(handle: &Handle) -> String {
    let listeners = handle.traffic().listeners;
    let pairs =
        listeners.iter().flat_map(|l| l.addresses.iter().map(move |address| format!("{}={address}", l.name)));
    pairs.collect::<Vec<_>>().join(" ")
}

/// The usual admin address may be taken, by another plimsoll most likely; one that was configured may not.
fn admin_door(admin: &Admin) -> Result<Option<Door>, String> {
    match plimsoll_admin::bind(admin.address) {
        Ok(door) => Ok(Some(door)),
        Err(error) if admin.configured => Err(error.to_string()),
        Err(error) => {
            tracing::warn!(
                event = "admin_off",
                "{error}; going on without. Another address: `admin: {{address: \"127.0.0.1:PORT\"}}`"
            );
            Ok(None)
        }
    }
}

/// What a signal asks for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Wish {
    Reload,
    /// Drain within the grace.
    Stop,
    /// Drain, however long it takes.
    Drain,
    ReopenLogs,
    Upgrade,
}

struct Signals([(Wish, Signal); 6]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            (Wish::Reload, signal(SignalKind::hangup())?),
            (Wish::Stop, signal(SignalKind::terminate())?),
            (Wish::Stop, signal(SignalKind::interrupt())?),
            (Wish::Drain, signal(SignalKind::quit())?),
            (Wish::ReopenLogs, signal(SignalKind::user_defined1())?),
            (Wish::Upgrade, signal(SignalKind::user_defined2())?),
        ]))
    }

    async fn next(&mut self) -> Wish {
        std::future::poll_fn(|cx| {
            for (wish, signal) in &mut self.0 {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*wish);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

async fn until_told_to_stop(signals: &mut Signals, handle: &Handle) -> Wish {
    // Reloads run beside: a slow one does not keep TERM waiting, and many HUPs are one.
    let wanted = Arc::new(Notify::new());
    let reloading = tokio::spawn({
        let (wanted, handle) = (wanted.clone(), handle.clone());
        async move {
            loop {
                wanted.notified().await;
                let _said_in_the_log = handle.reload().await;
            }
        }
    });
    loop {
        match signals.next().await {
            Wish::Reload => wanted.notify_one(),
            wish @ (Wish::Stop | Wish::Drain) => {
                reloading.abort();
                return wish;
            }
            wish => minor(wish, handle),
        }
    }
}

/// Wishes that end nothing.
fn minor(wish: Wish, handle: &Handle) {
    match wish {
        Wish::ReopenLogs => {
            handle.reopen_logs();
            tracing::info!(event = "logs_reopened", "logs are opened anew");
        }
        Wish::Upgrade => tracing::warn!(event = "no_upgrade", "a binary upgrade is not available yet"),
        Wish::Reload => tracing::warn!(event = "reload_refused", "no reload: the proxy is shutting down"),
        Wish::Stop | Wish::Drain => {}
    }
}

/// Drains, and cuts what is left when the grace is over or somebody insists.
async fn stop(proxy: &mut Proxy, signals: &mut Signals, first: Wish) {
    let handle = proxy.handle();
    let grace = handle.shutdown_grace();
    let mut deadline = pin!(sleep(if first == Wish::Stop { grace } else { FOREVER }));
    let mut stopping = first == Wish::Stop;
    handle.drain();
    tracing::info!(event = "draining", connections = open(&handle), "draining: nothing new is taken");
    let mut ended = pin!(proxy.ended());
    let why = loop {
        tokio::select! {
            biased;
            () = &mut ended => {
                tracing::info!(event = "stopped", "drained; all connections have ended");
                return;
            }
            () = &mut deadline => break "the grace is over",
            wish = signals.next() => match wish {
                Wish::Stop if stopping => break "told so again",
                Wish::Stop => {
                    stopping = true;
                    deadline.set(sleep(grace));
                }
                wish => minor(wish, &handle),
            },
        }
    };
    let cut = open(&handle);
    handle.cut();
    let _stuck_in_the_kernel = tokio::time::timeout(CUT_TAKES, ended).await;
    tracing::warn!(event = "stopped", cut, "{why}: {cut} connections were cut");
}

/// Client connections open now.
fn open(handle: &Handle) -> u64 {
    handle.traffic().listeners.iter().map(|l| l.counts.active).sum()
}
