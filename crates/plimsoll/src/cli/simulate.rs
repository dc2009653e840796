//! `plimsoll simulate`: runs algorithms in the simulator and prints the results.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use plimsoll_config::units::ConfigDuration;
use plimsoll_sim::arrivals::Arrivals;
use plimsoll_sim::chart::Chart;
use plimsoll_sim::prequal::{self, COUNT, FIGURES};
use plimsoll_sim::report::{self, CandidateRuns};
use plimsoll_sim::scenario::{NAMES, OfferedLoad, built_in, read};
use plimsoll_sim::{CandidatePolicy, Scenario, access_log, simulate};
use serde_json::json;

use super::exit_code::{FAILED, OK, USAGE};
use super::options::TableFormat;
use super::terminal::{error_line, print, progress, table};

/// Maximum bytes of a scenario file.
const MAX_SCENARIO_BYTES: u64 = 1 << 20;
/// Maximum number of runs of one algorithm.
const MAX_SEEDS: u64 = 1_000;

/// Flags of `plimsoll simulate`.
#[derive(Args, Debug)]
pub(crate) struct SimulateArgs {
    /// Built-in scenario, scenario file (YAML or JSON) or `prequal`; without it, scenarios are listed
    scenario: Option<String>,
    /// Algorithms to compare, comma-separated [default: those of the scenario]
    #[arg(short, long, value_name = "NAME,…")]
    algorithm: Vec<String>,
    /// Random seed; a run with the same seed gives the same result
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Number of runs, with seeds counted up from --seed; results are means and the 95 % interval of p99
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_SEEDS))]
    seeds: u64,
    /// Measured virtual time, with a unit: 500ms, 30s [default: that of the scenario]
    #[arg(long, value_name = "TIME")]
    duration: Option<ConfigDuration>,
    /// Load as a share of the total capacity: 0.8 [default: that of the scenario]
    #[arg(long, value_name = "SHARE")]
    load: Option<f64>,
    /// Access log (common, combined or plimsoll's JSON) to replay the arrival times of, at the scenario's rate
    #[arg(long, value_name = "LOG")]
    replay: Option<PathBuf>,
    #[arg(help = "Output format", short, long, value_enum, default_value_t = TableFormat::Table)]
    output: TableFormat,
    /// Write a chart to this SVG file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Figure of the Prequal evaluation to run: 6, 7, 8, 9 or 10
    #[arg(long, value_name = "N")]
    figure: Option<u8>,
    /// Number of destinations and of balancers of the figure (100 in the paper)
    #[arg(long, value_name = "N", default_value_t = COUNT as u16, value_parser = clap::value_parser!(u16).range(2..=1000))]
    replicas: u16,
}

pub(crate) const HELP: &str = "Destinations, clients and time are simulated. Algorithms, pools, health checks and \
ejections are the code that `plimsoll run` uses.

Examples:
  plimsoll simulate two-speeds
  plimsoll simulate my.yaml --algorithm p2c,least_connections --seeds 5 --plot chart.svg
  plimsoll simulate uniform --replay access.log
  plimsoll simulate prequal --figure 7

Exit codes: 0 results printed; 1 the chart cannot be written; 2 usage error, invalid scenario or unreadable log";

/// Splits a list at its commas, except those in parentheses: they are part of a formula.
fn split_names(list: &str) -> impl Iterator<Item = &str> {
    let mut open = 0_i32;
    list.split(move |c| {
        open += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && open == 0
    })
}

impl SimulateArgs {
    pub(crate) fn run(self) -> u8 {
        let done = match self.scenario.as_deref() {
            None => list_scenarios(),
            Some("prequal") => self.run_figure(),
            Some(name) => self.compare(name),
        };
        match done {
            Ok(()) => OK,
            Err((code, message)) => {
                error_line(&message);
                code
            }
        }
    }

    fn candidates(&self) -> Result<Vec<CandidatePolicy>, (u8, String)> {
        let names = self.algorithm.iter().flat_map(|names| split_names(names));
        names.map(|name| name.trim().parse().map_err(usage)).collect()
    }

    fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.seed;
        (0..self.seeds).map(move |nth| first.wrapping_add(nth))
    }

    fn compare(&self, name: &str) -> Result<(), (u8, String)> {
        if self.figure.is_some() {
            return Err(usage("--figure: only valid with `prequal`".to_owned()));
        }
        let scenario = self.load_scenario(name)?;
        let mut candidates = self.candidates()?;
        if candidates.is_empty() {
            candidates.clone_from(&scenario.candidates);
        }
        if candidates.is_empty() {
            return Err(usage(format!("{name} has no algorithms; name some with --algorithm")));
        }
        let mut runs = Vec::new();
        for candidate in candidates {
            progress(&candidate.name());
            let stats = self.seeds().map(|seed| simulate(&scenario, &candidate, seed)).collect();
            runs.push(CandidateRuns { candidate, stats });
        }
        match self.output {
            TableFormat::Json => print(&format!("{:#}\n", report::json(&scenario, self.seed, &runs))),
            TableFormat::Table => {
                let (rate, seconds) = (scenario.rate(), scenario.duration.as_secs_f64());
                print(&format!("{}: {}\n", scenario.name, scenario.about));
                print(&format!("{rate:.0} messages/s for {seconds:.0} s; times in milliseconds\n\n"));
                print(&table(&report::table(&runs)));
                let groups = report::groups(&scenario, &runs);
                if !groups.is_empty() {
                    print(&format!("\n{}", table(&groups)));
                }
            }
        }
        self.draw(|| Chart::quantiles(&scenario.name, &runs))
    }

    fn load_scenario(&self, name: &str) -> Result<Scenario, (u8, String)> {
        let mut scenario = match built_in(name) {
            Some(scenario) => scenario.map_err(|why| usage(format!("{name}: {why}")))?,
            None => read_scenario(name)?,
        };
        if let Some(ConfigDuration(duration)) = self.duration {
            scenario.duration = duration;
        }
        if let Some(load) = self.load {
            if !(load.is_finite() && load > 0.0) {
                return Err(usage(format!("--load: expected a number above 0, found {load}")));
            }
            scenario.offered_load = OfferedLoad::Utilization(load);
        }
        if let Some(path) = &self.replay {
            scenario.arrivals = Arrivals::Replay(read_log(path)?);
        }
        scenario.validate().map_err(|why| usage(format!("{name}: {why}")))
    }

    fn run_figure(&self) -> Result<(), (u8, String)> {
        if self.load.is_some() || self.replay.is_some() {
            return Err(usage(
                "--load and --replay: not valid with `prequal`: its figures set the load".to_owned(),
            ));
        }
        let candidates = self.candidates()?;
        let figure =
            self.figure.and_then(|number| prequal::figure(number, self.replicas.into(), &candidates));
        let Some(mut figure) = figure else {
            return Err(usage(format!("--figure: expected one of {FIGURES:?}")));
        };
        if let Some(ConfigDuration(duration)) = self.duration {
            figure = figure.with_duration(duration);
        }
        let mut runs = Vec::new();
        for (index, point) in figure.points.iter().enumerate() {
            let invalid = |why| usage(format!("prequal: {why}"));
            point.scenario.clone().validate().map_err(invalid)?;
            progress(&format!("{} of {}: {} at {}", index + 1, figure.points.len(), point.series, point.x));
            runs.push(figure.run(index, self.seeds()));
        }
        let rows = figure.table(&runs);
        match self.output {
            TableFormat::Table => {
                print(&format!(
                    "Prequal, figure {}: {}; times in milliseconds\n\n",
                    figure.number, figure.title
                ));
                print(&table(&rows));
            }
            TableFormat::Json => {
                let points = figure.points.iter().zip(&runs).map(|(point, runs)| {
                    let document = report::json(&point.scenario, self.seed, std::slice::from_ref(runs));
                    json!({"x": point.x, "rule": point.series, "result": document["algorithms"][0]})
                });
                let points: Vec<_> = points.collect();
                print(&format!(
                    "{:#}\n",
                    json!({"figure": figure.number, "varied": figure.varied, "points": points})
                ));
            }
        }
        self.draw(|| figure.chart(&runs))
    }

    fn draw(&self, chart: impl FnOnce() -> Chart) -> Result<(), (u8, String)> {
        let Some(path) = &self.plot else { return Ok(()) };
        let written =
            chart().svg().and_then(|svg| std::fs::write(path, svg).map_err(|error| error.to_string()));
        written.map_err(|why| (FAILED, format!("{}: {why}", path.display())))
    }
}

fn usage(message: String) -> (u8, String) {
    (USAGE, message)
}

fn list_scenarios() -> Result<(), (u8, String)> {
    let mut rows = vec![vec!["scenario".to_owned(), "description".to_owned()]];
    for name in NAMES {
        let about = built_in(name).and_then(Result::ok).map(|scenario| scenario.about).unwrap_or_default();
        rows.push(vec![(*name).to_owned(), about]);
    }
    rows.push(vec![
        "prequal".to_owned(),
        "Evaluation of Prequal (NSDI 2024): --figure 6, 7, 8, 9 or 10.".to_owned(),
    ]);
    print(&format!("{}\nAlgorithms: {}\n", table(&rows), CandidatePolicy::names()));
    Ok(())
}

fn read_scenario(name: &str) -> Result<Scenario, (u8, String)> {
    let unknown = |error: std::io::Error| {
        let names = NAMES.join(", ");
        usage(format!("{name}: {error}; built-in scenarios: {names}, prequal"))
    };
    let mut text = String::new();
    let file = File::open(name).map_err(unknown)?;
    file.take(MAX_SCENARIO_BYTES + 1).read_to_string(&mut text).map_err(unknown)?;
    read(&text).map_err(|why| usage(format!("{name}: {why}")))
}

fn read_log(path: &Path) -> Result<std::sync::Arc<[plimsoll_sim::arrivals::LoggedMessage]>, (u8, String)> {
    let wrong = |why: String| usage(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let log = access_log::read(BufReader::new(file)).map_err(wrong)?;
    if let Some((line, why)) = log.first_invalid {
        let count = log.invalid_lines;
        error_line(&format!("{}: skipped {count} lines; first: line {line} {why}", path.display()));
    }
    if log.truncated {
        error_line(&format!(
            "{}: only the first {} messages are used",
            path.display(),
            access_log::MAX_MESSAGES
        ));
    }
    Ok(log.messages.into())
}
