//! The [`monitor_health`] function and the thread that runs its checks.

mod config;
mod error;
mod health;
mod limits;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plimsoll_core::Tick;
use plimsoll_core::health::HealthSpec;
use plimsoll_proxy::{Clock, Monitor, MonitorView, MonitoredStatuses};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

pub use self::config::HealthMonitoringConfig;
pub use self::error::HealthMonitoringError;
pub(crate) use self::health::partial_errors;
pub use self::health::{Alert, DestinationHealth, HealthMonitoringResult, LastCheck};
pub use self::limits::{MAX_MONITORED_DESTINATIONS, MAX_MONITORED_SETS};
use crate::destination::{self, Destination};
use crate::destination_set_cache::{CacheCapacity, DestinationSetCache};
use crate::entropy::random_seed;
use crate::error::LoadBalancingError;

/// A set without calls for this time, or ten check intervals if that is longer, is no longer checked.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Limits of the monitored sets. Their number bounds their memory.
const CACHE: CacheCapacity = CacheCapacity { sets: MAX_MONITORED_SETS, bytes: usize::MAX };
/// Added to the time limit of a check, for starting a thousand of them on a busy machine.
const START_ALLOWANCE: Duration = Duration::from_secs(2);
/// Name of a set in its alerts.
const SET_NAME: &str = "monitored";

/// A call, as sent to the monitoring thread.
struct MonitoringRequest {
    destinations: Vec<Destination>,
    members: Vec<plimsoll_core::Destination>,
    spec: HealthSpec,
    reply: oneshot::Sender<Result<HealthMonitoringResult, HealthMonitoringError>>,
}

/// A monitored set of destinations.
#[derive(Debug)]
struct MonitoredSet {
    monitor: Monitor,
    last_call: Tick,
    interval: Duration,
    /// Configuration and destinations of the last call.
    requested: (HealthSpec, Vec<plimsoll_core::Destination>),
}

// Global state, because the specification's `monitorHealth` is a function without an object that must continue its
// checks between calls.
static THREAD: Mutex<Option<mpsc::UnboundedSender<MonitoringRequest>>> = Mutex::new(None);

// Statuses of the monitored sets, for `balance_load` with the same destinations.
static STATUSES: Mutex<Option<DestinationSetCache<MonitoredStatuses>>> = Mutex::new(None);

/// Returns the statuses of these destinations, if they are monitored.
pub(crate) fn monitored_statuses(destinations: &[Destination]) -> Option<MonitoredStatuses> {
    let mut statuses = STATUSES.lock().unwrap_or_else(PoisonError::into_inner);
    let found = statuses.as_mut()?.get(destinations)?;
    found.generation().map(|_| found.clone())
}

/// Checks destinations and returns their health: the specification's `monitorHealth`.
///
/// The first call with a set of destinations (ids and addresses, in any order) checks each of them and waits for
/// the results. Checks then continue every `check_interval`, and later calls return the latest results at once.
/// Thresholds, statuses and alerts are those of the proxy, with the same code.
///
/// [`balance_load`](crate::balance_load) with `health_checking` and the same destinations does not pick those that
/// are down here.
///
/// The process monitors [`MAX_MONITORED_SETS`] sets of at most [`MAX_MONITORED_DESTINATIONS`] destinations, on one
/// thread. The least recently requested set is evicted, and so is one without calls for ten minutes.
///
/// The future runs on any runtime.
///
/// ```no_run
/// # extern crate plimsoll_functions as plimsoll;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), plimsoll::HealthMonitoringError> {
/// use plimsoll::{Destination, HealthMonitoringConfig, monitor_health};
///
/// let destinations = [Destination::new("a", "10.0.0.1:80"), Destination::new("b", "10.0.0.2:80")];
/// let result = monitor_health(&destinations, &HealthMonitoringConfig::default()).await?;
/// for destination in &result.destinations {
///     println!("{} is {}", destination.id, destination.status);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`HealthMonitoringError`] if the input is invalid or no result is available. A failing destination is not an
/// error.
pub async fn monitor_health(
    destinations: &[Destination],
    config: &HealthMonitoringConfig,
) -> Result<HealthMonitoringResult, HealthMonitoringError> {
    let spec = config.spec()?;
    destination::validate(destinations)?;
    if destinations.len() > MAX_MONITORED_DESTINATIONS {
        let (given, max) = (destinations.len(), MAX_MONITORED_DESTINATIONS);
        return Err(LoadBalancingError::TooManyDestinations { given, max }.into());
    }
    let members = destinations.iter().map(Destination::parse).collect::<Result<Vec<_>, _>>()?;
    let (reply, result) = oneshot::channel();
    send_request(MonitoringRequest { destinations: destinations.to_vec(), members, spec, reply })?;
    result.await.map_err(|_| HealthMonitoringError::Stopped)?
}

