//! Destinations of a call.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use plimsoll_core::{Address, Weight};

use crate::error::LoadBalancingError;

/// Maximum number of destinations of a call: weighted rotations give each of them at least one turn.
pub const MAX_DESTINATIONS: usize = 65_536;

/// An address that can serve messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct Destination {
    /// Id, unique among the destinations of a call. Default: the address.
    #[serde(default)]
    pub id: String,
    /// Address: `IP:PORT` (IPv6 in brackets) or `unix:/PATH`. Host names are not resolved.
    pub address: String,
    /// Relative share of the traffic, 0 to 65,535; 0 gets none. Default: 1.
    #[serde(default = "default_weight")]
    pub weight: u16,
    /// Tier: 0 is used first, higher ones are backup tiers. Default: 0.
    #[serde(default)]
    pub priority: u8,
    /// Zone the destination is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Labels for the program's own use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Protocol of the destination. It is returned but not used: the library transfers no messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

fn default_weight() -> u16 {
    1
}

impl Destination {
    /// Creates a destination with weight 1 in the first tier.
    pub fn new(id: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            address: address.into(),
            weight: default_weight(),
            priority: 0,
            zone: None,
            labels: BTreeMap::new(),
            protocol: None,
        }
    }

    /// Sets the weight.
    #[must_use]
    pub fn with_weight(self, weight: u16) -> Self {
        Self { weight, ..self }
    }

    /// Sets the tier.
    #[must_use]
    pub fn with_priority(self, priority: u8) -> Self {
        Self { priority, ..self }
    }

    /// Sets the address.
    #[must_use]
    pub fn with_address(self, address: impl Into<String>) -> Self {
        Self { address: address.into(), ..self }
    }

    /// Returns whether this is the id or the address.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.id == name || self.address == name
    }

    /// Returns the id, or the address if there is none.
    pub(crate) fn id_or_address(&self) -> &str {
        if self.id.is_empty() { &self.address } else { &self.id }
    }

    /// Converts to the core's type.
    ///
    /// # Errors
    /// [`LoadBalancingError::InvalidAddress`] if the address has another form.
    pub(crate) fn parse(&self) -> Result<plimsoll_core::Destination, LoadBalancingError> {
        let invalid = || LoadBalancingError::InvalidAddress {
            id: self.id_or_address().to_owned(),
            address: self.address.clone(),
        };
        let address = match self.address.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Address::Unix(Path::new(path).into()),
            Some(_) => return Err(invalid()),
            None => match self.address.parse::<SocketAddr>() {
                Ok(address) if address.port() != 0 => Address::Socket(address),
                _ => return Err(invalid()),
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
            ..plimsoll_core::Destination::new(self.id_or_address(), address)
        })
    }
}

/// Validates number and ids of destinations; addresses are validated by [`Destination::parse`].
pub(crate) fn validate(destinations: &[Destination]) -> Result<(), LoadBalancingError> {
    match destinations.len() {
        0 => return Err(LoadBalancingError::NoDestinations),
        given if given > MAX_DESTINATIONS => {
            return Err(LoadBalancingError::TooManyDestinations { given, max: MAX_DESTINATIONS });
        }
        _ => {}
    }
    let mut ids = HashSet::with_capacity(destinations.len());
    match destinations.iter().find(|destination| !ids.insert(destination.id_or_address())) {
        Some(twice) => Err(LoadBalancingError::DuplicateId { id: twice.id_or_address().to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_socket_addresses_or_unix_paths() {
        for good in ["127.0.0.1:80", "[::1]:443", "unix:/run/x.sock"] {
            assert_eq!(Destination::new("", good).parse().expect(good).address.to_string(), good);
        }
        for bad in ["", "127.0.0.1", "127.0.0.1:0", "example.com:80", "unix:", "unix:x", "::1:80:90:"] {
            let error = Destination::new("x", bad).parse().expect_err(bad);
            assert_eq!(error, LoadBalancingError::InvalidAddress { id: "x".into(), address: bad.into() });
        }
    }

    #[test]
    fn json_requires_only_an_address() {
        let bare: Destination = serde_json::from_str(r#"{"address": "127.0.0.1:80"}"#).expect("enough");
        assert_eq!(bare, Destination::new("", "127.0.0.1:80"));
        assert_eq!(&*bare.parse().expect("good").name, "127.0.0.1:80");
    }

    #[test]
    fn lists_are_bounded_and_ids_are_unique() {
        let (a, b) = (Destination::new("a", "127.0.0.1:1"), Destination::new("", "a"));
        assert_eq!(validate(&[]), Err(LoadBalancingError::NoDestinations));
        assert_eq!(validate(&[a.clone(), b]), Err(LoadBalancingError::DuplicateId { id: "a".into() }));
        let many = vec![a; MAX_DESTINATIONS + 1];
        assert_eq!(
            validate(&many),
            Err(LoadBalancingError::TooManyDestinations { given: 65_537, max: MAX_DESTINATIONS })
        );
    }
}
