//! What would become of a request, for people or for programs.

use std::net::IpAddr;

use clap::Args;
use serde_json::{Value, json};

use super::admin_client::ask_with;
use super::terminal::{complain, say, table};
use super::{Admin, DOWN, FAILED, OK, Output, USAGE};

/// `plimsoll explain`.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// GET, POST, …
    method: String,
    /// Where it would go: http://HOST:PORT/PATH
    url: String,
    /// A header it would have: `name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Whose request it would be
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    admin: Admin,
}

impl Explain {
    pub(crate) fn run(self) -> u8 {
        if !["http://", "https://"].iter().any(|scheme| self.url.starts_with(scheme)) {
            complain(&format!("`{}` is not like http://HOST:PORT/PATH", self.url));
            return USAGE;
        }
        let question =
            json!({"method": self.method, "url": self.url, "headers": self.headers, "from": self.from});
        let reply = match ask_with(&self.admin.admin, "POST", "/v1/explain", Some(&question)) {
            Ok(reply) => reply,
            Err(error) => {
                complain(&error.to_string());
                return DOWN;
            }
        };
        if reply.status != 200 {
            complain(reply.body["detail"].as_str().unwrap_or("no reason was given"));
            return USAGE;
        }
        match self.output {
            Output::Text => say(&in_words(&reply.body)),
            Output::Json => say(&format!("{:#}\n", reply.body)),
        }
        if reply.body["winner"].is_null() { FAILED } else { OK }
    }
}

/// Three digits of it, wherever its point is: the lowest wins, and algorithms differ in their units.
fn score(score: f64) -> String {
    if score == 0.0 {
        return "0".to_owned();
    }
    if !(0.001..1e6).contains(&score.abs()) {
        return format!("{score:.2e}");
    }
    let digits = 2 - score.abs().log10().floor() as i32;
    format!("{score:.0$}", digits.max(0) as usize)
}

fn in_words(told: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let stages = told["stages"].as_array().into_iter().flatten();
    let mut out = table(&stages.map(|s| vec![text(&s["stage"]), text(&s["outcome"])]).collect::<Vec<_>>());
    let candidates: Vec<&Value> = told["candidates"].as_array().into_iter().flatten().collect();
    if !candidates.is_empty() {
        let head =
            ["DESTINATION", "ADDRESS", "STANDING", "WEIGHT", "IN FLIGHT", "LOAD", "SCORE", "CHANCE", ""];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for c in candidates {
            let verdict = match c["because"].as_str() {
                Some(because) => format!("set aside: {because}"),
                None if c["id"] == told["winner"] => "takes it".to_owned(),
                None => String::new(),
            };
            rows.push(vec![
                text(&c["id"]),
                text(&c["address"]),
                text(&c["status"]),
                text(&c["weight"]),
                text(&c["inFlight"]),
                format!("{:.2}", c["load"].as_f64().unwrap_or(0.0)),
                c["score"].as_f64().map_or_else(|| "-".to_owned(), score),
                format!("{:.0}%", c["chance"].as_f64().unwrap_or(0.0) * 100.0),
                verdict,
            ]);
        }
        out += "\n";
        out += &table(&rows);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::score;

    #[test]
    fn a_score_has_three_digits_wherever_its_point_is() {
        let told = [0.0, 0.00390625, 0.5, 12.345, 1234.5, 4.2e9, 1e-9].map(score);
        assert_eq!(told, ["0", "0.00391", "0.500", "12.3", "1234", "4.20e9", "1.00e-9"]);
    }
}
