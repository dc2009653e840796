//! The admin API of Plimsoll: health, metrics, explanations and the specification's functions over HTTP.
//!
//! [`bind`] opens a listener, [`serve`] runs the API on it for one [`plimsoll_proxy::Handle`]. The crate reads
//! everything from the handle and keeps no state of its own. `plimsoll run` serves it on `127.0.0.1:9900`; a
//! program that embeds the proxy can serve it beside its own traffic:
//!
//! ```no_run
//! use plimsoll_config::load;
//! use plimsoll_proxy::Proxy;
//! use plimsoll_proxy::adapter::Adapters;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = "listen: '127.0.0.1:8080'\ndestinations: ['127.0.0.1:9001', '127.0.0.1:9002']";
//! let config = load(text, "inline", std::path::Path::new("."), &|_| None).config.ok_or("invalid")?;
//! let source = Box::new(|| Err("there is no file to reload".into()));
//! let proxy = Proxy::start(config, source, Adapters::built_in()).await?;
//!
//! let listener = plimsoll_admin::bind("127.0.0.1:9900".parse()?)?;
//! println!("admin API on http://{}", listener.address());
//! plimsoll_admin::serve(listener, proxy.handle()).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Paths
//!
//! | path | purpose |
//! |---|---|
//! | `GET /healthz`, `GET /readyz` | liveness; readiness (503 while draining) |
//! | `GET /metrics` | metrics in the Prometheus text format; `?metrics=PREFIX,…` selects families |
//! | `GET /v1/server` | version, state, listeners, reloads |
//! | `GET /v1/pools`, `GET /v1/pools/{pool}` | pools with their destinations, limits and load distribution |
//! | `GET /v1/pools/{pool}/destinations/{destination}` | one destination |
//! | `POST /v1/pools/{pool}/destinations/{destination}/load` | load report of a destination |
//! | `POST /v1/explain` | the destination a request would get, and why |
//! | `POST /v1/balance`, `POST /v1/health/monitor` | the specification's `balanceLoad` and `monitorHealth` |
//! | `POST /v1/balance:outcomes` | outcomes of messages: `[{destination, ok, responseTimeMs?}]` |
//! | `GET /v1/alerts`, `POST /v1/alerts/{id}/ack` | alerts; acknowledging one |
//! | `GET /v1/recommendations` | recommendations |
//! | `POST /v1/config:reload` | reloads the configuration, as a whole or not at all |
//!
//! # Conventions
//!
//! - Field names are camelCase. Times are milliseconds since 1970 (UTC), durations milliseconds, shares 0 to 1.
//! - A value that was not observed yet is null.
//! - Errors are problem documents (RFC 9457) of type `application/problem+json`.
//!
//! # Security
//!
//! There is no access control yet, so [`bind`] accepts loopback addresses only. Requests for other hosts (DNS
//! rebinding) and requests from pages of other sites are rejected with 403. Request bodies are limited to 1 MiB
//! and connections to 256. At that limit, the connection that has waited longest for its client is closed; a
//! request head has 30 seconds, a body 10.

mod api;
mod connections;
mod functions;
mod guard;
mod listener;
mod lookup;
mod metrics;
mod problem;
mod views;

pub use listener::{AdminListener, BindError, bind};

use std::convert::Infallible;

use plimsoll_proxy::Handle;

use crate::connections::Connections;

/// Serves the admin API on `listener` for as long as the future is polled. Needs a tokio runtime.
pub async fn serve(listener: AdminListener, handle: Handle) -> Infallible {
    let router = api::router(handle);
    let mut connections = Connections::new();
    loop {
        match listener.accept().await {
            Ok(stream) => connections.serve(stream, &router).await,
            Err(error) => connections.accept_failed(&error).await,
        }
    }
}
