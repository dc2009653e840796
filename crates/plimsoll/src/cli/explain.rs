//! `plimsoll explain`: the destination a request would get, and why.

use std::net::IpAddr;

use clap::Args;
use serde_json::{Value, json};

use super::admin_client::{error_detail, request_with_body};
use super::exit_code::{DOWN, FAILED, OK, USAGE};
use super::options::{AdminOption, TextFormat};
use super::terminal::{error_line, print, table};

/// Flags of `plimsoll explain`.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Request method: GET, POST, …
    method: String,
    /// Request URL, with the port of a listener: http://HOST:PORT/PATH
    url: String,
    /// Request header, `name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Client IP address to assume [default: none]
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    #[arg(help = "Output format", short, long, value_enum, default_value_t = TextFormat::Text)]
    output: TextFormat,
    #[command(flatten)]
    admin: AdminOption,
}

impl ExplainArgs {
    pub(crate) fn run(self) -> u8 {
        if !["http://", "https://"].iter().any(|scheme| self.url.starts_with(scheme)) {
            error_line(&format!("URL: expected http://HOST:PORT/PATH, found `{}`", self.url));
            return USAGE;
        }
        let body =
            json!({"method": self.method, "url": self.url, "headers": self.headers, "from": self.from});
        let response = match request_with_body(&self.admin.address, "POST", "/v1/explain", Some(&body)) {
            Ok(response) => response,
            Err(error) => {
                error_line(&error.to_string());
                return DOWN;
            }
        };
        if response.status != 200 {
            error_line(error_detail(&response.body));
            return USAGE;
        }
        match self.output {
            TextFormat::Text => print(&format_explanation(&response.body)),
            TextFormat::Json => print(&format!("{:#}\n", response.body)),
        }
        if response.body["winner"].is_null() { FAILED } else { OK }
    }
}

/// Formats a score with three significant digits: algorithms differ in their units.
fn format_score(score: f64) -> String {
    if score == 0.0 {
        return "0".to_owned();
    }
    if !(0.001..1e6).contains(&score.abs()) {
        return format!("{score:.2e}");
    }
    let digits = 2 - score.abs().log10().floor() as i32;
    format!("{score:.0$}", digits.max(0) as usize)
}

fn format_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn format_explanation(explanation: &Value) -> String {
    let stages = explanation["stages"].as_array().into_iter().flatten();
    let stages = stages.map(|s| vec![format_text(&s["stage"]), format_text(&s["outcome"])]);
    let mut out = table(&stages.collect::<Vec<_>>());
    let candidates = explanation["candidates"].as_array().map_or(&[][..], Vec::as_slice);
    if !candidates.is_empty() {
        out += "\n";
        out += &table(&candidate_rows(candidates, &explanation["winner"]));
    }
    out
}

/// Returns the rows of the table of candidates. The slow-start column is left out while every destination
/// gets its full share.
fn candidate_rows(candidates: &[Value], winner: &Value) -> Vec<Vec<String>> {
    let slow_start = |c: &Value| c["slowStart"].as_f64().unwrap_or(1.0);
    let has_slow_start = candidates.iter().any(|c| slow_start(c) < 1.0);
    let mut header = vec!["DESTINATION", "ADDRESS", "STATUS", "WEIGHT", "IN FLIGHT", "LOAD", "SCORE"];
    header.extend(has_slow_start.then_some("SLOW START"));
    header.push("");
    let mut rows = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for c in candidates {
        let result = match c["because"].as_str() {
            Some(reason) => format!("set aside: {reason}"),
            None if c["id"] == *winner => "selected".to_owned(),
            None => String::new(),
        };
        let mut row = vec![
            format_text(&c["id"]),
            format_text(&c["address"]),
            format_text(&c["status"]),
            format_text(&c["weight"]),
            format_text(&c["inFlight"]),
            format!("{:.2}", c["load"].as_f64().unwrap_or(0.0)),
            c["score"].as_f64().map_or_else(|| "-".to_owned(), format_score),
        ];
        row.extend(has_slow_start.then(|| format!("{:.0}%", slow_start(c) * 100.0)));
        row.push(result);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_have_three_significant_digits() {
        let formatted = [0.0, 0.00390625, 0.5, 12.345, 1234.5, 4.2e9, 1e-9].map(format_score);
        assert_eq!(formatted, ["0", "0.00391", "0.500", "12.3", "1234", "4.20e9", "1.00e-9"]);
    }

    #[test]
    fn slow_start_column_is_hidden_at_full_share() {
        let candidate = |slow_start: f64| {
            json!({
                "id": "a", "address": "127.0.0.1:1", "status": "serving", "weight": 1, "inFlight": 0,
                "load": 1.0, "score": 1.0, "slowStart": slow_start,
            })
        };
        let rows = |slow_start| candidate_rows(&[candidate(1.0), candidate(slow_start)], &json!("b"));
        assert_eq!(rows(1.0)[0].len(), 8);
        let rows = rows(0.25);
        assert_eq!((&*rows[0][7], &*rows[1][7], &*rows[2][7]), ("SLOW START", "100%", "25%"));
    }
}
