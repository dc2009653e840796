//! Recommendations about the health of a pool, each with its evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::alert::flapping::{FLAPPING_AT, FlapDetector};
use crate::destination::{Address, Name, Status};
use crate::health::{HealthSpec, LastCheck, ProbeKind};
use crate::time::Tick;

/// Time out of service after which a destination is not expected to recover by itself.
const OUT_OF_SERVICE_FOR: Duration = Duration::from_secs(600);
/// Minimum number of responses for a share of good ones.
const MIN_RESPONSES: u64 = 20;
/// Share of good responses from which a destination counts as working.
const GOOD_SHARE: f64 = 0.95;
/// Share of the time limit above which a health check is nearly late.
const NEARLY_LATE: f64 = 0.5;

/// A recommendation to the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    /// Identifier, the same for the same matter.
    pub id: String,
    /// Kind of the recommendation.
    pub kind: &'static str,
    /// Name of what the recommendation is about.
    pub subject: Name,
    /// Description of the recommended action.
    pub message: String,
    /// Observations that led to it.
    pub evidence: Vec<String>,
    /// Expected effect of the action.
    pub expected_effect: String,
    /// Confidence, 0 to 1.
    pub confidence: f64,
    /// Command that applies or shows it.
    pub command: Option<String>,
}

/// State of a destination, as recommendations need it.
#[derive(Clone, Debug)]
pub struct DestinationSummary {
    /// Name of the destination.
    pub name: Name,
    /// Address of the destination.
    pub address: Address,
    /// Zone of the destination.
    pub zone: Option<Name>,
    /// Priority; 0 is the first tier.
    pub priority: u8,
    /// Configured base weight.
    pub weight: u16,
    /// Current status of the destination.
    pub status: Status,
    /// Time of the last change of status.
    pub since: Tick,
    /// Result of the last health check.
    pub last_check: Option<LastCheck>,
    /// Number of consecutive failed checks.
    pub failed_checks: u32,
    /// Number of outcomes of real traffic, and of the good ones among them (responses without 5xx).
    pub traffic: (u64, u64),
}

impl DestinationSummary {
    fn is_out(&self) -> bool {
        matches!(self.status, Status::Down | Status::Ejected { .. })
    }

    fn good_share(&self) -> Option<f64> {
        let (all, good) = self.traffic;
        (all >= MIN_RESPONSES).then(|| good as f64 / all as f64)
    }
}

/// Returns the recommendations for a pool of `subjects` with these health checks.
pub fn recommend(
    now: Tick,
    subjects: &[DestinationSummary],
    health: Option<&HealthSpec>,
    flaps: &FlapDetector,
) -> Vec<Recommendation> {
    let mut found: Vec<Recommendation> = Vec::new();
    let wrong = health.and_then(|health| check_is_wrong(subjects, health));
    let all_alike = wrong.is_some();
    found.extend(wrong);
    found.extend(zones_out(subjects));
    for subject in subjects {
        if let Some(health) = health {
            found.extend(flapping(now, subject, health, flaps));
            found.extend(check_disagrees(subject).filter(|_| !all_alike));
            found.extend(check_nearly_late(subject, health));
        }
        found.extend(dead_weight(now, subject, subjects));
    }
    found.extend(no_redundancy(subjects));
    found
}

/// Recommends to correct the check if all destinations fail it with the same response.
fn check_is_wrong(subjects: &[DestinationSummary], health: &HealthSpec) -> Option<Recommendation> {
    let ProbeKind::Http { path, .. } = &health.probe else { return None };
    let refusal = |subject: &DestinationSummary| {
        let status = subject.last_check.as_ref()?.failure.as_ref()?.status?;
        (400..500).contains(&status).then_some(status)
    };
    let first = subjects.first()?;
    let status = refusal(first)?;
    if !subjects.iter().all(|subject| refusal(subject) == Some(status)) {
        return None;
    }
    let count = subjects.len();
    Some(Recommendation {
        id: "check_wrong:health_monitoring".into(),
        kind: "check_wrong",
        subject: "health_monitoring".into(),
        message: "Correct `path` or `expect_status` of the checks.".into(),
        evidence: vec![format!(
            "all {count} destinations respond {status} to a check of {path}: they run, but the check expects something else"
        )],
        expected_effect: "working destinations serve again".into(),
        confidence: succession(count as u64, count as u64),
        command: match &first.address {
            Address::Socket(address) => Some(format!("curl -i http://{address}{path}")),
            Address::Unix(socket) => {
                Some(format!("curl -i --unix-socket {} http://localhost{path}", socket.display()))
            }
            Address::Unresolved { .. } => None,
        },
    })
}

