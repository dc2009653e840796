//! Log writers of a proxy: their start, and their last lines.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_config::model::Config;
use plimsoll_core::Tick;

use crate::base::clock::Clock;
use crate::base::log_writer::{LogSender, LogState};
use crate::control::error::StartError;
use crate::log::access_log;
use crate::log::decision_log::{self, DecisionSender};

/// Time limit of writing the last lines of the access log and the decision log.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Log writers of a proxy.
#[derive(Default)]
pub(super) struct Logs {
    pub(super) access: Option<LogSender>,
    pub(super) access_state: Arc<LogState>,
    pub(super) decisions: Option<DecisionSender>,
    pub(super) decisions_state: Arc<LogState>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

impl Logs {
    /// Starts the configured log writers.
    pub(super) fn start(config: &Config) -> Result<Self, StartError> {
        let mut logs = Self::default();
        if let Some(target) = &config.access_log {
            let (sender, thread) = access_log::start(target, logs.access_state.clone())
                .map_err(|error| StartError::System { what: "open the access log", error })?;
            logs.access = Some(sender);
            logs.threads.push(thread);
        }
        if let Some(config) = &config.decision_log {
            let (sender, thread) = decision_log::start(config, logs.decisions_state.clone())
                .map_err(|error| StartError::System { what: "open the decision log", error })?;
            logs.decisions = Some(sender);
            logs.threads.push(thread);
        }
        Ok(logs)
    }
}

/// Waits until the last lines are written. A log that does not take its lines must not hold up the end.
pub(super) async fn wait_until_written(threads: Vec<JoinHandle<()>>) {
    let written = Clock::start();
    while threads.iter().any(|thread| !thread.is_finished())
        && written.now().since(Tick::ZERO) < LOG_FLUSH_TIMEOUT
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
