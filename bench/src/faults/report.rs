//! Tables, ratios and JSON from the results of all seeds.

use std::time::Duration;

use serde_json::{Value, json};

use super::fault_schedule::Case;
use super::open_loop_client::ClientStats;
use super::proxy_policy::ProxyPolicy;

/// One proxy with one seed.
pub(super) struct Round {
    pub(super) stats: ClientStats,
    /// Messages that arrived at destinations, and those of them that were given up.
    pub(super) arrived: u64,
    pub(super) given_up: u64,
    /// Share of the machine's time taken by the hypervisor.
    pub(super) steal: f64,
    /// CPUs used by other processes.
    pub(super) others: f64,
}

impl Round {
    fn errors(&self) -> u64 {
        self.stats.errors.status + self.stats.errors.broken + self.stats.errors.missing
    }
}

/// One proxy in one case, with all seeds.
pub(super) struct Row {
    pub(super) proxy: ProxyPolicy,
    pub(super) rounds: Vec<Round>,
}

/// CPUs used by other processes above which a round is marked as doubtful.
const OTHERS: f64 = 0.1;
/// Delay of the client above which a round measured the host rather than the proxy.
const LATE: Duration = Duration::from_millis(5);

impl Row {
    /// Returns the latency that `share` (0 to 1) of all messages of all seeds did not exceed.
    fn quantile(&self, share: f64) -> Duration {
        quantile(self.rounds.iter().flat_map(|round| round.stats.latencies.iter().copied()).collect(), share)
    }

    fn of_each_seed(&self, share: f64) -> Vec<f64> {
        self.rounds.iter().map(|round| ms(quantile(round.stats.latencies.clone(), share))).collect()
    }

    fn sum(&self, of: impl Fn(&Round) -> u64) -> u64 {
        self.rounds.iter().map(of).sum()
    }

    fn errors(&self) -> u64 {
        self.sum(Round::errors)
    }

    /// Returns how many more messages arrived at destinations than clients sent, as a share.
    fn extra(&self) -> f64 {
        let good = self.sum(|round| round.stats.responses_by.iter().sum());
        self.sum(|round| round.arrived) as f64 / (good + self.errors()).max(1) as f64 - 1.0
    }

    fn latest_send(&self) -> Duration {
        self.rounds.iter().map(|round| round.stats.latest_send).max().unwrap_or_default()
    }
}

/// Quantile that a case is compared by.
fn share(case: Case) -> (f64, &'static str) {
    if case == Case::Stall { (0.999, "p99.9") } else { (0.99, "p99") }
}

/// Lowest value of a competitor that sends no hedged requests.
fn best(rows: &[Row], share: f64) -> Option<(&Row, f64)> {
    let competitors = rows.iter().filter(|row| row.proxy.is_competitor() && !row.proxy.hedges());
    let values = competitors.filter(|row| !row.rounds.is_empty()).map(|row| (row, ms(row.quantile(share))));
    values.min_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// Returns the markdown table of one case.
pub(super) fn table(case: Case, rows: &[Row]) -> String {
    let (share, word) = share(case);
    let best = best(rows, share);
    let mut text = format!(
        "## {}\n\n{}; compared by {word}.\n\n| proxy | p50 | p90 | p99 | p99.9 | max | {word} by seed | to the best proxy | errors by seed | extra |\n\
         |---|---:|---:|---:|---:|---:|---|---:|---|---:|\n",
        case.name(),
        case.about(),
    );
    for row in rows.iter().filter(|row| !row.rounds.is_empty()) {
        let at = |share| format!("{:.1}", ms(row.quantile(share)));
        let seeds: Vec<String> = row.of_each_seed(share).iter().map(|value| format!("{value:.1}")).collect();
        let errors: Vec<String> = row.rounds.iter().map(|round| round.errors().to_string()).collect();
        let ratio =
            best.map_or("–".to_owned(), |(_, best)| format!("**{:.3}**", ms(row.quantile(share)) / best));
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {ratio} | {} | {:.2} % |\n",
            row.proxy.name(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0),
            seeds.join(" "),
            errors.join(" "),
            row.extra() * 100.0,
        );
    }
    text + &remarks(rows)
}

