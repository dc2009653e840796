//! Lookup of pools by name, and errors for unknown names.

use axum::http::StatusCode;
use plimsoll_proxy::{Handle, PoolView};

use crate::problem::Problem;

/// Returns the problem of an unknown destination.
pub(crate) fn unknown_destination(pool: &PoolView, name: &str) -> Problem {
    let known = pool.destinations.iter().map(|d| &*d.name);
    unknown_name(&format!("pool `{}` has no destination", pool.name), name, known)
}

/// Returns the pool of this name.
pub(crate) async fn find_pool(handle: &Handle, name: &str) -> Result<PoolView, Problem> {
    let mut pools = handle.pools().await;
    match pools.iter().position(|pool| *pool.name == *name) {
        Some(at) => Ok(pools.swap_remove(at)),
        None => Err(unknown_name("no pool", name, pools.iter().map(|pool| &*pool.name))),
    }
}

/// Maximum number of names listed in an error; a pool may have thousands.
const MAX_LISTED: usize = 20;

fn unknown_name<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str>) -> Problem {
    let mut known: Vec<&str> = known.collect();
    let more = known.len() > MAX_LISTED;
    known.truncate(MAX_LISTED);
    let more = if more { ", …" } else { "" };
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("{what} `{name}`; expected one of: {}{more}", known.join(", ")),
    )
}
