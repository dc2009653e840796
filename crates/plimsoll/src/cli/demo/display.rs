//! The demo's output: a table that is redrawn on a terminal, one line per second elsewhere.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use plimsoll_proxy::{DestinationView, PoolView};

use super::super::terminal::table;
use super::client_stats::ClientStats;

/// The output, with what is needed to redraw it.
#[derive(Debug)]
pub(crate) struct Dashboard {
    /// Whether the table is redrawn in place.
    redraws: bool,
    /// Number of lines drawn last.
    drawn: usize,
    /// Requests of each destination when it was drawn last.
    previous: HashMap<String, u64>,
}

impl Dashboard {
    /// Creates a dashboard that redraws its table in place, or prints lines.
    pub(crate) fn new(redraws: bool) -> Self {
        Self { redraws, drawn: 0, previous: HashMap::new() }
    }

    /// Returns the text to print for the last second.
    pub(crate) fn draw(
        &mut self,
        pools: &[PoolView],
        second: u64,
        recent_clients: &ClientStats,
        total: &ClientStats,
    ) -> String {
        let destinations: Vec<&DestinationView> = pools.iter().flat_map(|pool| &pool.destinations).collect();
        let recent: Vec<u64> = destinations
            .iter()
            .map(|d| {
                let previous = self.previous.insert(d.name.to_string(), d.counts.started);
                d.counts.started - previous.unwrap_or(0)
            })
            .collect();
        if !self.redraws {
            return format_line(&destinations, &recent, second, recent_clients, total);
        }
        let text = format_table(&destinations, &recent, recent_clients, total);
        // Cursor to the first line drawn last, then clear to the end of the screen.
        let clear = if self.drawn > 0 { format!("\x1b[{}F\x1b[J", self.drawn) } else { String::new() };
        self.drawn = text.lines().count();
        clear + &text
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        whole => format!("{:.1}%", part as f64 * 100.0 / whole as f64),
    }
}

fn millis(duration: Option<Duration>) -> String {
    duration.map_or("-".to_owned(), |duration| format!("{:.1}", duration.as_secs_f64() * 1e3))
}

/// Describes the clients' view in one line.
fn client_summary(recent_clients: &ClientStats, total: &ClientStats) -> String {
    format!(
        "{} requests/s, p50 {} ms, p99 {} ms, client errors: {}",
        recent_clients.succeeded + recent_clients.failed,
        millis(recent_clients.quantile(0.5)),
        millis(recent_clients.quantile(0.99)),
        total.failed,
    )
}

fn format_table(
    destinations: &[&DestinationView],
    recent: &[u64],
    recent_clients: &ClientStats,
    total: &ClientStats,
) -> String {
    let all: u64 = recent.iter().sum();
    let head = ["DESTINATION", "STATUS", "SHARE", "REQUESTS/S", "IN FLIGHT", "MEAN MS", "REQUESTS", "ERRORS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (d, &count) in destinations.iter().zip(recent) {
        rows.push(vec![
            d.name.to_string(),
            d.status.as_str().to_owned(),
            percent(count, all),
            count.to_string(),
            d.in_flight.to_string(),
            millis(d.counts.mean_first_byte()),
            d.counts.started.to_string(),
            d.counts.failed().to_string(),
        ]);
    }
    let lines = table(&rows);
    let mut lines = lines.lines();
    let mut out = format!("{}\n", lines.next().unwrap_or_default());
    for (line, d) in lines.zip(destinations) {
        // Green: serving. Red: not serving.
        let colour = if d.status.serves() { 32 } else { 31 };
        let _never_fails = writeln!(out, "\x1b[{colour}m{line}\x1b[0m");
    }
    out + &format!("\nclients  {}\n         ctrl-c stops the demo\n", client_summary(recent_clients, total))
}

fn format_line(
    destinations: &[&DestinationView],
    recent: &[u64],
    second: u64,
    recent_clients: &ClientStats,
    total: &ClientStats,
) -> String {
    let all: u64 = recent.iter().sum();
    let each = destinations.iter().zip(recent).map(|(d, &count)| match d.status.serves() {
        true => format!("{} {}", d.name, percent(count, all)),
        false => format!("{} {} ({})", d.name, percent(count, all), d.status.as_str()),
    });
    format!(
        "{second:>3}s  {}  |  {}\n",
        each.collect::<Vec<_>>().join("  "),
        client_summary(recent_clients, total)
    )
}

/// Returns the summary printed at the end.
pub(crate) fn summary(pools: &[PoolView], total: &ClientStats) -> String {
    let mut rows = vec![
        ["DESTINATION", "REQUESTS", "SHARE", "MEAN MS", "ERRORS", "CHANGES"].map(str::to_owned).to_vec(),
    ];
    for pool in pools {
        for d in &pool.destinations {
            rows.push(vec![
                d.name.to_string(),
                d.counts.started.to_string(),
                pool.share(d).map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0)),
                millis(d.counts.mean_first_byte()),
                d.counts.failed().to_string(),
                d.transitions.values().sum::<u64>().to_string(),
            ]);
        }
    }
    let error = total.last_error.as_ref().map(|error| format!(" (last: {error})")).unwrap_or_default();
    format!(
        "\n{}\nrequests: {}, client errors: {}{error}, p50 {} ms, p99 {} ms\n",
        table(&rows),
        total.succeeded + total.failed,
        total.failed,
        millis(total.quantile(0.5)),
        millis(total.quantile(0.99)),
    )
}
