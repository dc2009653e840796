//! Routes and handlers of the API.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use plimsoll_core::measure::LoadMetric;
use plimsoll_proxy::{ExplainError, ExplainQuery, Handle, LoadReportError, ReloadError};
use serde::Deserialize;
use serde_json::json;

use crate::functions;
use crate::guard::guard;
use crate::lookup::{find_pool, unknown_destination};
use crate::metrics;
use crate::problem::{Problem, bad_request};
use crate::views::{Destination, Explanation, Pool, Server};

/// Returns the router of the whole API.
pub(crate) fn router(handle: Handle) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/v1/server", get(server))
        .route("/v1/pools", get(pools))
        .route("/v1/pools/{pool}", get(pool))
        .route("/v1/pools/{pool}/destinations/{destination}", get(destination))
        .route("/v1/pools/{pool}/destinations/{destination}/load", post(report_load))
        .route("/v1/explain", post(explain))
        .route("/v1/balance", post(functions::balance))
        .route("/v1/balance:outcomes", post(functions::outcomes))
        .route("/v1/health/monitor", post(functions::monitor))
        .route("/v1/alerts", get(functions::alerts))
        .route("/v1/alerts/{id}/ack", post(functions::acknowledge))
        .route("/v1/recommendations", get(functions::recommendations))
        .route("/v1/config:reload", post(reload))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(guard))
        .with_state(handle)
}

async fn unknown_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown path")
}

async fn method_not_allowed() -> Problem {
    let detail = "method not allowed: use GET to read, POST to change";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// Liveness: the process responds.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Readiness: the process accepts new connections.
async fn readyz(State(handle): State<Handle>) -> (StatusCode, &'static str) {
    match handle.is_draining() {
        false => (StatusCode::OK, "ready\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

#[derive(Deserialize)]
struct MetricsQuery {
    /// Prefixes of metric names, comma-separated.
    metrics: Option<String>,
}

async fn scrape(
    State(handle): State<Handle>,
    query: Result<Query<MetricsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| bad_request(&error))?;
    let text = metrics::text(&handle, query.metrics.as_deref()).await;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn server(State(handle): State<Handle>) -> Json<Server> {
    let pools = handle.pools().await;
    Json(Server::new(&handle, &pools))
}

async fn pools(State(handle): State<Handle>) -> Response {
    let pools = handle.pools().await;
    let pools: Vec<_> = pools.iter().map(|pool| Pool::new(pool, handle.clock())).collect();
    Json(json!({ "pools": pools })).into_response()
}

async fn pool(
    State(handle): State<Handle>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Pool>, Problem> {
    let Path(name) = name.map_err(|error| bad_request(&error))?;
    let pool = find_pool(&handle, &name).await?;
    Ok(Json(Pool::new(&pool, handle.clock())))
}

async fn destination(
    State(handle): State<Handle>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Destination>, Problem> {
    let Path((pool, name)) = names.map_err(|error| bad_request(&error))?;
    let pool = find_pool(&handle, &pool).await?;
    let found = pool.destinations.iter().find(|d| *d.name == *name);
    let found = found.ok_or_else(|| unknown_destination(&pool, &name))?;
    Ok(Json(Destination::new(found, handle.clock())))
}

/// Records a load report of a destination: its metrics by name.
async fn report_load(
    State(handle): State<Handle>,
    names: Result<Path<(String, String)>, PathRejection>,
    gauges: Result<Json<BTreeMap<String, f64>>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Path((pool, destination)) = names.map_err(|error| bad_request(&error))?;
    let Json(gauges) = gauges.map_err(|error| bad_request(&error.body_text()))?;
    let gauges: Vec<(&str, f64)> = gauges.iter().map(|(name, value)| (&**name, *value)).collect();
    let why = match handle.report_load(&pool, &destination, &gauges) {
        Ok(()) => return Ok(StatusCode::NO_CONTENT),
        Err(why) => why,
    };
    let unprocessable = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    Err(match why {
        LoadReportError::UnknownPool | LoadReportError::UnknownDestination => {
            let pool = find_pool(&handle, &pool).await?;
            unknown_destination(&pool, &destination)
        }
        LoadReportError::InvalidValue(metric) => {
            unprocessable(format!("`{metric}`: expected a number from 0 to 1e15 (`score`: to 1)"))
        }
        LoadReportError::NoKnownMetric => {
            let known = LoadMetric::KNOWN.map(|(name, _)| name).join(", ");
            unprocessable(format!(
                "unknown metrics: expected at least one of {known} or of those the pool's formula reads"
            ))
        }
        other => unprocessable(other.to_string()),
    })
}

/// Body of `POST /v1/explain`: the request to explain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ExplainRequest {
    #[serde(default = "get_method")]
    method: String,
    url: String,
    /// Header lines, `name: value`.
    #[serde(default)]
    headers: Vec<String>,
    from: Option<IpAddr>,
}

fn get_method() -> String {
    "GET".to_owned()
}

/// Explains the handling of a request without sending it.
async fn explain(
    State(handle): State<Handle>,
    body: Result<Json<ExplainRequest>, JsonRejection>,
) -> Result<Json<Explanation>, Problem> {
    let Json(ExplainRequest { method, url, headers, from }) =
        body.map_err(|error| bad_request(&error.body_text()))?;
    let header = |line: &String| match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(bad_request(&format!("headers: expected `name: value`, found `{line}`"))),
    };
    let headers = headers.iter().map(header).collect::<Result<_, _>>()?;
    let explained = handle.explain(&ExplainQuery { method, url, headers, from }).await;
    let explained = explained.map_err(|ExplainError(why)| bad_request(&why))?;
    Ok(Json(Explanation::new(&explained)))
}

/// Reloads the configuration. The reload is completed even if the client disconnects.
async fn reload(State(handle): State<Handle>) -> Response {
    let reloaded = tokio::spawn(async move { handle.reload().await }).await;
    let rejected = match reloaded {
        Ok(Ok(summary)) => return Json(json!({ "applied": true, "summary": summary })).into_response(),
        Ok(Err(error)) => error,
        Err(_) => {
            let detail = "the reload failed unexpectedly; see the log";
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response();
        }
    };
    let detail = rejected.to_string();
    match rejected {
        ReloadError::Invalid(invalid) => {
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
            problem.with_problems(&invalid.problems).into_response()
        }
        _ => Problem::new(StatusCode::CONFLICT, detail).into_response(),
    }
}
