//! Policies a simulation can compare: the product's algorithms, and policies from papers and other products.
//!
//! The latter implement the product's own `Policy` and `Picker`, so that everything around them is the
//! product's. What they need beyond that, probe responses and polls, they get through [`PolicyFeedback`].

mod oracle;
mod other_proxy;
mod probing;
mod score;
mod yarp;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::{Algorithm, AlgorithmSettings, Policy, Slot, custom};
use plimsoll_core::formula::{Formula, FormulaError};
use plimsoll_core::{Rng, Tick};

use crate::sim_destination::ProbeResponse;

pub use self::oracle::Oracle;
pub use self::other_proxy::OtherProxy;
pub use self::probing::{ProbeSettings, ProbingPolicy};
pub use self::score::ProbeScore;
pub use self::yarp::Yarp;

/// Information that a policy gets in a simulation beyond what the product provides.
pub trait PolicyFeedback: Send + Sync {
    /// Returns the policy for the product's pool.
    fn policy(self: Arc<Self>) -> Box<dyn Policy>;

    /// Chooses the destinations to probe with a message that is about to be balanced.
    fn choose_probes(&self, _destinations: usize, _rng: &mut Rng, _targets: &mut Vec<usize>) {}

    /// Records the response to a probe.
    fn on_probe_response(&self, _now: Tick, _destination: usize, _response: ProbeResponse) {}

    /// Returns the interval at which all destinations are polled.
    fn poll_interval(&self) -> Option<Duration> {
        None
    }

    /// Returns whether it needs to know which destination would respond to the next message first.
    fn needs_forecast(&self) -> bool {
        false
    }

    /// Sets the destination that would respond to the next message first.
    fn set_fastest(&self, _destination: usize) {}
}

/// Policy that a simulation can run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CandidatePolicy {
    /// Algorithm of the product with its default settings.
    Production(Algorithm),
    /// Algorithm `custom` with this formula.
    Custom(Arc<Formula>),
    /// Algorithm `weighted_round_robin` with weights by goodput over processor use, as in Prequal's
    /// evaluation.
    WeightedByUse,
    /// Pool of probes with a score, as in Prequal.
    Probing(ProbeSettings),
    /// Less loaded of two random destinations by loads polled every half second (YARP's PowerOfTwoChoices, as
    /// in Prequal's evaluation).
    Yarp,
    /// Algorithm of another proxy.
    OtherProxy(OtherProxy),
    /// Destination that would respond first if nothing else arrived: a bound that no real policy reaches.
    Oracle,
}

impl CandidatePolicy {
    /// Returns the name that [`CandidatePolicy::from_str`] parses.
    pub fn name(&self) -> String {
        match self {
            Self::Production(algorithm) => algorithm.name().to_owned(),
            Self::Custom(formula) => format!("custom:{}", formula.text()),
            Self::WeightedByUse => "weighted_by_use".to_owned(),
            Self::Probing(probing) if *probing == ProbeSettings::PREQUAL => "hcl".to_owned(),
            Self::Probing(probing) => match probing.score {
                ProbeScore::HotCold(quantile) => format!("hcl:{quantile}"),
                ProbeScore::Linear(share) => format!("linear:{share}"),
                ProbeScore::C3 => "c3".to_owned(),
            },
            Self::Yarp => "yarp".to_owned(),
            Self::OtherProxy(proxy) => proxy.name().to_owned(),
            Self::Oracle => "oracle".to_owned(),
        }
    }

    /// Returns the feedback interface of one balancer of `balancers`, unless it is an algorithm of the
    /// product.
    pub fn feedback(&self, balancers: usize, destinations: usize) -> Option<Arc<dyn PolicyFeedback>> {
        match self {
            Self::Production(_) | Self::Custom(_) | Self::WeightedByUse => None,
            Self::Probing(probing) => Some(Arc::new(ProbingPolicy::new(*probing, balancers, destinations))),
            Self::Yarp => Some(Arc::new(Yarp::new(destinations))),
            Self::OtherProxy(proxy) => Some(Arc::new(*proxy)),
            Self::Oracle => Some(Arc::new(Oracle::default())),
        }
    }

