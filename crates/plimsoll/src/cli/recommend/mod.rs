//! `plimsoll recommend`: recommends an algorithm from an access log or from a running instance.

mod input;
mod output;

use std::path::PathBuf;

use clap::Args;
use plimsoll_config::units::ConfigDuration;
use plimsoll_core::balance::{Algorithm, Needs};
use plimsoll_sim::recommend::recommend;
use plimsoll_sim::recommend::trace::Trace;

use super::exit_code::{OK, USAGE};
use super::options::{AdminOption, TextFormat};
use super::terminal::{error_line, print, progress};

/// Maximum number of simulated runs of one algorithm in one variant.
const MAX_SEEDS: u64 = 100;

pub(crate) const HELP: &str =
    "Simulates the requests of an access log, or the current rate of a running instance, with every suitable \
algorithm: as recorded, with one slow destination and with one that stalls.

Examples:
  plimsoll recommend --log access.log
  plimsoll recommend --log nginx.log --destinations 4 --work 20ms --algorithm least_connections
  plimsoll recommend --pool api --watch 1m -o json

Exit codes: 0 recommendation printed; 2 usage error, unreadable log or too few requests; 4 the admin API is \
unreachable";

/// Flags of `plimsoll recommend`.
#[derive(Args, Debug)]
pub(crate) struct RecommendArgs {
    /// Access log (common, combined or plimsoll's JSON) to use instead of a running instance
    #[arg(long, value_name = "LOG", conflicts_with_all = ["pool", "watch"])]
    log: Option<PathBuf>,
    /// Pool of the running instance [default: its only pool]
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Time to observe the running instance, with a unit: 10s, 1m
    #[arg(long, value_name = "TIME", default_value = "10s")]
    watch: ConfigDuration,
    /// Algorithm in use when the log was written [default: round_robin]
    #[arg(long, value_name = "NAME", requires = "log")]
    algorithm: Option<String>,
    /// Number of destinations, if the log does not name them
    #[arg(long, value_name = "N", requires = "log", value_parser = clap::value_parser!(u16).range(1..=1000))]
    destinations: Option<u16>,
    /// Mean service time of a request, if it was not measured
    #[arg(long, value_name = "TIME", default_value = "10ms")]
    work: ConfigDuration,
    /// Requests a destination serves concurrently [default: as many as keep it at most two thirds busy]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: Option<u32>,
    /// Random seed; the same seed and log give the same recommendation
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Number of simulated runs of each algorithm in each variant
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=MAX_SEEDS))]
    seeds: u64,
    #[arg(help = "Output format", short, long, value_enum, default_value_t = TextFormat::Text)]
    output: TextFormat,
    #[command(flatten)]
    admin: AdminOption,
}

/// Observed traffic, with the assumptions made where nothing was observed.
struct Observation {
    trace: Trace,
    /// Name of the pool or path of the log.
    subject: String,
    /// Name of the pool in the configuration; absent for a log.
    pool: Option<String>,
    /// Observations, as sentences.
    evidence: Vec<String>,
    /// Assumptions, as sentences.
    assumptions: Vec<String>,
}

/// Exit code and message of a failed command.
type Failure = (u8, String);

impl RecommendArgs {
    pub(crate) fn run(self) -> u8 {
        let observed = match &self.log {
            Some(path) => input::read_log(&self, path),
            None => input::observe_instance(&self),
        };
        match observed {
            Ok(observation) => {
                self.print_recommendation(observation);
                OK
            }
            Err((code, message)) => {
                error_line(&message);
                code
            }
        }
    }

    fn print_recommendation(&self, mut observation: Observation) {
        let reason = match observation.trace.algorithm {
            Algorithm::Custom => Some(
                "a custom formula is not compared; try one with `plimsoll simulate -a custom:EXPRESSION`",
            ),
            keyed if keyed.policy(1).needs() == Needs::Key => {
                Some("it is the only kind that keeps each key at one destination")
            }
            _ => None,
        };
        if let Some(reason) = reason {
            return print(&output::keep(&observation, reason, self.output));
        }
        let slots = self.slots.map_or_else(|| observation.trace.slots(), |slots| slots as usize);
        if self.slots.is_none() {
            observation.assumptions.push(format!(
                "each destination serves {slots} requests at once, so that the busiest is two thirds busy (--slots); \
                 how much of a response time is work and how much is waiting was not observed"
            ));
        }
        let recommendation = recommend(&observation.trace, slots, self.seed, self.seeds as usize, progress);
        let pick_nanos = output::measure_picks(&observation.trace, slots, &recommendation);
        print(&match self.output {
            TextFormat::Text => output::text(&observation, &recommendation, &pick_nanos),
            TextFormat::Json => format!("{:#}\n", output::json(&observation, &recommendation, &pick_nanos)),
        });
    }
}

fn usage(message: String) -> Failure {
    (USAGE, message)
}

fn parse_algorithm(name: &str) -> Result<Algorithm, Failure> {
    let all = || Algorithm::ALL.map(Algorithm::name).join(", ");
    Algorithm::from_name(name)
        .ok_or_else(|| usage(format!("--algorithm: expected one of {}, found `{name}`", all())))
}
