//! The protocols that listeners can speak, and the health checks of the embedding program.

use std::sync::Arc;

use plimsoll_config::model::Protocol;

use crate::health::probe::custom::Check;
use crate::listener::adapter::Adapter;
use crate::serve::detect::Detect;
use crate::serve::http::Http;
use crate::serve::mqtt::Mqtt;
use crate::serve::tcp::Tcp;
use crate::serve::udp::Udp;

/// The protocols there are: a list, in the order they are asked when one is to be detected; and the embedding
/// program's own ways to check destinations.
#[derive(Clone, Debug)]
pub struct Adapters {
    adapters: Vec<Arc<dyn Adapter>>,
    checks: Vec<Arc<dyn Check>>,
}

impl Adapters {
    /// HTTP, MQTT, TCP and UDP.
    pub fn built_in() -> Self {
        Self {
            adapters: vec![Arc::new(Http), Arc::new(Mqtt), Arc::new(Tcp), Arc::new(Udp)],
            checks: Vec::new(),
        }
    }

    /// One more, asked before all others; of two with one word the later one serves.
    #[must_use]
    pub fn with(mut self, adapter: impl Adapter + 'static) -> Self {
        self.adapters.insert(0, Arc::new(adapter));
        self
    }

    /// One more way to check destinations; of two with one word the later one is asked.
    #[must_use]
    pub fn with_check(mut self, check: impl Check + 'static) -> Self {
        self.checks.insert(0, Arc::new(check));
        self
    }

    /// Those a configuration may name beside the built-in ones: for [`plimsoll_config::Extensions`].
    pub fn names(&self) -> Vec<&'static str> {
        self.adapters.iter().map(|adapter| adapter.name()).collect()
    }

    /// What its checks may speak beside the built-in ones: for [`plimsoll_config::Extensions`].
    pub fn check_names(&self) -> Vec<&'static str> {
        self.checks.iter().map(|check| check.name()).collect()
    }

    /// Who checks by this word, if somebody here does.
    pub(crate) fn check(&self, word: &str) -> Option<Arc<dyn Check>> {
        self.checks.iter().find(|check| check.name() == word).cloned()
    }

    /// Who serves a listener of this protocol, if somebody here does.
    pub(crate) fn of(&self, protocol: Protocol) -> Option<Arc<dyn Adapter>> {
        if protocol == Protocol::Auto {
            return Some(Arc::new(Detect(self.adapters.clone())));
        }
        self.adapters.iter().find(|adapter| adapter.name() == protocol.as_str()).cloned()
    }
}