/// Recommends to look at the check of a destination that fails it while its messages succeed.
fn check_disagrees(subject: &DestinationSummary) -> Option<Recommendation> {
    let last = subject.last_check.as_ref().filter(|last| !last.ok)?;
    let good = subject.good_share().filter(|share| *share >= GOOD_SHARE)?;
    let name = &subject.name;
    Some(Recommendation {
        id: format!("check_disagrees:{name}"),
        kind: "check_disagrees",
        subject: name.clone(),
        message: format!("Check what the health checks of `{name}` request: its messages succeed."),
        evidence: vec![
            format!("{} checks failed in a row, last: {}", subject.failed_checks, last.detail()),
            format!("{:.1} % of {} messages succeeded", good * 100.0, subject.traffic.0),
        ],
        expected_effect: "a working destination is not taken out of service".into(),
        confidence: 0.6,
        command: None,
    })
}

/// Recommends a higher recovery threshold for a flapping destination.
fn flapping(
    now: Tick,
    subject: &DestinationSummary,
    health: &HealthSpec,
    flaps: &FlapDetector,
) -> Option<Recommendation> {
    let count = flaps.recent(&subject.name, now);
    if count < FLAPPING_AT {
        return None;
    }
    let (name, have) = (&subject.name, health.recovery_threshold);
    let want = have.saturating_mul(2).clamp(3, 256);
    Some(Recommendation {
        id: format!("flapping:{name}"),
        kind: "flapping",
        subject: name.clone(),
        message: format!(
            "Raise `recovery_threshold` from {have} to {want}, or find out what fails at `{name}`."
        ),
        evidence: vec![format!(
            "at least {count} failures within {} minutes, each followed by a recovery after {have} passed checks",
            FlapDetector::WINDOW.as_secs() / 60
        )],
        expected_effect: format!(
            "it serves only after {want} consecutive passed checks, so fewer messages are sent to it while it fails"
        ),
        confidence: succession(count as u64, count as u64 + 1),
        command: None,
    })
}

/// Recommends a longer time limit for checks that barely pass.
fn check_nearly_late(subject: &DestinationSummary, health: &HealthSpec) -> Option<Recommendation> {
    let latency = subject.last_check.as_ref()?.latency?;
    if latency.as_secs_f64() < health.timeout.as_secs_f64() * NEARLY_LATE {
        return None;
    }
    let (name, limit) = (&subject.name, health.timeout.as_millis());
    Some(Recommendation {
        id: format!("check_nearly_late:{name}"),
        kind: "check_nearly_late",
        subject: name.clone(),
        message: "Raise `health_monitoring.timeout`, or let the checks request something cheaper.".into(),
        evidence: vec![format!("its last check took {} ms of {limit} ms", latency.as_millis())],
        expected_effect: "a temporarily slow destination is not taken for a failed one".into(),
        confidence: 0.5,
        command: None,
    })
}

/// Recommends to repair or remove a destination that is out of service for long.
fn dead_weight(
    now: Tick,
    subject: &DestinationSummary,
    all: &[DestinationSummary],
) -> Option<Recommendation> {
    let out_for = now.since(subject.since);
    if !subject.is_out() || subject.weight == 0 || out_for < OUT_OF_SERVICE_FOR {
        return None;
    }
    let tier = || all.iter().filter(|other| other.priority == subject.priority);
    let whole: u64 = tier().map(|other| u64::from(other.weight)).sum();
    let (name, weight) = (&subject.name, subject.weight);
    Some(Recommendation {
        id: format!("dead_weight:{name}"),
        kind: "dead_weight",
        subject: name.clone(),
        message: format!("Repair `{name}`, or remove it from the configuration."),
        evidence: vec![
            format!("{} for {} minutes", subject.status.as_str(), out_for.as_secs() / 60),
            format!("its weight is {weight} of {whole} in its tier, and the other destinations carry it"),
        ],
        expected_effect: "the capacity of the pool is the configured one".into(),
        confidence: 0.9,
        command: None,
    })
}

