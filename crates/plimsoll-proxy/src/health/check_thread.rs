//! The thread that runs the health checks of this process.
//!
//! Destinations decide how much work a check's response makes. On a thread of its own it delays only other checks, never
//! signals, the admin API or a reload.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle};

/// Runtime of the thread; `None` if it could not be started. One for all proxies and monitors of the process.
static RUNTIME: OnceLock<Option<Handle>> = OnceLock::new();

/// Runs a check on the thread for checks, or on the current runtime if there is none.
pub(crate) fn spawn(check: impl Future<Output = ()> + Send + 'static) {
    match RUNTIME.get_or_init(start) {
        Some(runtime) => drop(runtime.spawn(check)),
        None => drop(tokio::spawn(check)),
    }
}

fn start() -> Option<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name("checks".into());
    thread.spawn(move || runtime.block_on(std::future::pending::<()>())).ok()?;
    Some(handle)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn checks_run_apart_from_the_runtime_that_starts_them() {
        let (send, name) = oneshot::channel();
        spawn(async move {
            let thread = std::thread::current();
            let _receiver_waits = send.send(thread.name().map(str::to_owned));
        });
        assert_eq!(name.await, Ok(Some("checks".to_owned())));
    }
}