/// Returns the reasons to doubt a row.
fn remarks(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| !row.rounds.is_empty()) {
        if row.latest_send() > LATE {
            let late = ms(row.latest_send());
            text += &format!("\n- {}: the client sent up to {late:.1} ms late", row.proxy.name());
        }
        let steal = row.rounds.iter().map(|round| round.steal).fold(0.0, f64::max);
        if steal > 0.01 {
            text += &format!("\n- {}: the hypervisor used {:.1} %", row.proxy.name(), steal * 100.0);
        }
        let others = row.rounds.iter().map(|round| round.others).fold(0.0, f64::max);
        if others > OTHERS {
            text += &format!("\n- {}: other processes used up to {others:.2} CPUs", row.proxy.name());
        }
    }
    if text.is_empty() { text } else { text + "\n" }
}

/// Returns the results of one case as JSON.
pub(super) fn json(case: Case, rows: &[Row]) -> Value {
    let (share, word) = share(case);
    let best = best(rows, share);
    let rows = rows.iter().filter(|row| !row.rounds.is_empty()).map(|row| {
        let value = ms(row.quantile(share));
        json!({
            "proxy": row.proxy.name(),
            "p50": ms(row.quantile(0.5)), "p90": ms(row.quantile(0.9)), "p99": ms(row.quantile(0.99)),
            "p99_9": ms(row.quantile(0.999)), "max": ms(row.quantile(1.0)),
            "by_seed": row.of_each_seed(share),
            "ratio": best.map(|(_, best)| value / best),
            "errors": row.errors(),
            "errors_by_seed": row.rounds.iter().map(Round::errors).collect::<Vec<_>>(),
            "errors_by_status": row.sum(|round| round.stats.errors.status),
            "missing": row.sum(|round| round.stats.errors.missing),
            "extra": row.extra(),
            "given_up": row.sum(|round| round.given_up),
            "responses_by": row.rounds.iter().map(|round| &round.stats.responses_by).collect::<Vec<_>>(),
            "connections": row.rounds.iter().map(|round| round.stats.connections).max(),
            "latest_send": ms(row.latest_send()),
            "others": row.rounds.iter().map(|round| round.others).collect::<Vec<_>>(),
        })
    });
    json!({
        "case": case.name(), "about": case.about(), "compared_by": word, "unit": "ms",
        "best_competitor": best.map(|(row, _)| row.proxy.name()),
        "rows": rows.collect::<Vec<_>>(),
    })
}

/// Exact quantile of all latencies.
fn quantile(mut latencies: Vec<Duration>, share: f64) -> Duration {
    let rank = ((latencies.len() as f64 * share).ceil() as usize).clamp(1, latencies.len().max(1)) - 1;
    match latencies.is_empty() {
        true => Duration::ZERO,
        false => *latencies.select_nth_unstable(rank).1,
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(proxy: &str, millis: u64) -> Row {
        let latencies = (1..=100).map(|rank| Duration::from_millis(rank * millis)).collect();
        let stats = ClientStats { latencies, responses_by: vec![95], ..ClientStats::default() };
        let proxy = ProxyPolicy::parse(proxy).expect("known");
        Row { proxy, rounds: vec![Round { stats, arrived: 100, given_up: 0, steal: 0.0, others: 0.0 }] }
    }

    #[test]
    fn the_ratio_is_to_the_best_competitor_that_does_not_hedge() {
        let rows = [row("plimsoll", 9), row("nginx", 10), row("envoy", 12), row("envoy:hedge", 5)];
        let json = json(Case::Slow, &rows);
        assert_eq!(json["best_competitor"], "nginx least_conn");
        assert_eq!(json["rows"][0]["p99"], 891.0);
        assert_eq!(json["rows"][0]["ratio"], 0.9);
        assert!((rows[0].extra() - 5.0 / 95.0).abs() < 1e-9);
        assert!(table(Case::Slow, &rows).contains("**0.900**"));
    }
}
