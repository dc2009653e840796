//! Parser of scenario files.

use std::time::Duration;

use plimsoll_config::units::ConfigDuration;
use plimsoll_core::Tick;
use plimsoll_core::health::{CheckSchedule, HealthSpec, OutlierSpec, ProbeKind};
use plimsoll_core::retry::{HedgeAfter, HedgeSpec, RetrySpec, RetryWhen};

use super::schema::{self, ScenarioFile};
use super::{NO_RETRIES, OfferedLoad, Scenario};
use crate::antagonist::{NeighbourSpec, SharedHost};
use crate::arrivals::Arrivals;
use crate::distributions::WorkDistribution;
use crate::fault::{FaultKind, SimFault};
use crate::sim_destination::{DestinationSpec, ServiceModel};

/// Maximum size of a file in bytes.
const MAX_BYTES: usize = 1 << 20;
/// Maximum destinations of a scenario.
const MAX_DESTINATIONS: usize = 10_000;
/// Maximum balancers, and workers of each.
const MAX_BALANCERS: usize = 1_000;
/// Maximum messages of one run: some minutes of computing.
const MAX_MESSAGES: f64 = 5e7;
/// Default interval between two comparisons of destinations.
const INTERVAL: Duration = Duration::from_secs(10);

/// Parses a scenario from YAML or JSON.
///
/// # Errors
/// A message for the user, with a line number where there is one.
pub fn read(text: &str) -> Result<Scenario, String> {
    if text.len() > MAX_BYTES {
        return Err("the file is larger than 1 MiB".to_owned());
    }
    let file: ScenarioFile = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    scenario(&file)
}

fn scenario(file: &ScenarioFile) -> Result<Scenario, String> {
    let mut destinations = Vec::new();
    for group in &file.destinations {
        if destinations.len().saturating_add(group.count) > MAX_DESTINATIONS {
            return Err(format!("destinations: more than {MAX_DESTINATIONS}"));
        }
        let spec = destination_spec(group).map_err(|why| format!("destinations, {}: {why}", group.group))?;
        destinations.extend(std::iter::repeat_n(spec, group.count));
    }
    if destinations.is_empty() {
        return Err("destinations: expected at least one".to_owned());
    }
    let candidates = file.algorithms.iter().map(|name| name.parse()).collect::<Result<_, _>>();
    let mut scenario =
        Scenario::new(&file.name, destinations, work(&file.work).map_err(|why| format!("work: {why}"))?);
    scenario.about = file.about.clone();
    scenario.candidates = candidates.map_err(|why| format!("algorithms: {why}"))?;
    scenario.balancers = in_range("balancers", file.balancers, 1, MAX_BALANCERS)?;
    scenario.workers = in_range("workers", file.workers, 1, MAX_BALANCERS)?;
    scenario.offered_load = match (file.load, file.rate) {
        (Some(_), Some(_)) => return Err("load and rate: expected only one of them".to_owned()),
        (None, Some(rate)) => OfferedLoad::Rate(positive("rate", rate.0)?),
        (load, None) => OfferedLoad::Utilization(positive("load", load.unwrap_or(0.7))?),
    };
    scenario.cancels = file.cancels.unwrap_or(scenario.cancels);
    if let Some(bursts) = &file.bursts {
        scenario.arrivals = Arrivals::Bursts {
            factor: positive("bursts.factor", bursts.factor)?,
            every: bursts.every.0,
            length: bursts.length.0,
        };
    }
    for (to, from) in [
        (&mut scenario.deadline, file.deadline),
        (&mut scenario.round_trip, file.round_trip),
        (&mut scenario.jitter, file.jitter),
        (&mut scenario.warm_up, file.warm_up),
        (&mut scenario.duration, file.duration),
    ] {
        *to = from.map_or(*to, |span| span.0);
    }
    if let Some(given) = &file.outlier_detection {
        scenario.outlier = outlier(given);
    }
    scenario.health = file.health_monitoring.as_ref().map(health);
    let managed = file.health_monitoring.as_ref().and_then(|given| given.recovery_management);
    scenario.recovery = managed.unwrap_or(scenario.recovery);
    scenario.slow_start = file.slow_start.map(|span| span.0).filter(|span| !span.is_zero());
    scenario.panic_threshold = file.panic_threshold.map_or(scenario.panic_threshold, |share| share.0);
    if let Some(given) = &file.retry {
        scenario.retry = retry(given)?;
    }
    scenario.hedge = file.hedge.as_ref().map(hedge).transpose()?.flatten();
    validate(scenario)
}

