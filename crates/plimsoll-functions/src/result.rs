//! What an answer tells of the pool: the words of the seed's `LoadBalancingResult`.

use serde::{Deserialize, Serialize};

/// How messages were spread since the destinations or the configuration last changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadDistribution {
    /// In the order given.
    pub destinations: Vec<DestinationShare>,
    /// How far the shares are from the intended ones: half the sum of the differences, which is the part of
    /// all messages that would have to go elsewhere. 0 is exact, 1 is all wrong; `None` before the first
    /// message.
    pub deviation: Option<f64>,
}

/// One destination's part of the work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationShare {
    /// Who.
    pub id: String,
    /// As given.
    pub weight: u16,
    /// As in force now.
    pub effective_weight: f64,
    /// The share it should have: of the first tier that serves, by weight where the algorithm heeds weights,
    /// else all alike.
    pub intended_share: f64,
    /// The share it had; `None` before the first message.
    pub share: Option<f64>,
    /// Messages that hold an assignment for it now.
    pub in_flight: u32,
}

/// How a pool is, in a word.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Every destination that takes messages answers them.
    Healthy,
    /// Some fail.
    Degraded,
    /// All fail, or none takes messages.
    Down,
}

impl HealthState {
    /// The state a pool's word stands for.
    pub fn of_word(word: &str) -> Self {
        match word {
            "healthy" => Self::Healthy,
            "degraded" => Self::Degraded,
            _ => Self::Down,
        }
    }
}

/// How many destinations may be counted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthStatus {
    /// In a word.
    pub state: HealthState,
    /// Destinations that take messages and have not failed the last five reported to them.
    pub serving: usize,
    /// All destinations.
    pub total: usize,
    /// Since when `state` is so: milliseconds since 1970.
    pub since: u64,
}

/// Times to the first byte of the answer, milliseconds.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseTime {
    /// On average.
    pub mean: f64,
    /// Half were at most so long.
    pub p50: f64,
    /// Nine in ten were.
    pub p90: f64,
    /// 99 in 100 were.
    pub p99: f64,
}

/// What reported outcomes say of the pool. Without outcomes nothing is known: `samples` is 0 and what would
/// rest on them is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PerformanceMetrics {
    /// How far back this looks: a minute, or less where the balancer is younger or 1,024 outcomes came
    /// faster.
    pub window_ms: f64,
    /// Outcomes this rests on.
    pub samples: usize,
    /// Of those that answered.
    pub response_time_ms: Option<ResponseTime>,
    /// Outcomes a second.
    pub throughput_per_second: Option<f64>,
    /// Share of outcomes that speak against the destination: failures, and answers of 5xx but 501 and 505.
    pub error_rate: Option<f64>,
    /// Share of outcomes that are answers, of whatever status.
    pub availability: Option<f64>,
    /// Messages that hold an assignment now.
    pub in_flight: u32,
    /// Each destination by itself, in the order given.
    pub destinations: Vec<DestinationPerformance>,
}

/// What reported outcomes say of one destination: the same as of the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationPerformance {
    /// Who.
    pub id: String,
    /// As of the pool.
    pub window_ms: f64,
    /// Outcomes this rests on.
    pub samples: usize,
    /// Of those that answered.
    pub response_time_ms: Option<ResponseTime>,
    /// Outcomes a second.
    pub throughput_per_second: Option<f64>,
    /// Share of outcomes that speak against it.
    pub error_rate: Option<f64>,
    /// Share of outcomes that are answers.
    pub availability: Option<f64>,
    /// Messages that hold an assignment for it now.
    pub in_flight: u32,
}

/// What could be better, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recommendation {
    /// Same matter, same id.
    pub id: String,
    /// `failing_destination`, `no_redundancy`, `weights_ignored`; of monitoring also `check_wrong`,
    /// `check_disagrees`, `check_nearly_late`, `flapping`, `zone_out`, `dead_weight`.
    pub kind: String,
    /// What it is about: a destination's id, or a key of the configuration.
    pub subject: String,
    /// What to do.
    pub message: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What doing it would bring.
    pub expected_effect: String,
    /// How sure, 0 to 1.
    pub confidence: f64,
    /// A command that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}
