//! Protocol and content of a health check.

use std::sync::Arc;

use plimsoll_core::health::{Login, ProbeKind};

use crate::defaults;

/// What a check speaks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Tcp,
    Http,
    Grpc,
    Udp,
    Mqtt,
    /// What the embedding program calls so.
    Other(&'static str),
}

/// Everything that was said of it; blocks are laid over one another.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    /// `None`: nobody said how.
    pub(crate) asks: Option<Asks>,
    pub(crate) method: Arc<str>,
    pub(crate) path: Arc<str>,
    pub(crate) host: Option<Arc<str>>,
    pub(crate) status: Arc<[(u16, u16)]>,
    pub(crate) headers: Arc<[(Arc<str>, Arc<str>)]>,
    pub(crate) body: Option<Arc<[u8]>>,
    pub(crate) send: Arc<[u8]>,
    pub(crate) reply: Option<Arc<[u8]>>,
    pub(crate) service: Arc<str>,
    pub(crate) username: Option<Arc<str>>,
    pub(crate) password: Arc<str>,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            asks: None,
            method: defaults::CHECK_METHOD.into(),
            path: defaults::CHECK_PATH.into(),
            host: None,
            status: [defaults::CHECK_EXPECT].into(),
            headers: Arc::default(),
            body: None,
            send: Arc::default(),
            reply: None,
            service: defaults::CHECK_SERVICE.into(),
            username: None,
            password: Arc::default(),
        }
    }
}

impl Asking {
    pub(crate) fn is_by_default(&self) -> bool {
        self.asks.is_none()
    }

    pub(crate) fn probe(&self) -> ProbeKind {
        match self.asks {
            None | Some(Asks::Tcp) => ProbeKind::Tcp,
            Some(Asks::Udp) => ProbeKind::Udp { send: self.send.clone(), expect: self.reply.clone() },
            Some(Asks::Grpc) => ProbeKind::Grpc { service: self.service.clone(), host: self.host.clone() },
            Some(Asks::Http) => ProbeKind::Http {
                method: self.method.clone(),
                path: self.path.clone(),
                host: self.host.clone(),
                expect: self.status.clone(),
                headers: self.headers.clone(),
                body: self.body.clone(),
            },
            Some(Asks::Mqtt) => {
                let login = |username: &Arc<str>| Login {
                    username: username.clone(),
                    password: self.password.clone(),
                };
                ProbeKind::Mqtt { login: self.username.as_ref().map(login) }
            }
            Some(Asks::Other(word)) => ProbeKind::Other(word),
        }
    }
}