/// Sends a request to the monitoring thread, which is started for the first one.
fn send_request(request: MonitoringRequest) -> Result<(), HealthMonitoringError> {
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    let request = match &*thread {
        Some(running) => match running.send(request) {
            Ok(()) => return Ok(()),
            Err(unsent) => unsent.0,
        },
        None => request,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|_| HealthMonitoringError::Stopped)?;
    let (to, from) = mpsc::unbounded_channel();
    let run = move || runtime.block_on(serve(from));
    let started = std::thread::Builder::new().name("health".into()).spawn(run);
    started.map_err(|_| HealthMonitoringError::Stopped)?;
    let sent = to.send(request).map_err(|_| HealthMonitoringError::Stopped);
    *thread = Some(to);
    sent
}

/// Runs the monitoring thread.
async fn serve(mut requests: mpsc::UnboundedReceiver<MonitoringRequest>) {
    let (clock, mut sets) = (Clock::start(), DestinationSetCache::new(CACHE));
    let mut sweep = interval(Duration::from_secs(30));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            request = requests.recv() => match request {
                Some(request) => handle_request(request, &mut sets, clock),
                None => return,
            },
            _ = sweep.tick() => {
                let now = clock.now();
                sets.retain(|set: &MonitoredSet| now.since(set.last_call) < IDLE_TIMEOUT.max(set.interval * 10));
            }
        }
    }
}

/// Finds or starts the monitor of a set, and replies once it has been checked.
fn handle_request(request: MonitoringRequest, sets: &mut DestinationSetCache<MonitoredSet>, clock: Clock) {
    let MonitoringRequest { destinations, members, spec, reply } = request;
    let requested = (spec, members);
    let time_limit = requested.0.timeout + START_ALLOWANCE;
    if let Some(known) = sets.get(&destinations) {
        known.last_call = clock.now();
        if known.requested != requested {
            known.monitor.update(requested.0.clone(), requested.1.clone());
            (known.interval, known.requested) = (requested.0.check_interval, requested);
        }
    } else {
        let monitor =
            Monitor::start(SET_NAME, requested.0.clone(), requested.1.clone(), clock, random_seed());
        let mut statuses = STATUSES.lock().unwrap_or_else(PoisonError::into_inner);
        statuses
            .get_or_insert_with(|| DestinationSetCache::new(CACHE))
            .insert(&destinations, monitor.statuses());
        drop(statuses);
        let interval = requested.0.check_interval;
        sets.insert(&destinations, MonitoredSet { monitor, last_call: clock.now(), interval, requested });
    }
    let Some(known) = sets.get(&destinations) else { return };
    let checked = known.monitor.report(time_limit);
    tokio::spawn(async move {
        let result = match checked.await {
            Some(view) => health::monitoring_result(SET_NAME, &in_call_order(view, &destinations), clock),
            None => Err(HealthMonitoringError::Stopped),
        };
        let _caller_dropped = reply.send(result);
    });
}

/// Sorts the reports in the order of the call.
fn in_call_order(mut view: MonitorView, destinations: &[Destination]) -> MonitorView {
    let position = |name: &str| destinations.iter().position(|one| one.id_or_address() == name);
    view.destinations.sort_by_cached_key(|report| position(&report.name));
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_input_is_rejected_before_monitoring_starts() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let monitor = |destinations: &[Destination], config: &HealthMonitoringConfig| {
            runtime.block_on(monitor_health(destinations, config)).expect_err("refused")
        };
        let default = HealthMonitoringConfig::default();
        let a = Destination::new("a", "127.0.0.1:1");
        let message = |error: HealthMonitoringError| match error {
            HealthMonitoringError::InvalidDestinations { source } => source.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(message(monitor(&[], &default)).contains("no destinations"));
        assert!(message(monitor(&[a.clone(), a.clone()], &default)).contains("`a`"));
        assert!(
            message(monitor(&[Destination::new("x", "example.com:80")], &default)).contains("example.com:80")
        );
        let many: Vec<_> = (0..=MAX_MONITORED_DESTINATIONS)
            .map(|n| Destination::new(n.to_string(), format!("127.0.0.1:{}", n + 1)))
            .collect();
        assert!(message(monitor(&many, &default)).contains("1025"));
        let no_timeout = HealthMonitoringConfig { timeout: Duration::ZERO, ..default };
        assert!(matches!(
            monitor(&[a], &no_timeout),
            HealthMonitoringError::InvalidConfig { key: "timeout", .. }
        ));
    }
}
