//! Which policy `plimsoll recommend` names, from a log or from a running plimsoll, and how it tells that.

mod input;
mod output;

use std::path::PathBuf;

use clap::Args;
use plimsoll_config::units::ConfigDuration;
use plimsoll_core::balance::{Algorithm, Needs};
use plimsoll_sim::recommend::recommend;
use plimsoll_sim::recommend::trace::Trace;

use super::terminal::{complain, progress, say};
use super::{Admin, DOWN, OK, Output, USAGE};

/// Runs of one policy on one variant.
const MAX_SEEDS: u64 = 100;

pub(crate) const HELP: &str =
    "Messages as they came, from an access log or at the rate a running plimsoll has \
now, are served again in virtual time by every policy that suits, as it was and with a destination in trouble.
Examples: plimsoll recommend --log access.log
          plimsoll recommend --log nginx.log --destinations 4 --work 20ms --algorithm least_connections
          plimsoll recommend --pool api --watch 1m -o json
Exit codes: 0 told, 2 usage, a log that is none, or too few messages, 4 plimsoll does not run.";

/// `plimsoll recommend`.
#[derive(Args, Debug)]
pub(crate) struct Recommend {
    /// An access log (common, combined or our JSON), instead of a running plimsoll
    #[arg(long, value_name = "LOG", conflicts_with_all = ["pool", "watch"])]
    log: Option<PathBuf>,
    /// Which pool of the running plimsoll, where there are several
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Look at the running plimsoll for so long
    #[arg(long, value_name = "TIME", default_value = "10s")]
    watch: ConfigDuration,
    /// The policy there is, where it is not plimsoll that tells
    #[arg(long, value_name = "NAME", requires = "log")]
    algorithm: Option<String>,
    /// Destinations, where the log names none
    #[arg(long, value_name = "N", requires = "log", value_parser = clap::value_parser!(u16).range(1..=1000))]
    destinations: Option<u16>,
    /// How long a message takes on average, where nobody tells
    #[arg(long, value_name = "TIME", default_value = "10ms")]
    work: ConfigDuration,
    /// Messages a destination works on at once; without it so many that two thirds are in use at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: Option<u32>,
    /// Where chance begins; the same seed and the same log give the same recommendation
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Runs of each policy on each variant
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=MAX_SEEDS))]
    seeds: u64,
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    admin: Admin,
}

/// Whose trace it is, and what about it nobody told.
struct Case {
    trace: Trace,
    /// The pool, or the log.
    subject: String,
    /// Its name in the configuration, if it has one.
    pool: Option<String>,
    /// What was seen, in sentences.
    evidence: Vec<String>,
    /// What was not, and was made up.
    assumptions: Vec<String>,
}

impl Recommend {
    pub(crate) fn run(self) -> u8 {
        let seen = match &self.log {
            Some(path) => self.of_log(path),
            None => self.of_running(),
        };
        match seen {
            Ok(case) => {
                self.tell(case);
                OK
            }
            Err((code, why)) => {
                complain(&why);
                code
            }
        }
    }

    fn tell(&self, mut case: Case) {
        let why = match case.trace.algorithm {
            Algorithm::Custom => {
                Some("its expression is its owner's; `plimsoll simulate -a custom:EXPRESSION` tries one")
            }
            keyed if keyed.policy(1).needs() == Needs::Key => {
                Some("it keeps each key at its destination, and nothing else does")
            }
            _ => None,
        };
        if let Some(why) = why {
            return say(&output::keep(&case, why, self.output));
        }
        let slots = self.slots.map_or_else(|| case.trace.slots(), |slots| slots as usize);
        if self.slots.is_none() {
            case.assumptions.push(format!(
                "each destination has room for {slots} at once: the one with most to do then uses two thirds of that \
                 (--slots tells better; how much of a time is work and how much is waiting, nothing here says)"
            ));
        }
        let recommendation = recommend(&case.trace, slots, self.seed, self.seeds as usize, progress);
        let costs = output::costs(&case.trace, slots, &recommendation);
        say(&match self.output {
            Output::Text => output::text(&case, &recommendation, &costs),
            Output::Json => format!("{:#}\n", output::json(&case, &recommendation, &costs)),
        });
    }
}

fn usage(why: String) -> (u8, String) {
    (USAGE, why)
}

fn down(why: &impl ToString) -> (u8, String) {
    (DOWN, why.to_string())
}

fn algorithm(name: &str) -> Result<Algorithm, (u8, String)> {
    let all = || Algorithm::ALL.map(Algorithm::name).join(", ");
    Algorithm::from_name(name)
        .ok_or_else(|| usage(format!("there is no algorithm `{name}`; there are {}", all())))
}
