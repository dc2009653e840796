//! What `plimsoll simulate` runs, and how it tells what came of it.

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

use super::terminal::{complain, progress, say, table};
use super::{FAILED, OK, USAGE};

/// Bytes of a scenario file.
const MAX_FILE: u64 = 1 << 20;
/// CandidateRuns of one candidate.
const MAX_SEEDS: u64 = 1_000;

/// `plimsoll simulate`.
#[derive(Args, Debug)]
pub(crate) struct Simulate {
    /// A built-in scenario, a scenario file (YAML or JSON), or `prequal`; without it, their names
    scenario: Option<String>,
    /// Who competes, instead of those the scenario names
    #[arg(short, long, value_name = "A,B,…")]
    algorithm: Vec<String>,
    /// Where chance begins; the same seed gives the same run
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// So many runs, with the seeds from --seed on; told are means, and the 95 % interval of p99
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_SEEDS))]
    seeds: u64,
    /// Measure for so long, in virtual time
    #[arg(long, value_name = "TIME")]
    duration: Option<ConfigDuration>,
    /// Load, as a part of what all destinations can do
    #[arg(long, value_name = "PART")]
    load: Option<f64>,
    /// Messages come in the rhythm of this access log (common, combined or our JSON), at the scenario's rate
    #[arg(long, value_name = "LOG")]
    replay: Option<PathBuf>,
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    /// Draw it, as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Which figure of Prequal's evaluation: 6, 7, 8, 9 or 10
    #[arg(long, value_name = "N")]
    figure: Option<u8>,
    /// Destinations of that figure, and as many balancers (the paper: 100)
    #[arg(long, value_name = "N", default_value_t = COUNT as u16, value_parser = clap::value_parser!(u16).range(2..=1000))]
    replicas: u16,
}

/// For whom results are.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For programs.
    Json,
}

pub(crate) const HELP: &str = "Destinations, balancers and time are simulated; the choice, the pools, their \
checks and ejections are the code that serves.
Examples: plimsoll simulate two-speeds
          plimsoll simulate my.yaml --algorithm p2c,least_connections --seeds 5 --plot it.svg
          plimsoll simulate uniform --replay access.log
          plimsoll simulate prequal --figure 7
Exit codes: 0 done, 1 the picture could not be written, 2 usage, or a file that is no scenario or no log.";

/// The names in a list: a comma within brackets belongs to the formula it stands in.
fn names_in(list: &str) -> impl Iterator<Item = &str> {
    let mut open = 0_i32;
    list.split(move |c| {
        open += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && open == 0
    })
}

impl Simulate {
    pub(crate) fn run(self) -> u8 {
        let done = match self.scenario.as_deref() {
            None => list(),
            Some("prequal") => self.figure(),
            Some(name) => self.compare(name),
        };
        match done {
            Ok(()) => OK,
            Err((code, why)) => {
                complain(&why);
                code
            }
        }
    }

    fn candidates(&self) -> Result<Vec<CandidatePolicy>, (u8, String)> {
        let names = self.algorithm.iter().flat_map(|names| names_in(names));
        names.map(|name| name.trim().parse().map_err(usage)).collect()
    }

    fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.seed;
        (0..self.seeds).map(move |nth| first.wrapping_add(nth))
    }

    fn compare(&self, name: &str) -> Result<(), (u8, String)> {
        if self.figure.is_some() {
            return Err(usage("--figure goes with `prequal`".to_owned()));
        }
        let scenario = self.scenario(name)?;
        let mut candidates = self.candidates()?;
        if candidates.is_empty() {
            candidates.clone_from(&scenario.candidates);
        }
        if candidates.is_empty() {
            return Err(usage(format!("{name} names no algorithms: give some with --algorithm")));
        }
        let mut runs = Vec::new();
        for candidate in candidates {
            progress(&candidate.name());
            let stats = self.seeds().map(|seed| simulate(&scenario, &candidate, seed)).collect();
            runs.push(CandidateRuns { candidate, stats });
        }
        match self.output {
            Form::Json => say(&format!("{:#}\n", report::json(&scenario, self.seed, &runs))),
            Form::Table => {
                let (rate, seconds) = (scenario.rate(), scenario.duration.as_secs_f64());
                say(&format!("{}: {}\n", scenario.name, scenario.about));
                say(&format!("{rate:.0} messages a second for {seconds:.0} s, times in milliseconds\n\n"));
                say(&table(&report::table(&runs)));
                let groups = report::groups(&scenario, &runs);
                if !groups.is_empty() {
                    say(&format!("\n{}", table(&groups)));
                }
            }
        }
        self.draw(|| Chart::quantiles(&scenario.name, &runs))
    }

    fn scenario(&self, name: &str) -> Result<Scenario, (u8, String)> {
        let mut scenario = match built_in(name) {
            Some(scenario) => scenario.map_err(|why| usage(format!("{name}: {why}")))?,
            None => from_file(name)?,
        };
        if let Some(ConfigDuration(duration)) = self.duration {
            scenario.duration = duration;
        }
        if let Some(load) = self.load {
            if !(load.is_finite() && load > 0.0) {
                return Err(usage(format!("--load: {load} is not a number above 0")));
            }
            scenario.offered_load = OfferedLoad::Utilization(load);
        }
        if let Some(path) = &self.replay {
            scenario.arrivals = Arrivals::Replay(log(path)?);
        }
        scenario.validate().map_err(|why| usage(format!("{name}: {why}")))
    }

    fn figure(&self) -> Result<(), (u8, String)> {
        if self.load.is_some() || self.replay.is_some() {
            return Err(usage("--load and --replay: the figures have their own".to_owned()));
        }
        let candidates = self.candidates()?;
        let figure =
            self.figure.and_then(|number| prequal::figure(number, self.replicas.into(), &candidates));
        let Some(mut figure) = figure else {
            return Err(usage(format!("--figure: give one of {FIGURES:?}")));
        };
        if let Some(ConfigDuration(duration)) = self.duration {
            figure = figure.with_duration(duration);
        }
        let mut runs = Vec::new();
        for (index, point) in figure.points.iter().enumerate() {
            let too_much = |why| usage(format!("prequal: {why}"));
            point.scenario.clone().validate().map_err(too_much)?;
            progress(&format!("{} of {}: {} at {}", index + 1, figure.points.len(), point.series, point.x));
            runs.push(figure.run(index, self.seeds()));
        }
        let rows = figure.table(&runs);
        match self.output {
            Form::Table => {
                say(&format!(
                    "Prequal, figure {}: {}; times in milliseconds\n\n",
                    figure.number, figure.title
                ));
                say(&table(&rows));
            }
            Form::Json => {
                let points = figure.points.iter().zip(&runs).map(|(point, runs)| {
                    let told = report::json(&point.scenario, self.seed, std::slice::from_ref(runs));
                    json!({"x": point.x, "rule": point.series, "result": told["algorithms"][0]})
                });
                let points: Vec<_> = points.collect();
                say(&format!(
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

fn usage(why: String) -> (u8, String) {
    (USAGE, why)
}

fn list() -> Result<(), (u8, String)> {
    let mut rows = vec![vec!["scenario".to_owned(), "what it shows".to_owned()]];
    for name in NAMES {
        let about = built_in(name).and_then(Result::ok).map(|scenario| scenario.about).unwrap_or_default();
        rows.push(vec![(*name).to_owned(), about]);
    }
    rows.push(vec![
        "prequal".to_owned(),
        "The evaluation of Prequal (NSDI 2024): --figure 6, 7, 8, 9 or 10.".to_owned(),
    ]);
    say(&format!("{}\nAlgorithms: {}\n", table(&rows), CandidatePolicy::names()));
    Ok(())
}

fn from_file(name: &str) -> Result<Scenario, (u8, String)> {
    let unknown = |error: std::io::Error| {
        let names = NAMES.join(", ");
        usage(format!("{name}: {error}; built in are {names} and prequal"))
    };
    let mut text = String::new();
    let file = File::open(name).map_err(unknown)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unknown)?;
    read(&text).map_err(|why| usage(format!("{name}: {why}")))
}

fn log(path: &Path) -> Result<std::sync::Arc<[plimsoll_sim::arrivals::LoggedMessage]>, (u8, String)> {
    let wrong = |why: String| usage(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let log = access_log::read(BufReader::new(file)).map_err(wrong)?;
    if let Some((line, why)) = log.first_invalid {
        let count = log.invalid_lines;
        complain(&format!("{}: {count} lines are left out; the first, line {line}, {why}", path.display()));
    }
    if log.truncated {
        complain(&format!(
            "{}: only the first {} messages are taken",
            path.display(),
            access_log::MAX_MESSAGES
        ));
    }
    Ok(log.messages.into())
}