impl Scenario {
    /// Returns the scenario if it can be run in acceptable time.
    ///
    /// # Errors
    /// A message for the user about the limit that is exceeded.
    pub fn validate(self) -> Result<Self, String> {
        validate(self)
    }
}

fn validate(scenario: Scenario) -> Result<Scenario, String> {
    let seconds = (scenario.warm_up + scenario.duration).as_secs_f64();
    let messages = scenario.rate() * seconds;
    if scenario.duration.is_zero() || scenario.deadline.is_zero() {
        return Err("duration and deadline must be above 0".to_owned());
    }
    if !messages.is_finite() || messages > MAX_MESSAGES {
        return Err(format!(
            "{messages:.0} messages are more than the limit of {MAX_MESSAGES:.0}: reduce the load or the duration"
        ));
    }
    if scenario.balancers.saturating_mul(scenario.destinations.len()) > 1_000_000 {
        return Err("balancers times destinations must be at most 1000000".to_owned());
    }
    Ok(scenario)
}

fn in_range(key: &str, number: usize, min: usize, max: usize) -> Result<usize, String> {
    let good = (min..=max).contains(&number);
    good.then_some(number)
        .ok_or_else(|| format!("{key}: expected a number from {min} to {max}, found {number}"))
}

fn positive(key: &str, number: f64) -> Result<f64, String> {
    let good = number.is_finite() && number > 0.0;
    good.then_some(number).ok_or_else(|| format!("{key}: expected a number above 0, found {number}"))
}

fn destination_spec(given: &schema::Destinations) -> Result<DestinationSpec, String> {
    let service_model = match (given.slots, given.cores, &given.shared) {
        (Some(slots), None, None) => ServiceModel::Slots(in_range("slots", slots, 1, 1_000_000)?),
        (None, Some(cores), None) => ServiceModel::Sharing(positive("cores", cores)?),
        (None, None, Some(given)) => ServiceModel::Shared(shared(given)?),
        _ => return Err("expected exactly one of slots, cores and shared".to_owned()),
    };
    let faults = given.faults.iter().map(fault).collect::<Result<_, _>>()?;
    let (weight, priority) = (given.weight.unwrap_or(1), given.priority);
    Ok(DestinationSpec { group: given.group.clone(), service_model, weight, priority, faults })
}

fn shared(given: &schema::Shared) -> Result<SharedHost, String> {
    let seconds =
        |span: Option<schema::Span>, default: f64| span.map_or(default, |span| span.0.as_secs_f64());
    let neighbours = &given.neighbours;
    Ok(SharedHost {
        allocation: positive("allocation", given.allocation)?,
        burst: positive("burst", given.burst)?,
        machine: positive("machine", given.machine)?,
        neighbours: NeighbourSpec {
            level: neighbours.level,
            noise: neighbours.noise,
            memory: positive("memory", seconds(neighbours.memory, 1.0))?,
            hot: neighbours.hot,
            burst: seconds(neighbours.burst, 1.0),
            quiet: seconds(neighbours.quiet, 1.0),
        },
    })
}

