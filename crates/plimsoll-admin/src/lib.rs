//! What a running proxy tells about itself over HTTP, and what it lets itself be told.
//!
//! [`bind`] takes an address, [`serve`] answers on it. Everything comes from a [`plimsoll_proxy::Handle`].

mod api;
mod functions;
mod guard;
mod listener;
mod metrics;
mod problem;
mod spec_views;
mod views;

pub use listener::{BindError, Door, bind};

use std::convert::Infallible;

use plimsoll_proxy::Handle;

/// Answers on `door` for as long as it is polled. Needs a tokio runtime.
pub async fn serve(door: Door, handle: Handle) -> Infallible {
    loop {
        // axum's server ends with an error by its type only; it goes on after errors of its own.
        if let Err(error) = axum::serve(door.clone(), api::router(handle.clone())).await {
            tracing::error!(%error, "the admin plane stopped; starting it again");
        }
    }
}
