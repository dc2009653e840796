//! The specification's functions over HTTP, for pools of the running instance and for destinations of the call.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use plimsoll_functions::{
    Alert, Destination, DestinationOutcome, HealthMonitoringConfig, HealthMonitoringError,
    HealthMonitoringResult, HealthStatus, LoadBalancingConfig, LoadBalancingError, LoadDistribution,
    PerformanceMetrics, Recommendation, balance_load, monitor_health, pool_views, record_outcomes,
};
use plimsoll_proxy::Handle;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::lookup::find_pool;
use crate::problem::{Problem, bad_request};

/// Body of a call: a pool, or destinations with a configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct FunctionCall<C> {
    /// Name of a pool of the running instance.
    pool: Option<String>,
    /// Destinations, instead of a pool.
    destinations: Option<Vec<Destination>>,
    /// Configuration for `destinations`.
    config: Option<C>,
    /// Hash key of the message, for pools that hash.
    key: Option<String>,
}

/// The subject of a call.
enum Subject<C> {
    Pool(String),
    Destinations(Vec<Destination>, C),
}

impl<C: Default> FunctionCall<C> {
    fn subject(self) -> Result<Subject<C>, Problem> {
        let problem = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
        match (self.pool, self.destinations, self.config) {
            (Some(pool), None, None) => Ok(Subject::Pool(pool)),
            (Some(_), None, Some(_)) => {
                Err(problem("`config` is not allowed with `pool`: the pool has its own"))
            }
            (None, Some(destinations), config) => {
                Ok(Subject::Destinations(destinations, config.unwrap_or_default()))
            }
            (Some(_), Some(_), _) => Err(problem("expected `pool` or `destinations`, found both")),
            (None, None, _) => Err(problem("expected `pool`, or `destinations` and `config`")),
        }
    }
}

/// The specification's `LoadBalancingResult`, for a pool.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoolBalancingResult {
    selected_destination: Destination,
    load_distribution: LoadDistribution,
    health_status: HealthStatus,
    performance: PerformanceMetrics,
    recommendations: Vec<Recommendation>,
}

/// `balanceLoad`: picks the destination of the next message. Nothing is sent.
pub(crate) async fn balance(
    State(handle): State<Handle>,
    call: Result<Json<FunctionCall<LoadBalancingConfig>>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(mut call) = call.map_err(|error| bad_request(&error.body_text()))?;
    let key = call.key.take();
    match call.subject()? {
        Subject::Pool(name) => Ok(Json(balance_pool(&handle, &name, key.as_deref()).await?).into_response()),
        Subject::Destinations(..) if key.is_some() => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "`key` is not allowed with `destinations`"))
        }
        Subject::Destinations(destinations, config) => {
            let result =
                balance_load(&destinations, &config).await.map_err(|error| balancing_problem(&error))?;
            Ok(Json(result).into_response())
        }
    }
}

async fn balance_pool(
    handle: &Handle,
    name: &str,
    key: Option<&str>,
) -> Result<PoolBalancingResult, Problem> {
    let unavailable =
        |reason: &dyn ToString| Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason.to_string());
    let picked = match handle.balance_load(name, key.map(str::as_bytes)) {
        Some(picked) => Some(picked.map_err(|reason| unavailable(&reason))?),
        None => None,
    };
    // An unknown pool is reported here, with the known ones.
    let pool = find_pool(handle, name).await?;
    let selected = pool.destinations.iter().find(|d| Some(&d.name) == picked.as_ref());
    let selected = selected.ok_or_else(|| unavailable(&"the pool has just changed; retry"))?;
    let clock = handle.clock();
    Ok(PoolBalancingResult {
        selected_destination: pool_views::destination(selected),
        load_distribution: pool_views::load_distribution(&pool),
        health_status: pool_views::health_status(&pool, clock),
        performance: pool_views::performance(&pool),
        recommendations: pool_views::recommendations(&pool).collect(),
    })
}