/// Recommends to look at a zone of which all destinations, and only those, are out of service.
fn zones_out(subjects: &[DestinationSummary]) -> Vec<Recommendation> {
    let mut zones: BTreeMap<&Name, (u64, u64)> = BTreeMap::new();
    for subject in subjects {
        if let Some(zone) = &subject.zone {
            let (out, all) = zones.entry(zone).or_default();
            (*out, *all) = (*out + u64::from(subject.is_out()), *all + 1);
        }
    }
    if zones.values().all(|(out, all)| out == all) {
        return Vec::new();
    }
    let whole = zones.into_iter().filter(|&(_, (out, all))| all > 1 && out == all);
    whole
        .map(|(zone, (out, all))| Recommendation {
            id: format!("zone_out:{zone}"),
            kind: "zone_out",
            subject: zone.clone(),
            message: format!(
                "Check what the destinations of zone `{zone}` share: network, power, a deployment."
            ),
            evidence: vec![format!(
                "all {all} destinations of the zone are out of service, and those of other zones are not"
            )],
            expected_effect: "one repair restores all of them".into(),
            confidence: succession(out, all),
            command: None,
        })
        .collect()
}

/// Recommends a second destination where there is only one.
fn no_redundancy(subjects: &[DestinationSummary]) -> Option<Recommendation> {
    let mut usable = subjects.iter().filter(|subject| subject.weight > 0);
    let name = usable.next()?.name.clone();
    usable.next().is_none().then(|| Recommendation {
        id: format!("no_redundancy:{name}"),
        kind: "no_redundancy",
        subject: name.clone(),
        message: "Add a second destination, if only as a backup tier (priority 1).".into(),
        evidence: vec![format!("`{name}` is the only destination that receives messages")],
        expected_effect: "the failure of one destination is no longer that of the pool".into(),
        confidence: 1.0,
        command: None,
    })
}

