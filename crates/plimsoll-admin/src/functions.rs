//! The seed's functions over HTTP: on pools of the running balancer, and on destinations that come with the call.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use plimsoll_functions::{
    Alert, Destination, HealthMonitoringConfig, HealthMonitoringError, HealthMonitoringResult, HealthStatus,
    LoadBalancingConfig, LoadBalancingError, LoadDistribution, PerformanceMetrics, Recommendation,
    balance_load, monitor_health,
};
use plimsoll_proxy::Handle;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::{bad_request, find};
use crate::problem::Problem;
use crate::spec_views;

/// Whom a call is about, and how.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Call<C> {
    /// A pool of this balancer, run as its configuration says …
    pool: Option<String>,
    /// … or these, …
    destinations: Option<Vec<Destination>>,
    /// … so.
    config: Option<C>,
    /// What a pool that hashes chooses by.
    key: Option<String>,
}

/// The two ways to call.
enum About<C> {
    Pool(String),
    These(Vec<Destination>, C),
}

impl<C: Default> Call<C> {
    fn about(self) -> Result<About<C>, Problem> {
        let problem = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
        match (self.pool, self.destinations, self.config) {
            (Some(pool), None, None) => Ok(About::Pool(pool)),
            (Some(_), None, Some(_)) => Err(problem(
                "a pool is run as its configuration says: leave `config` out, or give `destinations`",
            )),
            (None, Some(destinations), config) => Ok(About::These(destinations, config.unwrap_or_default())),
            (Some(_), Some(_), _) => Err(problem("give `pool` or `destinations`, not both")),
            (None, None, _) => Err(problem("give `pool`, or `destinations` and `config`")),
        }
    }
}

/// The seed's `LoadBalancingResult`, of a pool.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Balanced {
    selected_destination: Destination,
    load_distribution: LoadDistribution,
    health_status: HealthStatus,
    performance: PerformanceMetrics,
    recommendations: Vec<Recommendation>,
}

/// `balanceLoad`: who takes the next message. Nothing is sent.
pub(crate) async fn balance(
    State(handle): State<Handle>,
    call: Result<Json<Call<LoadBalancingConfig>>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(mut call) = call.map_err(|error| bad_request(&error.body_text()))?;
    let key = call.key.take();
    match call.about()? {
        About::Pool(name) => Ok(Json(of_pool(&handle, &name, key.as_deref()).await?).into_response()),
        About::These(..) if key.is_some() => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "`key` is for pools; give no key with `destinations`"))
        }
        About::These(destinations, config) => {
            let result = balance_load(&destinations, &config).await.map_err(|error| unbalanced(&error))?;
            Ok(Json(result).into_response())
        }
    }
}

async fn of_pool(handle: &Handle, name: &str, key: Option<&str>) -> Result<Balanced, Problem> {
    let unavailable = |why: &dyn ToString| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string());
    let chosen = match handle.balance_load(name, key.map(str::as_bytes)) {
        Some(chosen) => Some(chosen.map_err(|why| unavailable(&why))?),
        None => None,
    };
    // Also tells which pools there are, where this is none.
    let pool = find(handle, name).await?;
    let selected = pool.destinations.iter().find(|d| Some(&d.name) == chosen.as_ref());
    let selected = selected.ok_or_else(|| unavailable(&"the pool has just changed; ask again"))?;
    let clock = handle.clock();
    Ok(Balanced {
        selected_destination: spec_views::destination(selected),
        load_distribution: spec_views::load_distribution(&pool),
        health_status: spec_views::health_status(&pool, clock),
        performance: spec_views::performance(&pool, clock),
        recommendations: spec_views::recommendations(&pool).collect(),
    })
}

fn unbalanced(error: &LoadBalancingError) -> Problem {
    let status = match error {
        LoadBalancingError::NoneServing | LoadBalancingError::AllTried => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Problem::new(status, error.to_string())
}

/// `monitorHealth`: how destinations are. Those that come with the call are checked from here on.
pub(crate) async fn monitor(
    State(handle): State<Handle>,
    call: Result<Json<Call<HealthMonitoringConfig>>, JsonRejection>,
) -> Result<Json<HealthMonitoringResult>, Problem> {
    let Json(call) = call.map_err(|error| bad_request(&error.body_text()))?;
    if call.key.is_some() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "health has no `key`"));
    }
    match call.about()? {
        About::Pool(name) => {
            let pool = find(&handle, &name).await?;
            Ok(Json(spec_views::health(&pool, handle.clock())))
        }
        About::These(destinations, config) => {
            let result = monitor_health(&destinations, &config).await;
            Ok(Json(result.map_err(|error| unmonitored(&error))?))
        }
    }
}

fn unmonitored(error: &HealthMonitoringError) -> Problem {
    let status = match error {
        HealthMonitoringError::BadDestinations { .. } | HealthMonitoringError::BadConfig { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        HealthMonitoringError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.to_string())
}

/// The alerts of all pools, those that stand first.
pub(crate) async fn alerts(State(handle): State<Handle>) -> Response {
    let (pools, clock) = (handle.pools().await, handle.clock());
    let told = |pool| {
        spec_views::alerts(pool, clock).map(|alert| OfPool { pool: pool.name.to_string(), told: alert })
    };
    let mut alerts: Vec<OfPool<Alert>> = pools.iter().flat_map(told).collect();
    alerts.sort_by_key(|alert| alert.told.cleared_at.is_some());
    Json(json!({ "alerts": alerts })).into_response()
}

/// What could be better about the health of all pools.
pub(crate) async fn recommendations(State(handle): State<Handle>) -> Response {
    let pools = handle.pools().await;
    let told = |pool| {
        spec_views::recommendations(pool).map(|found| OfPool { pool: pool.name.to_string(), told: found })
    };
    let found: Vec<OfPool<Recommendation>> = pools.iter().flat_map(told).collect();
    Json(json!({ "recommendations": found })).into_response()
}

/// Something of one pool among that of others.
#[derive(Serialize)]
struct OfPool<T> {
    pool: String,
    #[serde(flatten)]
    told: T,
}

/// Who acknowledges.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acknowledgement {
    by: Option<String>,
}

/// Bytes of a name.
const NAME: usize = 100;

/// Somebody knows of an alert.
pub(crate) async fn acknowledge(
    State(handle): State<Handle>,
    id: Result<Path<String>, PathRejection>,
    said: Option<Json<Acknowledgement>>,
) -> Result<Json<Alert>, Problem> {
    let Path(id) = id.map_err(|error| bad_request(&error))?;
    let by = said.and_then(|Json(said)| said.by).unwrap_or_else(|| "admin".to_owned());
    if by.is_empty() || by.len() > NAME || by.contains(char::is_control) {
        return Err(bad_request(&"`by` is a name of one line, at most 100 bytes"));
    }
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is no alert {id}"));
    let (pool, number) = id.rsplit_once('.').ok_or_else(unknown)?;
    let number = number.parse().map_err(|_| unknown())?;
    let alert = handle.acknowledge(pool, number, &by).await.ok_or_else(unknown)?;
    Ok(Json(Alert::of(pool, &alert, handle.clock())))
}
