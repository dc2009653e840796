//! `plimsoll run`: the life of the process, from start through signals to shutdown.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_admin::AdminListener;
use plimsoll_config::Config;
use plimsoll_config::model::Admin;
use plimsoll_proxy::adapter::Adapters;
use plimsoll_proxy::{ConfigSource, Handle, Proxy};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::exit_code::{FAILED, OK, USAGE};
use super::terminal::{error_line, print_error};
use super::{config_file, logging};

/// Time for closed connections to end before the process exits.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Deadline of a drain without a deadline.
const NO_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Loads the configuration and serves it until a signal stops the process.
pub(crate) fn run(given: Option<PathBuf>) -> u8 {
    let path = match config_file::find(given) {
        Ok(path) => path,
        Err(message) => {
            error_line(&message);
            return USAGE;
        }
    };
    let _log = logging::start("info");
    match config_file::load(&path) {
        Ok(config) => serve(config, config_file::source(path)),
        Err(invalid) => {
            print_error(&format!("{}\n\n", invalid.text));
            error_line(&format!("{} is not valid; nothing was started", path.display()));
            FAILED
        }
    }
}

/// Serves `config` until a signal stops the process. Logging must be set up.
pub(crate) fn serve(config: Config, source: ConfigSource) -> u8 {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = match runtime {
        Ok(runtime) => {
            let served = runtime.block_on(run_async(config, source));
            // Without waiting for look-ups of names that hang.
            runtime.shutdown_background();
            served
        }
        Err(error) => Err(format!("cannot start the control plane: {error}")),
    };
    match served {
        Ok(()) => OK,
        Err(message) => {
            tracing::error!(event = "not_started", "{message}");
            FAILED
        }
    }
}

/// Raises the soft limit of open files to the hard one: each proxied connection takes two descriptors.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
}

async fn run_async(config: Config, source: ConfigSource) -> Result<(), String> {
    // Before anything listens, so that an early signal does not kill the process.
    let mut signals = Signals::new().map_err(|error| format!("cannot install signal handlers: {error}"))?;
    let admin = config.admin.as_ref().map(bind_admin).transpose()?.flatten();
    let start = Proxy::start(config, source, Adapters::built_in());
    let Some(started) = run_until_stop(&mut signals, start).await else { return Ok(()) };
    let mut proxy = started.map_err(|error| error.to_string())?;
    let handle = proxy.handle();
    let admin_address = admin.as_ref().map_or("off".to_owned(), |admin| admin.address().to_string());
    if let Some(admin) = admin {
        tokio::spawn(plimsoll_admin::serve(admin, handle.clone()));
    }
    let listeners = addresses(&handle);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(
        event = "ready",
        version,
        listeners,
        admin = admin_address,
        workers = handle.workers(),
        "ready"
    );
    let action = wait_for_shutdown(&mut signals, &handle).await;
    shut_down(&mut proxy, &mut signals, action).await;
    Ok(())
}

/// Formats the bound addresses as `web=127.0.0.1:8080 web=[::1]:8080`.
fn addresses(handle: &Handle) -> String {
    let listeners = handle.traffic().listeners;
    let pairs =
        listeners.iter().flat_map(|l| l.addresses.iter().map(move |address| format!("{}={address}", l.name)));
    pairs.collect::<Vec<_>>().join(" ")
}

/// Binds the admin API. Only the default address may be in use: most likely by another plimsoll.
fn bind_admin(admin: &Admin) -> Result<Option<AdminListener>, String> {
    match plimsoll_admin::bind(admin.address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if admin.configured => Err(error.to_string()),
        Err(error) => {
            tracing::warn!(
                event = "admin_off",
                "{error}; continuing without the admin API. Set another address: `admin: {{address: \"127.0.0.1:PORT\"}}`"
            );
            Ok(None)
        }
    }
}

/// The action a signal requests.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum SignalAction {
    Reload,
    /// Drain within the grace period.
    Stop,
    /// Drain without a deadline.
    DrainFully,
    ReopenLogs,
    Upgrade,
}

