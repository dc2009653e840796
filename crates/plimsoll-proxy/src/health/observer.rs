//! Alerts, recommendations and balancing quality of a pool.

use std::collections::HashMap;

use plimsoll_core::alert::flapping::FlapDetector;
use plimsoll_core::alert::recommendation::{DestinationSummary, Recommendation, recommend};
use plimsoll_core::alert::{Alert, AlertKind, Alerts, Severity};
use plimsoll_core::event::Event;
use plimsoll_core::pool::{DestinationReport, Pool};
use plimsoll_core::quality::{Accuracy, Quality};
use plimsoll_core::{Name, Status, Tick};

use crate::base::clock::Clock;

/// Options of what is reported about a pool beside its status.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportingOptions {
    /// Whether alerts are raised (`health_monitoring.alerting`).
    pub(crate) alerting: bool,
    /// Whether the quality of balancing is measured (`quality.quality_metrics`).
    pub(crate) quality: bool,
}

/// Alerts, recommendations and balancing quality of a pool, as of now.
#[derive(Clone, Debug, Default)]
pub struct ObserverView {
    /// Active alerts, the most severe first, then cleared ones, the latest first.
    pub alerts: Vec<Alert>,
    /// Alerts raised since the start, by kind in the order of [`AlertKind::ALL`].
    pub alerts_raised: [u64; AlertKind::ALL.len()],
    /// Active alerts, by kind in the order of [`AlertKind::ALL`].
    pub alerts_active: [u64; AlertKind::ALL.len()],
    /// Alerts that were not raised because too many were active.
    pub alerts_lost: u64,
    /// Whether the pool is in panic mode: ejections are suspended because too few destinations are left.
    pub panics: bool,
    /// Destinations that recently failed again after a recovery.
    pub relapsed: Vec<Name>,
    /// Recommendations about the pool's health.
    pub advice: Vec<Recommendation>,
    /// Balancing quality; `None` if it is not measured or no request was sent.
    pub accuracy: Option<Accuracy>,
}

/// Observer of one pool's events.
#[derive(Debug)]
pub(crate) struct PoolObserver {
    options: ReportingOptions,
    alerts: Alerts,
    flaps: FlapDetector,
    quality: Option<Quality>,
}

impl PoolObserver {
    /// Creates an observer. Alert ids start at the wall clock's milliseconds, so they are unique over restarts.
    pub(crate) fn new(pool: Name, options: ReportingOptions, clock: Clock) -> Self {
        let alerts = Alerts::new(pool, clock.unix_millis(clock.now()));
        Self {
            options,
            alerts,
            flaps: FlapDetector::default(),
            quality: options.quality.then(Quality::default),
        }
    }

    /// Changes what is reported and drops the state of what is no longer reported.
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

    /// Handles an event of the pool.
    pub(crate) fn on_event(&mut self, now: Tick, event: &Event, pool: &Pool) {
        self.flaps.on_event(now, event);
        if self.options.alerting {
            self.alerts.on_event(now, event, pool.spec());
        }
    }

    /// Evaluates the state of the pool, after each batch of events and once per second.
    pub(crate) fn evaluate(&mut self, now: Tick, pool: &Pool) {
        if let Some(quality) = &mut self.quality {
            quality.handle_timeout(now, pool.snapshot(), pool.spec().algorithm.heeds_weights());
        }
        if self.options.alerting {
            self.alerts.evaluate(now, pool.snapshot(), pool.spec(), pool.is_in_panic(now), &self.flaps);
            self.log_changes();
        }
    }

    /// Logs each alert that was raised or cleared.
    fn log_changes(&mut self) {
        while let Some(alert) = self.alerts.poll_change() {
            let (kind, severity) = (alert.kind.as_str(), alert.kind.severity().as_str());
            let (id, subject, message) = (alert.id, &alert.subject, &alert.message);
            match alert.cleared_at {
                None if alert.kind.severity() == Severity::Critical => {
                    tracing::error!(event = "alert_raised", id, kind, severity, %subject, "{message}")
                }
                None => tracing::warn!(event = "alert_raised", id, kind, severity, %subject, "{message}"),
                Some(_) => {
                    tracing::info!(event = "alert_cleared", id, kind, severity, %subject, "cleared: {message}")
                }
            }
        }
    }

    /// Acknowledges an alert; `None` if it is unknown.
    pub(crate) fn acknowledge(&mut self, id: u64, by: &str) -> Option<Alert> {
        let known = self.alerts.acknowledge(id, by).cloned()?;
        tracing::info!(event = "alert_acknowledged", id, by, kind = known.kind.as_str(), "{}", known.message);
        Some(known)
    }

    /// Returns the current report.
    pub(crate) fn report(&mut self, now: Tick, pool: &Pool, reports: &[DestinationReport]) -> ObserverView {
        for report in reports.iter().filter(|report| report.status == Status::Down) {
            let detail = report.last_check.as_ref().map_or("", |check| check.detail());
            self.alerts.update_failed_checks(&report.name, report.consecutive_failures, detail);
        }
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
