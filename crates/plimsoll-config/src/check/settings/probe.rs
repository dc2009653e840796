//! Protocol and content of a health check.

use std::sync::Arc;

use plimsoll_core::health::{Login, ProbeKind};

use crate::defaults;

/// Protocol of a health check.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckProtocol {
    Tcp,
    Http,
    Grpc,
    Udp,
    Mqtt,
    /// Check of the embedding program, by its name.
    Other(&'static str),
}

/// Settings of a health check's protocol and content, from all blocks.
#[derive(Clone, Debug)]
pub(crate) struct ProbeSettings {
    /// Protocol given or implied; `None` = not given.
    pub(crate) protocol: Option<CheckProtocol>,
    pub(crate) method: Arc<str>,
    pub(crate) path: Arc<str>,
    pub(crate) host: Option<Arc<str>>,
    pub(crate) expected_status: Arc<[(u16, u16)]>,
    pub(crate) headers: Arc<[(Arc<str>, Arc<str>)]>,
    pub(crate) expected_body: Option<Arc<[u8]>>,
    pub(crate) send: Arc<[u8]>,
    pub(crate) expected_reply: Option<Arc<[u8]>>,
    pub(crate) service: Arc<str>,
    pub(crate) username: Option<Arc<str>>,
    pub(crate) password: Arc<str>,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        Self {
            protocol: None,
            method: defaults::CHECK_METHOD.into(),
            path: defaults::CHECK_PATH.into(),
            host: None,
            expected_status: [defaults::CHECK_EXPECT].into(),
            headers: Arc::default(),
            expected_body: None,
            send: defaults::CHECK_DATAGRAM.as_bytes().into(),
            expected_reply: None,
            service: defaults::CHECK_SERVICE.into(),
            username: None,
            password: Arc::default(),
        }
    }
}

impl ProbeSettings {
    /// Returns whether no block determines the protocol.
    pub(crate) fn protocol_is_default(&self) -> bool {
        self.protocol.is_none()
    }

    /// Returns the check.
    pub(crate) fn probe(&self) -> ProbeKind {
        match self.protocol {
            None | Some(CheckProtocol::Tcp) => ProbeKind::Tcp,
            Some(CheckProtocol::Udp) => {
                ProbeKind::Udp { send: self.send.clone(), expect: self.expected_reply.clone() }
            }
            Some(CheckProtocol::Grpc) => {
                ProbeKind::Grpc { service: self.service.clone(), host: self.host.clone() }
            }
            Some(CheckProtocol::Http) => ProbeKind::Http {
                method: self.method.clone(),
                path: self.path.clone(),
                host: self.host.clone(),
                expect: self.expected_status.clone(),
                headers: self.headers.clone(),
                body: self.expected_body.clone(),
            },
            Some(CheckProtocol::Mqtt) => {
                let login = |username: &Arc<str>| Login {
                    username: username.clone(),
                    password: self.password.clone(),
                };
                ProbeKind::Mqtt { login: self.username.as_ref().map(login) }
            }
            Some(CheckProtocol::Other(name)) => ProbeKind::Other(name),
        }
    }
}
