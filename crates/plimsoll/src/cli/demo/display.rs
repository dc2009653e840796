//! The demo's output: a table that is redrawn on a terminal, one line per second elsewhere.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use plimsoll_proxy::{DestinationView, PoolView};

use super::super::terminal::{table, width};
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
        // A line that the terminal wraps would take two lines, and the table would not be redrawn in place.
        let text = format_table(&destinations, &recent, recent_clients, total, width().unwrap_or(usize::MAX));
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

/// Columns that are left out of a narrow table, in this order.
const OPTIONAL: [&str; 5] = ["REQUESTS", "IN FLIGHT", "MEAN MS", "REQUESTS/S", "ERRORS"];

fn format_table(
    destinations: &[&DestinationView],
    recent: &[u64],
    recent_clients: &ClientStats,
    total: &ClientStats,
    width: usize,
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
    let lines = fit_columns(rows, width);
    let mut lines = lines.iter();
    let mut out = format!("{}\n", lines.next().map_or("", String::as_str));
    for (line, d) in lines.zip(destinations) {
        // Green: serving. Red: not serving.
        let colour = if d.status.serves() { 32 } else { 31 };
        let _never_fails = writeln!(out, "\x1b[{colour}m{line}\x1b[0m");
    }
    let summary = client_summary(recent_clients, total);
    for line in
        wrap(&format!("clients  {summary}"), width).into_iter().chain(wrap("ctrl-c stops the demo", width))
    {
        let _never_fails = write!(out, "\n{line}");
    }
    out + "\n"
}

/// Formats a table without the columns for which there is no space, and cuts lines that are still too long.
fn fit_columns(mut rows: Vec<Vec<String>>, width: usize) -> Vec<String> {
    for column in OPTIONAL {
        let lines = table(&rows);
        if lines.lines().all(|line| line.chars().count() <= width) {
            break;
        }
        let Some(at) = rows[0].iter().position(|name| name == column) else { continue };
        rows.iter_mut().for_each(|row| drop(row.remove(at)));
    }
    table(&rows).lines().map(|line| line.chars().take(width).collect()).collect()
}

/// Breaks a text between words into lines of at most `width` characters; a longer word is cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().take(width));
    }
    lines.push(line);
    lines
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let head =
            ["DESTINATION", "STATUS", "SHARE", "REQUESTS/S", "IN FLIGHT", "MEAN MS", "REQUESTS", "ERRORS"];
        let row = ["steady-one", "maintenance", "100.0%", "1000", "100", "1234.5", "1000000", "1000000"];
        for width in [10, 20, 40, 60, 74, 75, 80, 200] {
            let rows = [head, row].map(|row| row.map(str::to_owned).to_vec()).to_vec();
            let lines = fit_columns(rows, width);
            assert_eq!(lines.len(), 2);
            let summary =
                wrap("clients  1000 requests/s, p50 1234.5 ms, p99 1234.5 ms, client errors: 10000", width);
            for line in lines.iter().chain(&summary) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
            assert_eq!(lines[0].contains("REQUESTS/S"), width >= 60, "{width}: {}", lines[0]);
        }
    }
}
