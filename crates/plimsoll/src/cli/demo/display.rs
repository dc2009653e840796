//! How the demonstration is shown: a table that is redrawn, or a line a second where nothing can be.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use plimsoll_proxy::{DestinationView, PoolView};

use super::super::terminal::table;
use super::client_stats::Tally;

/// What stands on the screen.
#[derive(Debug)]
pub(crate) struct Board {
    live: bool,
    /// Lines of the last drawing.
    drawn: usize,
    /// Requests of each destination at the last drawing.
    before: HashMap<String, u64>,
}

impl Board {
    /// On a terminal the table stays in its place.
    pub(crate) fn new(live: bool) -> Self {
        Self { live, drawn: 0, before: HashMap::new() }
    }

    /// The text that shows the second just past.
    pub(crate) fn draw(&mut self, pools: &[PoolView], second: u64, seen: &Tally, total: &Tally) -> String {
        let destinations: Vec<&DestinationView> = pools.iter().flat_map(|pool| &pool.destinations).collect();
        let recent: Vec<u64> = destinations
            .iter()
            .map(|d| {
                let before = self.before.insert(d.name.to_string(), d.counts.started);
                d.counts.started - before.unwrap_or(0)
            })
            .collect();
        if !self.live {
            return line(&destinations, &recent, second, seen, total);
        }
        let text = screen(&destinations, &recent, seen, total);
        // Back to the first line of the last drawing, and clear from there.
        let back = if self.drawn > 0 { format!("\x1b[{}F\x1b[J", self.drawn) } else { String::new() };
        self.drawn = text.lines().count();
        back + &text
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        whole => format!("{:.1}%", part as f64 * 100.0 / whole as f64),
    }
}

fn millis(span: Option<Duration>) -> String {
    span.map_or("-".to_owned(), |span| format!("{:.1}", span.as_secs_f64() * 1e3))
}

/// What clients saw, in one line.
fn clients(seen: &Tally, total: &Tally) -> String {
    format!(
        "{} requests/s, p50 {} ms, p99 {} ms, client errors: {}",
        seen.good + seen.bad,
        millis(seen.quantile(0.5)),
        millis(seen.quantile(0.99)),
        total.bad,
    )
}

fn screen(destinations: &[&DestinationView], recent: &[u64], seen: &Tally, total: &Tally) -> String {
    let all: u64 = recent.iter().sum();
    let head =
        ["DESTINATION", "STANDING", "SHARE", "REQUESTS/S", "IN FLIGHT", "MEAN MS", "REQUESTS", "ERRORS"];
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
        // Green serves, red does not.
        let colour = if d.status.serves() { 32 } else { 31 };
        let _never_fails = writeln!(out, "\x1b[{colour}m{line}\x1b[0m");
    }
    out + &format!("\nclients  {}\n         ctrl-c ends the demo\n", clients(seen, total))
}

fn line(
    destinations: &[&DestinationView],
    recent: &[u64],
    second: u64,
    seen: &Tally,
    total: &Tally,
) -> String {
    let all: u64 = recent.iter().sum();
    let each = destinations.iter().zip(recent).map(|(d, &count)| match d.status.serves() {
        true => format!("{} {}", d.name, percent(count, all)),
        false => format!("{} {} ({})", d.name, percent(count, all), d.status.as_str()),
    });
    format!("{second:>3}s  {}  |  {}\n", each.collect::<Vec<_>>().join("  "), clients(seen, total))
}

/// The last word: what came of it all.
pub(crate) fn summary(pools: &[PoolView], total: &Tally) -> String {
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
        total.good + total.bad,
        total.bad,
        millis(total.quantile(0.5)),
        millis(total.quantile(0.99)),
    )
}
