//! Which path answers what.

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
use plimsoll_proxy::{Ask, Handle, NotReported, PoolView, ReloadError, Unanswerable};
use serde::Deserialize;
use serde_json::json;

use crate::functions;
use crate::guard::guard;
use crate::metrics;
use crate::problem::Problem;
use crate::views::{Destination, Explanation, Pool, Server};

/// The whole API.
pub(crate) fn router(handle: Handle) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/v1/server", get(server))
        .route("/v1/pools", get(pools))
        .route("/v1/pools/{pool}", get(pool))
        .route("/v1/pools/{pool}/destinations/{destination}", get(destination))
        .route("/v1/pools/{pool}/destinations/{destination}/load", post(load))
        .route("/v1/explain", post(explain))
        .route("/v1/balance", post(functions::balance))
        .route("/v1/health/monitor", post(functions::monitor))
        .route("/v1/alerts", get(functions::alerts))
        .route("/v1/alerts/{id}/ack", post(functions::acknowledge))
        .route("/v1/recommendations", get(functions::recommendations))
        .route("/v1/config:reload", post(reload))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(guard))
        .with_state(handle)
}

async fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn wrong_method() -> Problem {
    let detail =
        "this path does not take this method; what changes something takes POST, what tells something GET";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// The process lives: that is all.
async fn healthz() -> &'static str {
    "ok\n"
}

/// New work is welcome here.
async fn readyz(State(handle): State<Handle>) -> (StatusCode, &'static str) {
    match handle.is_draining() {
        false => (StatusCode::OK, "ready\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

#[derive(Deserialize)]
struct Wanted {
    /// Beginnings of metric names, with commas between.
    metrics: Option<String>,
}

async fn scrape(
    State(handle): State<Handle>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(wanted) = wanted.map_err(|error| bad_request(&error))?;
    let text = metrics::text(&handle, wanted.metrics.as_deref()).await;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

pub(crate) fn bad_request(error: &impl ToString) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error.to_string())
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
    let pool = find(&handle, &name).await?;
    Ok(Json(Pool::new(&pool, handle.clock())))
}

async fn destination(
    State(handle): State<Handle>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Destination>, Problem> {
    let Path((pool, name)) = names.map_err(|error| bad_request(&error))?;
    let pool = find(&handle, &pool).await?;
    let found = pool.destinations.iter().find(|d| *d.name == *name);
    let found = found.ok_or_else(|| no_destination(&pool, &name))?;
    Ok(Json(Destination::new(found, handle.clock())))
}

/// A heartbeat: what a destination says of its load, by the name of each metric.
async fn load(
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
        NotReported::NoSuchPool | NotReported::NoSuchDestination => {
            let pool = find(&handle, &pool).await?;
            no_destination(&pool, &destination)
        }
        NotReported::NoLoad(metric) => {
            unprocessable(format!("{metric} is no load: numbers from 0 to 10^15, the score at most 1"))
        }
        NotReported::Nothing => {
            let known = LoadMetric::KNOWN.map(|(name, _)| name).join(", ");
            unprocessable(format!(
                "nothing of it is known here; known are: {known}, and what the pool's formula reads"
            ))
        }
    })
}

fn no_destination(pool: &PoolView, name: &str) -> Problem {
    let known = pool.destinations.iter().map(|d| &*d.name);
    unknown(&format!("pool {} has no destination", pool.name), name, known)
}

pub(crate) async fn find(handle: &Handle, name: &str) -> Result<PoolView, Problem> {
    let mut pools = handle.pools().await;
    match pools.iter().position(|pool| *pool.name == *name) {
        Some(at) => Ok(pools.swap_remove(at)),
        None => Err(unknown("there is no pool", name, pools.iter().map(|pool| &*pool.name))),
    }
}

/// Names told to someone who asked for one that does not exist; a pool may have thousands.
const MAX_KNOWN: usize = 20;

fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str>) -> Problem {
    let mut known: Vec<&str> = known.collect();
    let more = known.len() > MAX_KNOWN;
    known.truncate(MAX_KNOWN);
    let more = if more { ", …" } else { "" };
    Problem::new(StatusCode::NOT_FOUND, format!("{what} {name}; known are: {}{more}", known.join(", ")))
}

/// A request as it would be sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Question {
    #[serde(default = "get_method")]
    method: String,
    url: String,
    /// `name: value`, in order.
    #[serde(default)]
    headers: Vec<String>,
    from: Option<IpAddr>,
}

fn get_method() -> String {
    "GET".to_owned()
}

/// What would become of a request; nothing is sent.
async fn explain(
    State(handle): State<Handle>,
    question: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Explanation>, Problem> {
    let Json(Question { method, url, headers, from }) =
        question.map_err(|error| bad_request(&error.body_text()))?;
    let header = |line: &String| match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(bad_request(&format!("`{line}` is not like `name: value`"))),
    };
    let headers = headers.iter().map(header).collect::<Result<_, _>>()?;
    let told = handle.explain(&Ask { method, url, headers, from }).await;
    let told = told.map_err(|Unanswerable(why)| bad_request(&why))?;
    Ok(Json(Explanation::new(&told)))
}

/// Runs to its end even if whoever asked does not wait.
async fn reload(State(handle): State<Handle>) -> Response {
    let reloaded = tokio::spawn(async move { handle.reload().await }).await;
    let refused = match reloaded {
        Ok(Ok(summary)) => return Json(json!({ "applied": true, "summary": summary })).into_response(),
        Ok(Err(error)) => error,
        Err(_) => {
            let detail = "the reload ended unexpectedly; see the log";
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response();
        }
    };
    let detail = refused.to_string();
    match refused {
        ReloadError::Invalid(invalid) => {
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
            problem.with_problems(&invalid.problems).into_response()
        }
        ReloadError::Start(_) | ReloadError::Draining => {
            Problem::new(StatusCode::CONFLICT, detail).into_response()
        }
    }
}
