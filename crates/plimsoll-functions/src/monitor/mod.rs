//! How destinations are, asked again and again: the second of the seed's four functions.

mod config;
mod error;
mod health;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plimsoll_core::Tick;
use plimsoll_core::health::HealthSpec;
use plimsoll_proxy::{Clock, Monitor, MonitorView};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

pub use self::config::HealthMonitoringConfig;
pub use self::error::HealthMonitoringError;
pub use self::health::{Alert, DestinationHealth, HealthMonitoringResult, LastCheck, errors};
use crate::destination::{self, Destination};
use crate::destination_set_cache::Sets;
use crate::entropy;

/// Sets of destinations that are monitored at once; the one not asked for longest goes. Each costs its checks.
pub const MOST_MONITORED: usize = 16;
/// Destinations of a set, which are all checked at once: each check holds a descriptor for a moment.
pub const MOST_CHECKED: usize = 1024;
/// A set nobody has asked for during so long, or ten of its intervals if that is longer, is checked no more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Beside the time a check has: for starting a thousand of them on a busy machine.
const GRACE: Duration = Duration::from_secs(2);
/// What alerts call the set.
const POOL: &str = "monitored";

/// A call, as the thread that monitors gets it.
struct Question {
    destinations: Vec<Destination>,
    members: Vec<plimsoll_core::Destination>,
    spec: HealthSpec,
    answer: oneshot::Sender<Result<HealthMonitoringResult, HealthMonitoringError>>,
}

/// One set that is monitored.
#[derive(Debug)]
struct Watched {
    monitor: Monitor,
    asked: Tick,
    interval: Duration,
    /// As it was last asked for.
    wanted: (HealthSpec, Vec<plimsoll_core::Destination>),
}

// The other global mutable state of the library, for the reason the first has (see `memory`): a function without
// an object must know the second time what it saw the first time, and go on looking meanwhile.
static THREAD: Mutex<Option<mpsc::UnboundedSender<Question>>> = Mutex::new(None);

/// Tells how `destinations` are: the second of the seed's four functions.
///
/// The first call with a set of destinations (ids and addresses, in any order) checks each of them, waits for
/// the answers, and goes on checking every `check_interval`; later calls tell at once what was seen since.
/// Thresholds, streaks, statuses and alerts are those of the proxy: it is the same code. The process monitors
/// [`MOST_MONITORED`] sets of at most [`MOST_CHECKED`] destinations, on a thread of its own, and stops with the
/// one not asked for longest, or for ten minutes.
///
/// The future needs no particular runtime.
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
/// [`HealthMonitoringError`]: what is wrong with the input, or why nothing can be told. That destinations fail is
/// no error.
pub async fn monitor_health(
    destinations: &[Destination],
    config: &HealthMonitoringConfig,
) -> Result<HealthMonitoringResult, HealthMonitoringError> {
    let spec = config.spec()?;
    destination::check(destinations)?;
    if destinations.len() > MOST_CHECKED {
        let why = format!("{} destinations are more than the {MOST_CHECKED} of one set", destinations.len());
        return Err(HealthMonitoringError::BadDestinations { why });
    }
    let members = destinations.iter().map(Destination::parse).collect::<Result<Vec<_>, _>>()?;
    let (answer, told) = oneshot::channel();
    ask(Question { destinations: destinations.to_vec(), members, spec, answer })?;
    told.await.map_err(|_| HealthMonitoringError::Stopped)?
}

/// Passes a question to the thread, which is started for the first one.
fn ask(question: Question) -> Result<(), HealthMonitoringError> {
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    let question = match &*thread {
        Some(running) => match running.send(question) {
            Ok(()) => return Ok(()),
            Err(unsent) => unsent.0,
        },
        None => question,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|_| HealthMonitoringError::Stopped)?;
    let (to, from) = mpsc::unbounded_channel();
    let run = move || runtime.block_on(serve(from));
    let started = std::thread::Builder::new().name("health".into()).spawn(run);
    started.map_err(|_| HealthMonitoringError::Stopped)?;
    let asked = to.send(question).map_err(|_| HealthMonitoringError::Stopped);
    *thread = Some(to);
    asked
}

/// The life of the thread.
async fn serve(mut questions: mpsc::UnboundedReceiver<Question>) {
    let (clock, mut sets) = (Clock::start(), Sets::new(MOST_MONITORED));
    let mut sweep = interval(Duration::from_secs(30));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            question = questions.recv() => match question {
                Some(question) => answer(question, &mut sets, clock),
                None => return,
            },
            _ = sweep.tick() => {
                let now = clock.now();
                sets.retain(|set: &Watched| now.since(set.asked) < FORGOTTEN_AFTER.max(set.interval * 10));
            }
        }
    }
}

/// Finds or begins the set that is asked for, and tells of it as soon as it has been checked.
fn answer(question: Question, sets: &mut Sets<Watched>, clock: Clock) {
    let Question { destinations, members, spec, answer } = question;
    let wanted = (spec, members);
    let patience = wanted.0.timeout + GRACE;
    if let Some(known) = sets.find(&destinations) {
        known.asked = clock.now();
        if known.wanted != wanted {
            known.monitor.update(wanted.0.clone(), wanted.1.clone());
            (known.interval, known.wanted) = (wanted.0.check_interval, wanted);
        }
    } else {
        let monitor = Monitor::start(POOL, wanted.0.clone(), wanted.1.clone(), clock, entropy::seed());
        let interval = wanted.0.check_interval;
        sets.add(&destinations, Watched { monitor, asked: clock.now(), interval, wanted });
    }
    let Some(known) = sets.find(&destinations) else { return };
    let seen = known.monitor.seen(patience);
    tokio::spawn(async move {
        let told = match seen.await {
            Some(seen) => health::tell(POOL, &in_order(seen, &destinations), clock),
            None => Err(HealthMonitoringError::Stopped),
        };
        let _caller_left = answer.send(told);
    });
}

/// The reports in the order of this call.
fn in_order(mut seen: MonitorView, destinations: &[Destination]) -> MonitorView {
    let place = |name: &str| destinations.iter().position(|one| one.known_as() == name);
    seen.destinations.sort_by_cached_key(|report| place(&report.name));
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_monitored_is_said_before_anything_is_started() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let monitor = |destinations: &[Destination], config: &HealthMonitoringConfig| {
            runtime.block_on(monitor_health(destinations, config)).expect_err("refused")
        };
        let usual = HealthMonitoringConfig::default();
        let a = Destination::new("a", "127.0.0.1:1");
        let bad = |error: HealthMonitoringError| match error {
            HealthMonitoringError::BadDestinations { why } => why,
            other => panic!("{other:?}"),
        };
        assert!(bad(monitor(&[], &usual)).contains("no destinations"));
        assert!(bad(monitor(&[a.clone(), a.clone()], &usual)).contains("`a`"));
        assert!(bad(monitor(&[Destination::new("x", "example.com:80")], &usual)).contains("example.com:80"));
        let crowd: Vec<_> = (0..=MOST_CHECKED)
            .map(|n| Destination::new(n.to_string(), format!("127.0.0.1:{}", n + 1)))
            .collect();
        assert!(bad(monitor(&crowd, &usual)).contains("1025"));
        let hasty = HealthMonitoringConfig { timeout: Duration::ZERO, ..usual };
        assert!(matches!(monitor(&[a], &hasty), HealthMonitoringError::BadConfig { key: "timeout", .. }));
    }
}