struct Signals([(SignalAction, Signal); 6]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            (SignalAction::Reload, signal(SignalKind::hangup())?),
            (SignalAction::Stop, signal(SignalKind::terminate())?),
            (SignalAction::Stop, signal(SignalKind::interrupt())?),
            (SignalAction::DrainFully, signal(SignalKind::quit())?),
            (SignalAction::ReopenLogs, signal(SignalKind::user_defined1())?),
            (SignalAction::Upgrade, signal(SignalKind::user_defined2())?),
        ]))
    }

    async fn next(&mut self) -> SignalAction {
        std::future::poll_fn(|cx| {
            for (action, signal) in &mut self.0 {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*action);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Awaits a step of the start, or returns `None` at a signal that stops the process: a step may wait for files and
/// names that do not come.
async fn run_until_stop<T>(signals: &mut Signals, step: impl Future<Output = T>) -> Option<T> {
    let mut step = pin!(step);
    loop {
        tokio::select! {
            done = &mut step => return Some(done),
            action = signals.next() => if matches!(action, SignalAction::Stop | SignalAction::DrainFully) {
                tracing::info!(event = "stopped", "stopped before the start was complete");
                return None;
            },
        }
    }
}

async fn wait_for_shutdown(signals: &mut Signals, handle: &Handle) -> SignalAction {
    // Reloads run in a task of their own: a slow one does not delay TERM, and repeated HUPs are merged.
    let requested = Arc::new(Notify::new());
    let reloading = tokio::spawn({
        let (requested, handle) = (requested.clone(), handle.clone());
        async move {
            loop {
                requested.notified().await;
                let _logged_by_the_proxy = handle.reload().await;
            }
        }
    });
    loop {
        match signals.next().await {
            SignalAction::Reload => requested.notify_one(),
            action @ (SignalAction::Stop | SignalAction::DrainFully) => {
                reloading.abort();
                return action;
            }
            action => run_action(action, handle),
        }
    }
}

/// Runs an action that does not end the process.
fn run_action(action: SignalAction, handle: &Handle) {
    match action {
        SignalAction::ReopenLogs => {
            handle.reopen_logs();
            tracing::info!(event = "logs_reopened", "log files reopened");
        }
        SignalAction::Upgrade => tracing::warn!(event = "no_upgrade", "binary upgrade is not supported yet"),
        SignalAction::Reload => {
            tracing::warn!(event = "reload_rejected", "reload rejected: the process is shutting down")
        }
        SignalAction::Stop | SignalAction::DrainFully => {}
    }
}

/// Drains, and closes the remaining connections at the deadline or at a second signal.
async fn shut_down(proxy: &mut Proxy, signals: &mut Signals, first: SignalAction) {
    let handle = proxy.handle();
    let grace = handle.shutdown_grace();
    let mut deadline = pin!(sleep(if first == SignalAction::Stop { grace } else { NO_DEADLINE }));
    let mut stopping = first == SignalAction::Stop;
    handle.drain();
    tracing::info!(
        event = "draining",
        connections = active_connections(&handle),
        "draining: no new connections accepted"
    );
    let mut ended = pin!(proxy.ended());
    let reason = loop {
        tokio::select! {
            biased;
            () = &mut ended => {
                tracing::info!(event = "stopped", "drained: all connections have ended");
                return;
            }
            () = &mut deadline => break "grace period is over",
            action = signals.next() => match action {
                SignalAction::Stop if stopping => break "second signal received",
                SignalAction::Stop => {
                    stopping = true;
                    deadline.set(sleep(grace));
                }
                action => run_action(action, &handle),
            },
        }
    };
    let closed = active_connections(&handle);
    handle.abort();
    // A connection that does not end in time ends with the process.
    let _still_open = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
    tracing::warn!(event = "stopped", closed, "{reason}: closed {closed} connections");
}

/// Counts the client connections that are open.
fn active_connections(handle: &Handle) -> u64 {
    handle.traffic().listeners.iter().map(|l| l.counts.active).sum()
}