/// Returns the probability by Laplace's rule of succession, after `seen` of `all` cases.
fn succession(seen: u64, all: u64) -> f64 {
    (seen + 1) as f64 / (all + 2) as f64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Event, Reason};
    use crate::health::CheckFailure;

    fn subject(name: &str, zone: &str, status: Status) -> DestinationSummary {
        DestinationSummary {
            name: name.into(),
            address: Address::Socket(([10, 0, 0, 1], 80).into()),
            zone: Some(zone.into()),
            priority: 0,
            weight: 1,
            status,
            since: Tick::ZERO,
            last_check: None,
            failed_checks: 0,
            traffic: (0, 0),
        }
    }

    fn spec() -> HealthSpec {
        HealthSpec {
            check_interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
            recovery_threshold: 2,
            probe: ProbeKind::Http {
                method: "GET".into(),
                path: "/healthz".into(),
                host: None,
                expect: Arc::new([(200, 399)]),
                headers: Arc::new([]),
                body: None,
            },
            probe_if_unresponsive: None,
            port: None,
            schedule: Default::default(),
        }
    }

    fn failed(status: u16) -> Option<LastCheck> {
        let failure = Some(CheckFailure::http_status(status));
        Some(LastCheck { at: Tick::ZERO, ok: false, latency: None, failure })
    }

    fn check(
        now: Tick,
        subjects: &[DestinationSummary],
        flaps: &FlapDetector,
        expected: &[&str],
    ) -> Vec<Recommendation> {
        let found = recommend(now, subjects, Some(&spec()), flaps);
        let ids: Vec<&str> = found.iter().map(|one| &*one.id).collect();
        assert_eq!(ids, expected);
        assert!(found.iter().all(|one| !one.evidence.is_empty() && (0.0..=1.0).contains(&one.confidence)));
        found
    }

    #[test]
    fn a_healthy_pool_has_no_recommendations_and_a_single_destination_one() {
        let (a, b) = (subject("a", "x", Status::Serving), subject("b", "y", Status::Serving));
        check(Tick::ZERO, &[a.clone(), b], &FlapDetector::default(), &[]);
        check(Tick::ZERO, &[a], &FlapDetector::default(), &["no_redundancy:a"]);
        assert_eq!(recommend(Tick::ZERO, &[], None, &FlapDetector::default()), []);
    }

    #[test]
    fn a_failed_zone_is_one_recommendation_if_others_serve() {
        let out = |name| subject(name, "x", Status::Down);
        let (b, c) = (subject("b", "y", Status::Serving), subject("c", "y", Status::Down));
        check(
            Tick::ZERO,
            &[out("a"), out("d"), b.clone(), c.clone()],
            &FlapDetector::default(),
            &["zone_out:x"],
        );
        check(Tick::ZERO, &[out("a"), out("d"), c], &FlapDetector::default(), &[]);
        check(Tick::ZERO, &[out("a"), b], &FlapDetector::default(), &[]);
    }

    #[test]
    fn checks_that_disagree_with_traffic_and_wrong_checks_are_found() {
        let failing = |name: &str, status, traffic| DestinationSummary {
            last_check: failed(status),
            failed_checks: 4,
            traffic,
            ..subject(name, "x", Status::Down)
        };
        let well = subject("w", "y", Status::Serving);
        let good = failing("a", 503, (100, 99));
        check(Tick::ZERO, &[good, well.clone()], &FlapDetector::default(), &["check_disagrees:a"]);
        let bad = failing("a", 503, (100, 90));
        check(Tick::ZERO, &[bad, well.clone()], &FlapDetector::default(), &[]);
        let few = failing("a", 503, (19, 19));
        check(Tick::ZERO, &[few, well], &FlapDetector::default(), &[]);
        let alike = [failing("a", 404, (0, 0)), failing("b", 404, (0, 0))];
        let found = check(Tick::ZERO, &alike, &FlapDetector::default(), &["check_wrong:health_monitoring"]);
        assert_eq!(found[0].command.as_deref(), Some("curl -i http://10.0.0.1:80/healthz"));
        let apart = [failing("a", 404, (0, 0)), failing("b", 403, (0, 0))];
        check(Tick::ZERO, &apart, &FlapDetector::default(), &[]);
    }

    #[test]
    fn a_destination_out_of_service_for_ten_minutes_is_dead_weight() {
        let (down, up) = (subject("a", "x", Status::Down), subject("b", "y", Status::Serving));
        let at = |seconds| Tick::ZERO + Duration::from_secs(seconds);
        check(at(599), &[down.clone(), up.clone()], &FlapDetector::default(), &[]);
        check(at(600), &[down, up], &FlapDetector::default(), &["dead_weight:a"]);
    }

    #[test]
    fn three_failures_in_five_minutes_are_flapping_and_a_slow_check_is_nearly_late() {
        let mut flaps = FlapDetector::default();
        let failure = Event::StatusChanged {
            pool: "p".into(),
            destination: "a".into(),
            from: Status::Serving,
            to: Status::Down,
            reason: Reason::ChecksFailed { count: 3, failure: None },
        };
        let at = |seconds| Tick::ZERO + Duration::from_secs(seconds);
        let slow =
            LastCheck { at: Tick::ZERO, ok: true, latency: Some(Duration::from_millis(500)), failure: None };
        let both = [
            subject("a", "x", Status::Serving),
            DestinationSummary { last_check: Some(slow), ..subject("b", "y", Status::Serving) },
        ];
        for seconds in [0, 100, 200] {
            flaps.on_event(at(seconds), &failure);
        }
        let found = check(at(299), &both, &flaps, &["flapping:a", "check_nearly_late:b"]);
        assert!(found[0].message.contains("from 2 to 4"), "{}", found[0].message);
        check(at(300), &both, &flaps, &["check_nearly_late:b"]);
    }
}
