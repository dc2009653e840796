//! Registry of protocol adapters, and of health checks of the embedding program.

use std::sync::Arc;

use plimsoll_config::model::Protocol;

use crate::health::probe::custom::Check;
use crate::listener::adapter::{Adapter, SocketHandler};
use crate::net::name_lookup::{NameLookup, SystemLookup};
use crate::serve::detect::Detect;
use crate::serve::http::Http;
use crate::serve::mqtt::Mqtt;
use crate::serve::tcp::Tcp;
use crate::serve::udp::Udp;

/// Protocol adapters, in the order of their detection, and health checks of the embedding program.
#[derive(Clone, Debug)]
pub struct Adapters {
    adapters: Vec<Arc<dyn Adapter>>,
    checks: Vec<Arc<dyn Check>>,
    lookup: Arc<dyn NameLookup>,
}

impl Adapters {
    /// Returns the built-in protocols: HTTP, MQTT, TCP and UDP.
    pub fn built_in() -> Self {
        let adapters: Vec<Arc<dyn Adapter>> = vec![Arc::new(Http), Arc::new(Mqtt), Arc::new(Tcp)];
        Self { adapters, checks: Vec::new(), lookup: Arc::new(SystemLookup) }
    }

    /// Adds an adapter before all others; the latest of several with one name is used.
    #[must_use]
    pub fn with(mut self, adapter: impl Adapter + 'static) -> Self {
        self.adapters.insert(0, Arc::new(adapter));
        self
    }

    /// Adds a health check; the latest of several with one name is used.
    #[must_use]
    pub fn with_check(mut self, check: impl Check + 'static) -> Self {
        self.checks.insert(0, Arc::new(check));
        self
    }

    /// Replaces the lookup of host names.
    #[must_use]
    pub fn with_lookup(mut self, lookup: impl NameLookup + 'static) -> Self {
        self.lookup = Arc::new(lookup);
        self
    }

    /// Returns the lookup of host names.
    pub(crate) fn lookup(&self) -> Arc<dyn NameLookup> {
        self.lookup.clone()
    }

    /// Returns the names of all adapters, for [`plimsoll_config::Extensions`].
    pub fn names(&self) -> Vec<&'static str> {
        self.adapters.iter().map(|adapter| adapter.name()).collect()
    }

    /// Returns the names of all added checks, for [`plimsoll_config::Extensions`].
    pub fn check_names(&self) -> Vec<&'static str> {
        self.checks.iter().map(|check| check.name()).collect()
    }

    /// Returns the check of this name.
    pub(crate) fn check(&self, name: &str) -> Option<Arc<dyn Check>> {
        self.checks.iter().find(|check| check.name() == name).cloned()
    }

    /// Returns the handler of a listener's protocol.
    pub(crate) fn of(&self, protocol: Protocol) -> Option<SocketHandler> {
        let adapter = match protocol {
            Protocol::Udp => return Some(SocketHandler::Datagrams(Arc::new(Udp))),
            Protocol::Auto => Some(Arc::new(Detect(self.adapters.clone())) as Arc<dyn Adapter>),
            _ => self.adapters.iter().find(|adapter| adapter.name() == protocol.as_str()).cloned(),
        };
        adapter.map(SocketHandler::Streams)
    }
}