fn fault(given: &schema::Fault) -> Result<SimFault, String> {
    let span = |key: &str, span: Option<schema::Span>| {
        let span = span.map(|span| span.0).filter(|span| !span.is_zero());
        span.ok_or_else(|| format!("faults: missing {key}, a duration such as \"1s\""))
    };
    let factor = || positive("faults, factor", given.factor.unwrap_or(0.0));
    let (kind, takes): (FaultKind, &[&str]) = match given.kind {
        schema::FaultName::Slow => (FaultKind::Slow(factor()?), &["factor"]),
        schema::FaultName::Cold => (FaultKind::Cold(factor()?), &["factor"]),
        schema::FaultName::Flapping => (
            FaultKind::Flapping { up: span("up", given.up)?, down: span("down", given.down)? },
            &["up", "down"],
        ),
        schema::FaultName::FastFailing => {
            let (after, status) = (span("after", given.after)?, given.status.unwrap_or(500));
            let status = in_range("faults, status", status.into(), 500, 599)? as u16;
            (FaultKind::FastFailing { after, status }, &["after", "status"])
        }
        schema::FaultName::Pausing => {
            let (every, pause) = (span("every", given.every)?, span("pause", given.pause)?);
            (FaultKind::Pausing { every, pause }, &["every", "pause"])
        }
        schema::FaultName::SlowPeriods => {
            let (factor, length) = (factor()?, span("length", given.length)?);
            let share = given.share.ok_or("faults: missing share, such as \"10%\"")?.0;
            (FaultKind::SlowPeriods { factor, length, share, seed: 0 }, &["factor", "length", "share"])
        }
        schema::FaultName::Stalling => (FaultKind::Stalling, &[]),
        schema::FaultName::Unresponsive => (FaultKind::Unresponsive, &[]),
        schema::FaultName::Down => (FaultKind::Down, &[]),
    };
    let keys = [
        ("factor", given.factor.is_some()),
        ("up", given.up.is_some()),
        ("down", given.down.is_some()),
        ("after", given.after.is_some()),
        ("every", given.every.is_some()),
        ("pause", given.pause.is_some()),
        ("status", given.status.is_some()),
        ("length", given.length.is_some()),
        ("share", given.share.is_some()),
    ];
    if let Some(key) = schema::given(&keys).into_iter().find(|key| !takes.contains(key)) {
        return Err(format!("faults: {key} does not apply to {:?}", given.kind));
    }
    let from = Tick::ZERO + given.from.map_or(Duration::ZERO, |from| from.0);
    let until = given.until.map_or(Tick::NEVER, |until| Tick::ZERO + until.0);
    if until <= from || (matches!(kind, FaultKind::Cold(_)) && until == Tick::NEVER) {
        return Err("faults: expected an `until` after `from`".to_owned());
    }
    Ok(SimFault { kind, from, until })
}

fn work(given: &schema::Work) -> Result<WorkDistribution, String> {
    let seconds = |span: &schema::Span| span.0.as_secs_f64();
    let mut all = Vec::new();
    all.extend(given.fixed.iter().map(|span| WorkDistribution::Fixed(seconds(span))));
    all.extend(given.exponential.iter().map(|mean| WorkDistribution::Exponential(seconds(mean))));
    all.extend(given.normal.iter().map(|normal| WorkDistribution::Normal {
        mean: seconds(&normal.mean),
        deviation: seconds(&normal.deviation),
    }));
    all.extend(given.lognormal.iter().map(|lognormal| WorkDistribution::Lognormal {
        median: seconds(&lognormal.median),
        sigma: lognormal.sigma,
    }));
    all.extend(given.bimodal.iter().map(|bimodal| WorkDistribution::Bimodal {
        short: seconds(&bimodal.short),
        long: seconds(&bimodal.long),
        share: bimodal.share.0,
    }));
    match all[..] {
        [work] if work.mean() > 0.0 && work.mean().is_finite() => Ok(work),
        [_] => Err("expected work above 0".to_owned()),
        _ => Err("give one of fixed, exponential, normal, lognormal and bimodal".to_owned()),
    }
}

fn outlier(given: &schema::OutlierDetection) -> OutlierSpec {
    let default = OutlierSpec::CONSECUTIVE_FAILURES;
    let base_ejection = given.base_ejection.map_or(default.base_ejection, |span| span.0);
    OutlierSpec {
        consecutive_failures: given.consecutive_failures.unwrap_or(default.consecutive_failures),
        base_ejection,
        max_ejection: default.max_ejection.max(base_ejection),
        max_ejected: given.max_ejected.map_or(default.max_ejected, |share| share.0),
        interval: Some(given.interval.map_or(INTERVAL, |span| span.0)).filter(|span| !span.is_zero()),
        unresponsive_after: given.unresponsive_after.map(|span| span.0),
        latency: given.latency.unwrap_or(false),
        learning: given.learning.unwrap_or(false),
    }
}

