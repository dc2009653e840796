//! What a program may say of a destination.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use plimsoll_core::{Address, Weight};

use crate::error::LoadBalancingError;

/// More destinations than this are refused in one call: up to here weighted rotations give each at least one
/// turn.
pub const MOST_DESTINATIONS: usize = 65_536;

/// One address that can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Unique among the destinations of a call. Left empty it is the address.
    #[serde(default)]
    pub id: String,
    /// `IP:PORT` (IPv6 in brackets) or `unix:/PATH`. Host names are not resolved.
    pub address: String,
    /// Its part of the work, 0 to 65,535; 0 takes none.
    #[serde(default = "one")]
    pub weight: u16,
    /// 0 is the first tier; higher ones are backup tiers.
    #[serde(default)]
    pub priority: u8,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Anything else worth knowing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What it speaks. Told back, not looked at: the library moves no messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

fn one() -> u16 {
    1
}

impl Destination {
    /// A destination of weight 1 in the first tier.
    pub fn new(id: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            address: address.into(),
            weight: 1,
            priority: 0,
            zone: None,
            labels: BTreeMap::new(),
            protocol: None,
        }
    }

    /// The same with another weight.
    #[must_use]
    pub fn weighing(self, weight: u16) -> Self {
        Self { weight, ..self }
    }

    /// The same in another tier.
    #[must_use]
    pub fn in_tier(self, priority: u8) -> Self {
        Self { priority, ..self }
    }

    /// The id, or what stands for it.
    pub(crate) fn known_as(&self) -> &str {
        if self.id.is_empty() { &self.address } else { &self.id }
    }

    /// The core's word for it.
    pub(crate) fn parse(&self) -> Result<plimsoll_core::Destination, LoadBalancingError> {
        let bad = || LoadBalancingError::BadAddress {
            id: self.known_as().to_owned(),
            address: self.address.clone(),
        };
        let address = match self.address.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Address::Unix(Path::new(path).into()),
            Some(_) => return Err(bad()),
            None => match self.address.parse::<SocketAddr>() {
                Ok(address) if address.port() != 0 => Address::Socket(address),
                _ => return Err(bad()),
            },
        };
        Ok(plimsoll_core::Destination {
            weight: Weight::new(self.weight),
            priority: self.priority,
            zone: self.zone.as_deref().map(Into::into),
            labels: self
                .labels
                .iter()
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
            ..plimsoll_core::Destination::new(self.known_as(), address)
        })
    }
}

/// Is this a list to balance over? (Addresses are checked where they are parsed.)
pub(crate) fn check(destinations: &[Destination]) -> Result<(), LoadBalancingError> {
    match destinations.len() {
        0 => return Err(LoadBalancingError::NoDestinations),
        given if given > MOST_DESTINATIONS => return Err(LoadBalancingError::TooManyDestinations { given }),
        _ => {}
    }
    let mut ids = HashSet::with_capacity(destinations.len());
    match destinations.iter().find(|destination| !ids.insert(destination.known_as())) {
        Some(twice) => Err(LoadBalancingError::DuplicateId { id: twice.known_as().to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_or_paths() {
        for good in ["127.0.0.1:80", "[::1]:443", "unix:/run/x.sock"] {
            assert_eq!(Destination::new("", good).parse().expect(good).address.to_string(), good);
        }
        for bad in ["", "127.0.0.1", "127.0.0.1:0", "example.com:80", "unix:", "unix:x", "::1:80:90:"] {
            let error = Destination::new("x", bad).parse().expect_err(bad);
            assert_eq!(error, LoadBalancingError::BadAddress { id: "x".into(), address: bad.into() });
        }
    }

    #[test]
    fn json_needs_only_an_address() {
        let bare: Destination = serde_json::from_str(r#"{"address": "127.0.0.1:80"}"#).expect("enough");
        assert_eq!(bare, Destination::new("", "127.0.0.1:80"));
        assert_eq!(&*bare.parse().expect("good").name, "127.0.0.1:80");
    }

    #[test]
    fn lists_are_bounded_and_ids_unique() {
        let (a, b) = (Destination::new("a", "127.0.0.1:1"), Destination::new("", "a"));
        assert_eq!(check(&[]), Err(LoadBalancingError::NoDestinations));
        assert_eq!(check(&[a.clone(), b]), Err(LoadBalancingError::DuplicateId { id: "a".into() }));
        let crowd = vec![a; MOST_DESTINATIONS + 1];
        assert_eq!(check(&crowd), Err(LoadBalancingError::TooManyDestinations { given: 65_537 }));
    }
}