    /// Returns the algorithm its pools are configured with.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Production(algorithm) => *algorithm,
            Self::Custom(_) => Algorithm::Custom,
            Self::WeightedByUse => Algorithm::WeightedRoundRobin,
            _ => Algorithm::Random,
        }
    }

    /// Returns the settings of that algorithm.
    pub fn settings(&self) -> AlgorithmSettings {
        let formula = if let Self::Custom(formula) = self { Some(formula.clone()) } else { None };
        AlgorithmSettings { formula, ..AlgorithmSettings::default() }
    }

    /// Returns every name for messages.
    pub fn names() -> String {
        let production = Algorithm::ALL.map(Algorithm::name).join(", ");
        let others = OtherProxy::ALL.map(OtherProxy::name).join(", ");
        format!(
            "{production}, custom:EXPRESSION; from papers: weighted_by_use, hcl, hcl:QUANTILE, linear:SHARE, c3, yarp, oracle; other proxies: {others}"
        )
    }
}

impl FromStr for CandidatePolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let share = |number: &str| {
            number.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| {
                format!("`{text}` is not an algorithm: expected a number from 0 to 1 after `{name}:`")
            })
        };
        let probing = |score| Self::Probing(ProbeSettings { score, ..ProbeSettings::PREQUAL });
        match (name, number) {
            ("hcl", None) => Ok(Self::Probing(ProbeSettings::PREQUAL)),
            ("hcl", Some(number)) => Ok(probing(ProbeScore::HotCold(share(number)?))),
            ("linear", Some(number)) => Ok(probing(ProbeScore::Linear(share(number)?))),
            ("c3", None) => Ok(probing(ProbeScore::C3)),
            ("yarp", None) => Ok(Self::Yarp),
            ("oracle", None) => Ok(Self::Oracle),
            ("weighted_by_use", None) => Ok(Self::WeightedByUse),
            ("custom", formula) => {
                let formula = formula.map(|_| &text["custom:".len()..]).unwrap_or(custom::DEFAULT);
                let describe = |misread: FormulaError| {
                    let help = misread.help.map(|help| format!(" ({help})")).unwrap_or_default();
                    format!("`{text}` is not an algorithm: {}{help}", misread.message)
                };
                Ok(Self::Custom(Arc::new(Formula::parse(formula).map_err(describe)?)))
            }
            (name, None) => (Algorithm::from_name(name).map(Self::Production))
                .or_else(|| {
                    OtherProxy::ALL.into_iter().find(|proxy| proxy.name() == name).map(Self::OtherProxy)
                })
                .ok_or_else(|| unknown(text)),
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> String {
    format!("unknown algorithm `{text}`; expected one of {}", CandidatePolicy::names())
}

/// Returns the index of a destination in `slots`, which are in order of rank.
fn slot_of(slots: &[Slot], destination: usize) -> Option<usize> {
    slots.binary_search_by_key(&(destination as u32), |slot| slot.rank).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_parses_from_its_name() {
        let names = ["hcl", "hcl:0.5", "linear:0.25", "c3", "yarp", "oracle", "weighted_by_use"];
        let production = Algorithm::ALL.map(Algorithm::name).into_iter().filter(|name| *name != "custom");
        for name in production
            .chain(OtherProxy::ALL.map(OtherProxy::name))
            .chain(names)
            .chain(["custom:in_flight / weight"])
        {
            assert_eq!(
                name.parse::<CandidatePolicy>().map(|candidate| candidate.name()),
                Ok(name.to_owned())
            );
        }
        for wrong in ["fastest", "hcl:2", "hcl:x", "linear", "random:1", "custom:", "custom:speed", ""] {
            assert!(wrong.parse::<CandidatePolicy>().is_err(), "{wrong}");
        }
    }
}
