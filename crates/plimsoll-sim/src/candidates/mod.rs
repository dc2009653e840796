//! Who competes in a simulation: the policies of the product, and some from papers that are only tried here.
//!
//! Those on trial enter by the product's own seam (`Policy`, `Picker`), so that everything else about them is
//! the product's, too. What they need beyond it, answers to probes and readings that come with an answer, they
//! hear through [`Ear`].

mod oracle;
mod other_proxy;
mod probing;
mod score;
mod yarp;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::{Algorithm, Policy, Settings, Slot, custom};
use plimsoll_core::formula::{Formula, Misread};
use plimsoll_core::{Rng, Tick};

use crate::sim_destination::Reading;

pub use self::oracle::Oracle;
pub use self::other_proxy::Peer;
pub use self::probing::{ProbePool, Probing};
pub use self::score::Score;
pub use self::yarp::Yarp;

/// How a policy on trial learns what production policies do not.
pub trait Ear: Send + Sync {
    /// The same as a policy of the product.
    fn policy(self: Arc<Self>) -> Box<dyn Policy>;

    /// Whom to probe on behalf of a message that is about to be balanced.
    fn asks(&self, _sites: usize, _rng: &mut Rng, _whom: &mut Vec<usize>) {}

    /// A probe was answered.
    fn hears(&self, _now: Tick, _site: usize, _reading: Reading) {}

    /// Everyone is asked so often, besides.
    fn polls_every(&self) -> Option<Duration> {
        None
    }

    /// Wants to be told who would answer the next message first, as nobody can know.
    fn is_omniscient(&self) -> bool {
        false
    }

    /// That one.
    fn is_told(&self, _site: usize) {}
}

/// Who competes.
#[derive(Clone, Debug, PartialEq)]
pub enum Contender {
    /// An algorithm of the product, as it is configured.
    Production(Algorithm),
    /// `custom` with this formula.
    Custom(Arc<Formula>),
    /// `weighted_round_robin` whose weights follow goodput over processor use, as in Prequal's evaluation.
    WeightedByUse,
    /// Probes in a pool, and a score over them.
    Probing(Probing),
    /// The better of two by what was polled half a second ago at most (YARP's PowerOfTwoChoices, as Prequal's
    /// authors ran it).
    Yarp,
    /// Another product.
    Peer(Peer),
    /// Who would answer first, if nothing else came: better than anything real, and no policy.
    Oracle,
}

impl Contender {
    /// As it is written; [`Contender::from_str`] reads it.
    pub fn name(&self) -> String {
        match self {
            Self::Production(algorithm) => algorithm.name().to_owned(),
            Self::Custom(formula) => format!("custom:{}", formula.text()),
            Self::WeightedByUse => "weighted_by_use".to_owned(),
            Self::Probing(probing) if *probing == Probing::PREQUAL => "hcl".to_owned(),
            Self::Probing(probing) => match probing.score {
                Score::HotCold(quantile) => format!("hcl:{quantile}"),
                Score::Linear(share) => format!("linear:{share}"),
                Score::C3 => "c3".to_owned(),
            },
            Self::Yarp => "yarp".to_owned(),
            Self::Peer(peer) => peer.name().to_owned(),
            Self::Oracle => "oracle".to_owned(),
        }
    }

    /// What a balancer with so many workers and peers listens with, if it is on trial.
    pub fn ear(&self, balancers: usize, sites: usize) -> Option<Arc<dyn Ear>> {
        match self {
            Self::Production(_) | Self::Custom(_) | Self::WeightedByUse => None,
            Self::Probing(probing) => Some(Arc::new(ProbePool::new(*probing, balancers, sites))),
            Self::Yarp => Some(Arc::new(Yarp::new(sites))),
            Self::Peer(peer) => Some(Arc::new(*peer)),
            Self::Oracle => Some(Arc::new(Oracle::default())),
        }
    }

    /// The algorithm its pools are configured with.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Production(algorithm) => *algorithm,
            Self::Custom(_) => Algorithm::Custom,
            Self::WeightedByUse => Algorithm::WeightedRoundRobin,
            _ => Algorithm::Random,
        }
    }

    /// What that is told.
    pub fn settings(&self) -> Settings {
        let formula = if let Self::Custom(formula) = self { Some(formula.clone()) } else { None };
        Settings { formula, ..Settings::default() }
    }

    /// Every name that can be written, for messages.
    pub fn names() -> String {
        let production = Algorithm::ALL.map(Algorithm::name).join(", ");
        let peers = Peer::ALL.map(Peer::name).join(", ");
        format!(
            "{production}, custom:EXPRESSION; on trial: weighted_by_use, hcl, hcl:QUANTILE, linear:SHARE, c3, yarp, oracle; peers: {peers}"
        )
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let share = |number: &str| {
            number.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| {
                format!("`{text}` is no algorithm: what follows `{name}:` is a number from 0 to 1")
            })
        };
        let probing = |score| Self::Probing(Probing { score, ..Probing::PREQUAL });
        match (name, number) {
            ("hcl", None) => Ok(Self::Probing(Probing::PREQUAL)),
            ("hcl", Some(number)) => Ok(probing(Score::HotCold(share(number)?))),
            ("linear", Some(number)) => Ok(probing(Score::Linear(share(number)?))),
            ("c3", None) => Ok(probing(Score::C3)),
            ("yarp", None) => Ok(Self::Yarp),
            ("oracle", None) => Ok(Self::Oracle),
            ("weighted_by_use", None) => Ok(Self::WeightedByUse),
            ("custom", formula) => {
                let formula = formula.map(|_| &text["custom:".len()..]).unwrap_or(custom::DEFAULT);
                let told = |misread: Misread| {
                    let help = misread.help.map(|help| format!(" ({help})")).unwrap_or_default();
                    format!("`{text}` is no algorithm: {}{help}", misread.what)
                };
                Ok(Self::Custom(Arc::new(Formula::parse(formula).map_err(told)?)))
            }
            (name, None) => (Algorithm::from_name(name).map(Self::Production))
                .or_else(|| Peer::ALL.into_iter().find(|peer| peer.name() == name).map(Self::Peer))
                .ok_or_else(|| unknown(text)),
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> String {
    format!("there is no algorithm `{text}`; there are {}", Contender::names())
}

/// The index in `slots`, which are in order of rank, of destination `site`.
fn slot_of(slots: &[Slot], site: usize) -> Option<usize> {
    slots.binary_search_by_key(&(site as u32), |slot| slot.rank).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_answers_to_the_name_it_gives() {
        let names = ["hcl", "hcl:0.5", "linear:0.25", "c3", "yarp", "oracle", "weighted_by_use"];
        let production = Algorithm::ALL.map(Algorithm::name).into_iter().filter(|name| *name != "custom");
        for name in
            production.chain(Peer::ALL.map(Peer::name)).chain(names).chain(["custom:in_flight / weight"])
        {
            assert_eq!(name.parse::<Contender>().map(|contender| contender.name()), Ok(name.to_owned()));
        }
        for wrong in ["fastest", "hcl:2", "hcl:x", "linear", "random:1", "custom:", "custom:speed", ""] {
            assert!(wrong.parse::<Contender>().is_err(), "{wrong}");
        }
    }
}
