//! Queries to a running proxy, load reports and acknowledgements of alerts.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use plimsoll_config::model::{ListenAddress, Protocol};
use plimsoll_core::alert::Alert;
use plimsoll_core::measure::{LoadMetric, LoadReport};
use plimsoll_core::pool::Input;
use plimsoll_core::quality::{health_scores, intended_shares};
use plimsoll_core::{Name, Snapshot, Tick};
use tokio::sync::oneshot;

use crate::control::Handle;
use crate::control::prepare::format_address;
use crate::control::views::{
    DestinationView, LimitView, LimitsView, ListenerView, PoolView, RouteView, TrafficView,
};
use crate::health::driver::{DriverCommand, PoolReport};
use crate::listener::tables::ListenerTable;
use crate::upstream::table::PoolTable;

/// Why a load report was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadReportError {
    /// The pool is unknown.
    UnknownPool,
    /// The destination is unknown.
    UnknownDestination,
    /// The value of this metric is out of range.
    InvalidValue(String),
    /// The report has no metric that the pool uses.
    NoKnownMetric,
}

impl fmt::Display for LoadReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPool => f.write_str("unknown pool"),
            Self::UnknownDestination => f.write_str("unknown destination"),
            Self::InvalidValue(metric) => write!(f, "`{metric}`: value out of range"),
            Self::NoKnownMetric => f.write_str("no metric that the pool uses"),
        }
    }
}

impl std::error::Error for LoadReportError {}

impl Handle {
    /// Returns the bound addresses of each listener, with port 0 resolved.
    pub fn addresses(&self) -> Vec<(Name, Vec<ListenAddress>)> {
        let state = self.state();
        let actual = |name: &Name| {
            state.listeners.get(name).map(|l| l.sockets.iter().map(|b| b.actual.clone()).collect())
        };
        state.config.listeners.iter().map(|l| (l.name.clone(), actual(&l.name).unwrap_or_default())).collect()
    }

    /// Returns the state of all pools, in configured order.
    pub async fn pools(&self) -> Vec<PoolView> {
        let pools: Vec<_> = {
            let state = self.state();
            let known = state.config.pools.iter().filter_map(|config| state.pools.get(&config.name));
            known.map(|pool| (pool.table.clone(), pool.commands.clone(), pool.lookups())).collect()
        };
        let mut views = Vec::new();
        for (table, commands, lookups) in pools {
            let (reply, report) = oneshot::channel();
            let _driver_has_ended = commands.send(DriverCommand::Report(reply));
            let view = view_of(&table, report.await.unwrap_or_default(), self.0.clock.now());
            views.push(PoolView { lookups, ..view });
        }
        views
    }

    /// Records a load report of a destination, metric by metric. Metrics are ignored that have no general meaning and that
    /// the pool's formula does not use.
    ///
    /// # Errors
    /// The report was rejected: see [`LoadReportError`].
    pub fn report_load(
        &self,
        pool: &str,
        destination: &str,
        gauges: &[(&str, f64)],
    ) -> Result<(), LoadReportError> {
        let state = self.state();
        let pool = state.pools.get(pool).ok_or(LoadReportError::UnknownPool)?;
        let members = pool.table.snapshots.latest();
        let member = members.members.iter().find(|member| *member.destination.name == *destination);
        let name = member.ok_or(LoadReportError::UnknownDestination)?.destination.name.clone();
        let named = pool.table.config.formula.as_ref().map_or(&[][..], |formula| formula.named());
        let mut report = LoadReport::default();
        for &(metric, value) in gauges {
            let known = LoadMetric::from_name(metric, named);
            if known.is_some_and(|known| !report.set(known, value)) {
                return Err(LoadReportError::InvalidValue(metric.to_owned()));
            }
        }
        if report.is_empty() {
            return Err(LoadReportError::NoKnownMetric);
        }
        let input = Input::LoadReport { name, report: Box::new(report) };
        let _driver_has_ended = pool.commands.send(DriverCommand::Input(Box::new(input)));
        Ok(())
    }

    /// Acknowledges the alert `id` of `pool` in the name of `by`; `None` if it is unknown.
    pub async fn acknowledge(&self, pool: &str, id: u64, by: &str) -> Option<Alert> {
        let commands = self.state().pools.get(pool)?.commands.clone();
        let (reply, acknowledged) = oneshot::channel();
        let _driver_has_ended = commands.send(DriverCommand::Acknowledge { id, by: by.to_owned(), reply });
        acknowledged.await.ok()?
    }

