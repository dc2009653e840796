//! `plimsoll status`: the health of a running instance, as a table, JSON and exit code.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::admin_client::{AdminError, error_detail, request};
use super::exit_code::{DEGRADED, DOWN, OK};
use super::options::{AdminOption, TableFormat};
use super::terminal::{error_line, print, table};

/// Flags of `plimsoll status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[arg(help = "Output format", short, long, value_enum, default_value_t = TableFormat::Table)]
    output: TableFormat,
    #[command(flatten)]
    admin: AdminOption,
}

impl StatusArgs {
    pub(crate) fn run(self) -> u8 {
        let admin = &self.admin.address;
        let fetched = fetch(admin, "/v1/server").and_then(|server| Ok((server, fetch(admin, "/v1/pools")?)));
        let (server, pools) = match fetched {
            Ok(documents) => documents,
            Err(error) => {
                error_line(&error.to_string());
                return DOWN;
            }
        };
        let health = server["health"].as_str().unwrap_or("down").to_owned();
        match self.output {
            TableFormat::Table => print(&format_status(&server, &pools["pools"])),
            TableFormat::Json => {
                let document = json!({"health": health, "server": server, "pools": pools["pools"]});
                print(&format!("{document:#}\n"));
            }
        }
        match &*health {
            "healthy" => OK,
            "degraded" => DEGRADED,
            _ => DOWN,
        }
    }
}

/// Fetches a document from the admin API.
fn fetch(admin: &str, path: &str) -> Result<Value, AdminError> {
    let response = request(admin, "GET", path)?;
    match response.status {
        200 => Ok(response.body),
        status => {
            let found = format!("{path}: response {status}: {}", error_detail(&response.body));
            Err(AdminError::Unexpected { address: admin.to_owned(), found })
        }
    }
}

/// Formats a value as text; null is a dash.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
}

fn format_status(server: &Value, pools: &Value) -> String {
    let uptime = Duration::from_secs(server["uptimeMs"].as_u64().unwrap_or(0) / 1000);
    let mut out = format!(
        "plimsoll {}: {}, {}; up {}, {} workers\n",
        text(&server["version"]),
        text(&server["health"]),
        text(&server["state"]),
        format_duration(uptime),
        text(&server["workers"]),
    );
    for listener in list(&server["listeners"]) {
        let addresses: Vec<String> = list(&listener["addresses"]).iter().map(text).collect();
        out += &format!(
            "listener {} ({}): {}; {} connections\n",
            text(&listener["name"]),
            text(&listener["protocol"]),
            addresses.join(", "),
            text(&listener["connections"]),
        );
    }
    for pool in list(pools) {
        let health = &pool["healthStatus"];
        out += &format!(
            "\npool {} ({}): {}, {} of {} destinations serve\n",
            text(&pool["name"]),
            text(&pool["algorithm"]),
            text(&health["state"]),
            text(&health["serving"]),
            text(&health["total"]),
        );
        if pool["backupInUse"] == true {
            out += "a backup tier gets messages\n";
        }
        out += &table(&destination_rows(pool));
    }
    out
}

fn destination_rows(pool: &Value) -> Vec<Vec<String>> {
    let head = [
        "DESTINATION",
        "ADDRESS",
        "STATUS",
        "TIER",
        "WEIGHT",
        "SHARE",
        "REQUESTS",
        "IN FLIGHT",
        "MEAN MS",
        "ERRORS",
        "REASON",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let shares = list(&pool["loadDistribution"]["destinations"]);
    for (d, share) in list(&pool["destinations"]).iter().zip(shares) {
        let counts = &d["counts"];
        // Failed attempts, and responses that report a failure of the server.
        let failed =
            counts["errors"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64());
        let errors = failed.sum::<u64>() + counts["responses"]["5xx"].as_u64().unwrap_or(0);
        let percent = share["share"].as_f64().map(|share| share * 100.0);
        rows.push(vec![
            text(&d["id"]),
            text(&d["address"]),
            text(&d["status"]),
            text(&d["priority"]),
            text(&d["weight"]),
            percent.map_or("-".to_owned(), |percent| format!("{percent:.1}%")),
            text(&counts["requests"]),
            text(&d["inFlight"]),
            number(counts["meanResponseMs"].as_f64(), 1),
            errors.to_string(),
            if d["status"] == "serving" { String::new() } else { text(&d["reason"]) },
        ]);
    }
    rows
}

/// Formats a duration in its two largest units: `3d 4h`, `4h 12m`, `12m 5s`, `5s`.
fn format_duration(duration: Duration) -> String {
    let s = duration.as_secs();
    let parts = [(s / 86_400, 'd'), (s / 3600 % 24, 'h'), (s / 60 % 60, 'm'), (s % 60, 's')];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).map(|(n, unit)| format!("{n}{unit}"));
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_their_two_largest_units() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3_725, "1h 2m"), (90_061, "1d 1h")]
        {
            assert_eq!(format_duration(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn unknown_values_are_dashes_and_destinations_out_of_service_have_a_reason() {
        let pool = json!({
            "name": "api", "algorithm": "p2c",
            "healthStatus": {"state": "degraded", "serving": 1, "total": 2},
            "loadDistribution": {"destinations": [{"share": 0.25}, {"share": null}]},
            "destinations": [
                {"id": "a", "address": "127.0.0.1:1", "status": "serving", "weight": 1, "inFlight": 2, "reason": "x",
                 "counts": {"requests": 5, "errors": {"reset": 1, "timeout": 2}, "responses": {"2xx": 1, "5xx": 4},
                            "meanResponseMs": 1.25}},
                {"id": "b", "address": "127.0.0.1:2", "status": "down", "weight": 1, "inFlight": 0,
                 "reason": "a check failed: responded 500",
                 "counts": {"requests": 0, "errors": {}, "meanResponseMs": null}},
            ],
        });
        let rows = destination_rows(&pool);
        assert_eq!(rows[1][5..], ["25.0%", "5", "2", "1.2", "7", ""].map(str::to_owned));
        assert_eq!(
            rows[2][5..],
            ["-", "0", "0", "-", "0", "a check failed: responded 500"].map(str::to_owned)
        );
        assert!(
            format_status(&json!({}), &json!([pool]))
                .contains("pool api (p2c): degraded, 1 of 2 destinations serve")
        );
    }
}