/// Records outcomes of messages: their destinations were selected by `balance` from those of a call. All or none are
/// recorded.
pub(crate) async fn outcomes(
    outcomes: Result<Json<Vec<DestinationOutcome>>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(outcomes) = outcomes.map_err(|error| bad_request(&error.body_text()))?;
    record_outcomes(&outcomes).map_err(|error| balancing_problem(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn balancing_problem(error: &LoadBalancingError) -> Problem {
    let status = match error {
        LoadBalancingError::NoneServing | LoadBalancingError::AllTried => StatusCode::SERVICE_UNAVAILABLE,
        LoadBalancingError::UnknownDestination { .. } => StatusCode::NOT_FOUND,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Problem::new(status, error.to_string())
}

/// `monitorHealth`: returns the health of destinations. Those of the call are checked from the first call on.
pub(crate) async fn monitor(
    State(handle): State<Handle>,
    call: Result<Json<FunctionCall<HealthMonitoringConfig>>, JsonRejection>,
) -> Result<Json<HealthMonitoringResult>, Problem> {
    let Json(call) = call.map_err(|error| bad_request(&error.body_text()))?;
    if call.key.is_some() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "`key` is not allowed"));
    }
    match call.subject()? {
        Subject::Pool(name) => {
            let pool = find_pool(&handle, &name).await?;
            Ok(Json(pool_views::health(&pool, handle.clock())))
        }
        Subject::Destinations(destinations, config) => {
            let result = monitor_health(&destinations, &config).await;
            Ok(Json(result.map_err(|error| monitoring_problem(&error))?))
        }
    }
}

fn monitoring_problem(error: &HealthMonitoringError) -> Problem {
    let status = match error {
        HealthMonitoringError::InvalidDestinations { .. } | HealthMonitoringError::InvalidConfig { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        HealthMonitoringError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.to_string())
}

/// Returns the alerts of all pools, active ones first.
pub(crate) async fn alerts(State(handle): State<Handle>) -> Response {
    let (pools, clock) = (handle.pools().await, handle.clock());
    let with_pool = |pool| {
        pool_views::alerts(pool, clock).map(|alert| WithPool { pool: pool.name.to_string(), item: alert })
    };
    let mut alerts: Vec<WithPool<Alert>> = pools.iter().flat_map(with_pool).collect();
    alerts.sort_by_key(|alert| alert.item.cleared_at.is_some());
    Json(json!({ "alerts": alerts })).into_response()
}

/// Returns the recommendations of all pools.
pub(crate) async fn recommendations(State(handle): State<Handle>) -> Response {
    let pools = handle.pools().await;
    let with_pool = |pool| {
        pool_views::recommendations(pool).map(|found| WithPool { pool: pool.name.to_string(), item: found })
    };
    let found: Vec<WithPool<Recommendation>> = pools.iter().flat_map(with_pool).collect();
    Json(json!({ "recommendations": found })).into_response()
}

/// An item with the name of its pool.
#[derive(Serialize)]
struct WithPool<T> {
    pool: String,
    #[serde(flatten)]
    item: T,
}

/// Body of an acknowledgement.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acknowledgement {
    /// Name of the person or system that acknowledges.
    by: Option<String>,
}

/// Maximum bytes of a name.
const MAX_NAME: usize = 100;

/// Acknowledges an alert.
pub(crate) async fn acknowledge(
    State(handle): State<Handle>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Option<Json<Acknowledgement>>, JsonRejection>,
) -> Result<Json<Alert>, Problem> {
    let Path(id) = id.map_err(|error| bad_request(&error))?;
    let body = body.map_err(|error| bad_request(&error.body_text()))?;
    let by = body.and_then(|Json(body)| body.by).unwrap_or_else(|| "admin".to_owned());
    if by.is_empty() || by.len() > MAX_NAME || by.contains(char::is_control) {
        return Err(bad_request(&"`by`: expected one line of 1 to 100 bytes"));
    }
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("no alert `{id}`"));
    let (pool, number) = id.rsplit_once('.').ok_or_else(unknown)?;
    let number = number.parse().map_err(|_| unknown())?;
    let alert = handle.acknowledge(pool, number, &by).await.ok_or_else(unknown)?;
    Ok(Json(pool_views::alert(pool, &alert, handle.clock())))
}