    /// Returns the counters outside pools.
    pub fn traffic(&self) -> TrafficView {
        let state = self.state();
        let protocol = |table: &ListenerTable| match (table.config.protocol, &table.server_tls) {
            (Protocol::Http, None) => "http",
            (Protocol::Http, Some(_)) => "https",
            (Protocol::Tcp, None) => "tcp",
            (Protocol::Tcp, Some(_)) => "tls",
            (protocol, _) => protocol.as_str(),
        };
        let listeners = state.tables.iter().map(|table| ListenerView {
            name: table.config.name.clone(),
            protocol: protocol(table),
            certificates: table.server_tls.as_ref().map_or(Vec::new(), |server_tls| server_tls.expiries()),
            addresses: state.listeners.get(&table.config.name).map_or(Vec::new(), |l| {
                l.sockets.iter().map(|bound| format_address(&bound.actual)).collect()
            }),
            counts: table.shared.counters.counts(),
        });
        let routes = state.tables.iter().flat_map(|table| {
            table.routes.iter().map(move |route| RouteView {
                listener: table.config.name.clone(),
                route: route.name.clone(),
                pool: route.pool.config.name.clone(),
                protocol: protocol(table),
                counts: route.counters.counts(),
            })
        });
        TrafficView {
            listeners: listeners.collect(),
            routes: routes.collect(),
            log_dropped: self.0.log.dropped.load(Relaxed),
            decisions_dropped: self.0.decision_log.dropped.load(Relaxed),
            reloads: state.reloads,
        }
    }
}

fn view_of(table: &PoolTable, mut report: PoolReport, now: Tick) -> PoolView {
    let snapshot = table.snapshots.latest();
    let intended = intended_shares(&snapshot, table.config.algorithm.heeds_weights());
    let mut reports: HashMap<Name, _> =
        report.destinations.into_iter().map(|r| (r.name.clone(), r)).collect();
    let scores = health_scores(&snapshot, now);
    let destinations =
        snapshot.members.iter().zip(intended).zip(scores).map(|((member, intended_share), score)| {
            let d = &member.destination;
            DestinationView {
                name: d.name.clone(),
                address: d.address.to_string(),
                zone: d.zone.clone(),
                labels: d.labels.clone(),
                weight: d.weight.get(),
                effective_weight: member.weight,
                intended_share,
                priority: d.priority,
                status: member.status,
                since: member.since,
                in_flight: member.stats.in_flight(),
                requests: LimitView { current: member.stats.in_flight(), max: member.stats.max_in_flight() },
                connections: member.stats.connections().into(),
                streak: member.stats.streak(),
                traffic_score: score,
                score_errors: member.stats.score_errors(),
                load: member.stats.reported().report(now),
                load_age: member.stats.reported().age(now),
                recent: match report.window.counts.get(&member.id) {
                    Some(before) => member.stats.counts().since(before),
                    // It was added within the window.
                    None => member.stats.counts(),
                },
                counts: member.stats.counts(),
                report: reports.remove(&d.name),
                checks: report.checks.remove(&d.name).unwrap_or_default(),
                transitions: report.transitions.remove(&d.name).unwrap_or_default(),
            }
        });
    PoolView {
        name: snapshot.pool.clone(),
        algorithm: snapshot.algorithm,
        generation: snapshot.generation,
        health: snapshot.health,
        destinations: destinations.collect(),
        check_type: table.config.health.as_ref().map(|spec| spec.probe.as_str()),
        outlier: table.config.outlier,
        hedges: table.config.hedge.is_some(),
        orca: table.config.orca,
        state_since: report.state_since,
        window: now.since(report.window.at),
        counts: table.counters.counts(),
        check_stats: report.check_stats,
        decision_cache: snapshot.key_cache.as_ref().map(|counters| counters.sums()),
        backup_activations: report.backup_activations,
        ejections: report.ejections,
        observed: report.observed,
        limits: limits_view(table, &snapshot),
        lookups: None,
    }
}

fn limits_view(table: &PoolTable, snapshot: &Snapshot) -> LimitsView {
    let limiter = &table.limiter;
    // The limiter counts requests only while the pool has a limit.
    let in_flight = snapshot.members.iter().map(|member| member.stats.in_flight()).sum();
    let limited = snapshot.limiter.is_some();
    let pending =
        LimitView { current: limiter.waiting().current(), max: limiter.waiting().max().filter(|_| limited) };
    LimitsView {
        requests: LimitView { current: in_flight, max: limiter.requests.max() },
        connections: (&limiter.connections).into(),
        pending,
        retries: (&limiter.retries).into(),
        wait: table.config.wait,
    }
}
