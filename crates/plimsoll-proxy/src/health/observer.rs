//! What a driver tells people of its pool: alerts, advice, and how well messages are spread.

use std::collections::HashMap;

use plimsoll_core::alert::flapping::FlapDetector;
use plimsoll_core::alert::recommendation::{DestinationSummary, Recommendation, recommend};
use plimsoll_core::alert::{Alert, AlertKind, Alerts};
use plimsoll_core::event::Event;
use plimsoll_core::pool::{DestinationReport, Pool};
use plimsoll_core::quality::{Accuracy, Quality};
use plimsoll_core::{Name, Tick};

use crate::base::clock::Clock;

/// What is stats of a pool beside its statuses.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportingOptions {
    /// Alerts are raised (`health_monitoring.alerting`).
    pub(crate) alerting: bool,
    /// The quality of balancing is measured (`quality.quality_metrics`).
    pub(crate) quality: bool,
}

/// What was stats, as of now.
#[derive(Clone, Debug, Default)]
pub struct ObserverView {
    /// Alerts that stand, the gravest first, then those that are over, the latest first.
    pub alerts: Vec<Alert>,
    /// Raised since the start, by kind in the order of [`AlertKind::ALL`].
    pub alerts_raised: [u64; AlertKind::ALL.len()],
    /// Active now, by kind in the order of [`AlertKind::ALL`].
    pub alerts_active: [u64; AlertKind::ALL.len()],
    /// Alerts that were not raised, because too many stood.
    pub alerts_lost: u64,
    /// Destinations that deserve ejection are kept, because too few others would be left.
    pub panics: bool,
    /// Who went out more than once lately: whose recovery did not last.
    pub relapsed: Vec<Name>,
    /// What could be better about the pool's health.
    pub advice: Vec<Recommendation>,
    /// How well messages were spread; `None` where that is not measured, or nothing was sent.
    pub accuracy: Option<Accuracy>,
}

/// One pool, stats.
#[derive(Debug)]
pub(crate) struct PoolObserver {
    options: ReportingOptions,
    alerts: Alerts,
    flaps: FlapDetector,
    quality: Option<Quality>,
}

impl PoolObserver {
    /// Numbers of alerts go on from the wall's milliseconds, so those of another start are others.
    pub(crate) fn new(pool: Name, options: ReportingOptions, clock: Clock) -> Self {
        let alerts = Alerts::new(pool, clock.unix_millis(clock.now()));
        Self {
            options,
            alerts,
            flaps: FlapDetector::default(),
            quality: options.quality.then(Quality::default),
        }
    }

    /// Watches other things from now on; what is stats no longer is forgotten.
    pub(crate) fn set_options(&mut self, now: Tick, options: ReportingOptions) {
        if !options.alerting {
            self.alerts.clear_all(now);
        }
        if !options.quality {
            self.quality = None;
        } else if self.quality.is_none() {
            self.quality = Some(Quality::default());
        }
        self.options = options;
        self.log_changes();
    }

    pub(crate) fn on_event(&mut self, now: Tick, event: &Event, pool: &Pool) {
        self.flaps.on_event(now, event);
        if self.options.alerting {
            self.alerts.on_event(now, event, pool.spec());
        }
    }

    /// Looks at the pool as it is, after a round of events and each second.
    pub(crate) fn evaluate(&mut self, now: Tick, pool: &Pool) {
        if let Some(quality) = &mut self.quality {
            quality.handle_timeout(now, pool.snapshot(), pool.spec().algorithm.heeds_weights());
        }
        if self.options.alerting {
            self.alerts.evaluate(now, pool.snapshot(), pool.spec(), pool.is_in_panic(now), &self.flaps);
            self.log_changes();
        }
    }

    /// Every alert that was raised or cleared, as a line of the log.
    fn log_changes(&mut self) {
        while let Some(alert) = self.alerts.poll_change() {
            let (kind, severity) = (alert.kind.as_str(), alert.kind.severity().as_str());
            let (id, subject, message) = (alert.id, &alert.subject, &alert.message);
            match alert.cleared_at {
                None => tracing::warn!(event = "alert_raised", id, kind, severity, %subject, "{message}"),
                Some(_) => {
                    tracing::info!(event = "alert_cleared", id, kind, severity, %subject, "over: {message}")
                }
            }
        }
    }

    pub(crate) fn acknowledge(&mut self, id: u64, by: &str) -> Option<Alert> {
        let known = self.alerts.acknowledge(id, by).cloned()?;
        tracing::info!(event = "alert_acknowledged", id, by, kind = known.kind.as_str(), "{}", known.message);
        Some(known)
    }

    pub(crate) fn report(&self, now: Tick, pool: &Pool, reports: &[DestinationReport]) -> ObserverView {
        ObserverView {
            alerts: self.alerts.all().cloned().collect(),
            alerts_raised: *self.alerts.raised(),
            alerts_active: self.alerts.active(),
            alerts_lost: self.alerts.lost(),
            panics: pool.is_in_panic(now),
            relapsed: self.flaps.repeated_failures(now).collect(),
            advice: recommend(now, &subjects(pool, reports), pool.spec().health.as_ref(), &self.flaps),
            accuracy: self.quality.as_ref().and_then(Quality::last),
        }
    }
}

fn subjects(pool: &Pool, reports: &[DestinationReport]) -> Vec<DestinationSummary> {
    let members: HashMap<_, _> = pool.snapshot().members.iter().map(|member| (member.id, member)).collect();
    let subject = |report: &DestinationReport| {
        let member = members.get(&report.id)?;
        let counts = member.stats.counts();
        let all = counts.answered() + counts.failed();
        Some(DestinationSummary {
            name: report.name.clone(),
            address: report.address.clone(),
            zone: member.destination.zone.clone(),
            priority: report.priority,
            weight: report.weight.get(),
            status: report.status,
            since: report.since,
            last_check: report.last_check.clone(),
            failed_checks: report.consecutive_failures,
            traffic: (all, counts.answered() - counts.classes[5]),
        })
    };
    reports.iter().filter_map(subject).collect()
}