fn health(given: &schema::HealthMonitoring) -> HealthSpec {
    HealthSpec {
        check_interval: given.check_interval.map_or(Duration::from_secs(5), |span| span.0),
        timeout: given.timeout.map_or(Duration::from_secs(2), |span| span.0),
        failure_threshold: given.failure_threshold.unwrap_or(3),
        recovery_threshold: given.recovery_threshold.unwrap_or(2),
        probe: ProbeKind::Tcp,
        probe_if_unresponsive: None,
        port: None,
        schedule: CheckSchedule::default(),
    }
}

fn hedge(given: &schema::Hedge) -> Result<Option<HedgeSpec>, String> {
    let most =
        in_range("hedge.max", given.max.unwrap_or(1).into(), 0, plimsoll_core::AttemptedSet::MAX - 1)? as u8;
    let after = given.after.as_deref().unwrap_or("p95");
    let share = after.strip_prefix('p').and_then(|number| number.parse::<f64>().ok()).map(|p| p / 100.0);
    let after = match share {
        Some(share) if (0.5..=0.999).contains(&share) => HedgeAfter::Quantile(share),
        None if let Ok(ConfigDuration(span)) = after.parse()
            && !span.is_zero() =>
        {
            HedgeAfter::Fixed(span)
        }
        _ => return Err(format!("hedge.after: `{after}` is neither p50 to p99.9 nor a duration")),
    };
    Ok((most > 0).then_some(HedgeSpec { after, max: most }))
}

fn retry(given: &schema::Retry) -> Result<RetrySpec, String> {
    let attempts =
        in_range("retry.attempts", given.attempts.unwrap_or(3).into(), 1, plimsoll_core::AttemptedSet::MAX)?;
    Ok(RetrySpec {
        attempts: attempts as u8,
        when: RetryWhen {
            connect_failure: true,
            reset: true,
            empty_response: true,
            statuses: given.statuses.clone(),
            ..RetryWhen::default()
        },
        budget: given.budget.map_or(NO_RETRIES.budget, |share| share.0),
        ..NO_RETRIES
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "name: a\ndestinations: [{group: x, count: 3, slots: 2}]\nwork: {fixed: 10ms}\n";

    #[test]
    fn a_minimal_file_uses_the_defaults() {
        let scenario = read(MINIMAL).expect("a scenario");
        assert_eq!((scenario.destinations.len(), scenario.balancers), (3, 1));
        assert!((scenario.rate() - 420.0).abs() < 1e-9, "70 % of six slots of 10 ms: {}", scenario.rate());
        let json =
            r#"{"name":"a","destinations":[{"group":"x","count":3,"slots":2}],"work":{"fixed":"10ms"}}"#;
        assert_eq!(read(json), Ok(scenario));
    }

    #[test]
    fn each_mistake_has_its_message() {
        let wrong = |text: &str, with: &str| {
            let why = read(&format!("{MINIMAL}{text}")).expect_err(text);
            assert!(why.contains(with), "{text}: {why}");
        };
        wrong("loda: 1", "loda");
        wrong("load: 0", "above 0, found 0");
        wrong("load: 1e12", "more than");
        wrong("load: 1\nrate: 5/s", "only one");
        wrong("deadline: 5", "unit");
        wrong("balancers: 0", "balancers");
        wrong("algorithms: [fastest]", "round_robin");
        wrong("retry: {attempts: 11}", "attempts");
        wrong("duration: 0s", "duration");
        wrong("hedge: {after: p30}", "p50 to p99.9");
        wrong("hedge: {after: soon}", "duration");
        wrong("hedge: {max: 10}", "hedge.max");
        let about = |destination: &str, with: &str| {
            let text = format!("name: a\nwork: {{fixed: 10ms}}\ndestinations: [{destination}]");
            let why = read(&text).expect_err(destination);
            assert!(why.contains(with), "{destination}: {why}");
        };
        about("", "at least one");
        about("{group: x}", "slots");
        about("{group: x, slots: 1, cores: 1}", "exactly one");
        about("{group: x, slots: 1, count: 99999999}", "more than");
        about("{group: x, slots: 1, faults: [{kind: slow}]}", "factor");
        about("{group: x, slots: 1, faults: [{kind: unresponsive, up: 1s}]}", "does not apply");
        about("{group: x, slots: 1, faults: [{kind: unresponsive, from: 2s, until: 1s}]}", "until");
        about("{group: x, slots: 1, faults: [{kind: sad}]}", "slow");
    }
}
