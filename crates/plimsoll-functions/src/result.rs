//! Results: load distribution, health, performance and recommendations.

use serde::{Deserialize, Serialize};

/// Distribution of messages since the destinations or the configuration last changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LoadDistribution {
    /// Shares of the destinations, in the order given.
    pub destinations: Vec<DestinationShare>,
    /// Total variation distance between intended and actual shares: 0 is exact, 1 is the maximum.
    ///
    /// It is the share of all messages that would have to go to another destination; `None` before the first
    /// message.
    pub deviation: Option<f64>,
}

/// One destination's share of the messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DestinationShare {
    /// Id of the destination.
    pub id: String,
    /// Weight as configured, 0 to 65,535.
    pub weight: u16,
    /// Weight in effect now.
    pub effective_weight: f64,
    /// Intended share, 0 to 1: within the first tier that serves, by weight if the algorithm uses weights.
    pub intended_share: f64,
    /// Actual share, 0 to 1; `None` before the first message.
    pub share: Option<f64>,
    /// Number of messages in flight.
    pub in_flight: u32,
}

/// Health of a pool.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HealthState {
    /// All destinations with a weight above 0 are healthy.
    Healthy,
    /// Some destinations fail.
    Degraded,
    /// All destinations fail, or none has a weight above 0.
    Down,
}

impl HealthState {
    /// Parses the name of a state; unknown names are [`Down`](Self::Down).
    pub(crate) fn from_name(name: &str) -> Self {
        match name {
            "healthy" => Self::Healthy,
            "degraded" => Self::Degraded,
            _ => Self::Down,
        }
    }
}

/// Health of a pool with its number of serving destinations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HealthStatus {
    /// Health of the pool.
    pub state: HealthState,
    /// Number of healthy destinations with a weight above 0.
    pub serving: usize,
    /// Number of all destinations.
    pub total: usize,
    /// Time of the last change of `state`, in milliseconds since 1970.
    pub since: u64,
}

/// Time to the first byte of a response, in milliseconds.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ResponseTime {
    /// Mean of all response times.
    pub mean: f64,
    /// Median response time.
    pub p50: f64,
    /// 90th percentile response time.
    pub p90: f64,
    /// 99th percentile response time.
    pub p99: f64,
}

/// Performance of a pool, from reported outcomes. Without outcomes, `samples` is 0 and all rates are `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PerformanceMetrics {
    /// Time covered, in milliseconds: a minute, or less for a young balancer or more than 1,024 outcomes a minute.
    pub window_ms: f64,
    /// Number of outcomes.
    pub samples: usize,
    /// Time to the first byte of a response.
    pub response_time_ms: Option<ResponseTime>,
    /// Outcomes per second.
    pub throughput_per_second: Option<f64>,
    /// Share of outcomes that count as failures of the destination: no response, or 5xx except 501 and 505.
    pub error_rate: Option<f64>,
    /// Share of outcomes that are responses, of any status.
    pub availability: Option<f64>,
    /// Number of messages in flight.
    pub in_flight: u32,
    /// Performance of each destination, in the order given.
    pub destinations: Vec<DestinationPerformance>,
}

/// Performance of one destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DestinationPerformance {
    /// Id of the destination.
    pub id: String,
    /// Time covered, in milliseconds.
    pub window_ms: f64,
    /// Number of outcomes.
    pub samples: usize,
    /// Time to the first byte of a response.
    pub response_time_ms: Option<ResponseTime>,
    /// Outcomes per second.
    pub throughput_per_second: Option<f64>,
    /// Share of outcomes that count as failures of the destination.
    pub error_rate: Option<f64>,
    /// Share of outcomes that are responses, of any status.
    pub availability: Option<f64>,
    /// Number of messages in flight.
    pub in_flight: u32,
}

/// A recommended change, with its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Recommendation {
    /// Id; the same finding has the same id every time.
    pub id: String,
    /// Kind: `failing_destination`, `no_redundancy` or `weights_ignored`.
    ///
    /// Health monitoring adds `check_wrong`, `check_disagrees`, `check_nearly_late`, `flapping`, `zone_out` and
    /// `dead_weight`.
    pub kind: String,
    /// Id of a destination or key of the configuration.
    pub subject: String,
    /// Recommended action, as a sentence.
    pub message: String,
    /// Observations that support it.
    pub evidence: Vec<String>,
    /// Effect to expect from the action.
    pub expected_effect: String,
    /// Confidence, 0 to 1.
    pub confidence: f64,
    /// Shell command that applies or verifies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}
