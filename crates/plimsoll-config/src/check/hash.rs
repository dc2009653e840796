//! Consistent hashing: key, table and bound.

use plimsoll_core::balance::{Algorithm, HashSpec, HashTable};

use crate::check::config_node::ConfigNode;
use crate::check::headers::header_name;
use crate::check::keys;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::check::value_error::ValueError;
use crate::model::{HashKey, Listener, Pool, Protocol};
use crate::problem::Code;

const KEY_HELP: &str = "expected one of source, path, header:NAME, cookie:NAME, query:NAME";
const BOUND_HELP: &str =
    "write it like \"125%\", the maximum load of a destination relative to its fair share, or \"none\"";

/// Range of the bound in percent of a fair share. Below 101 not all messages would fit; above 1000 nothing is bounded.
const BOUND: std::ops::RangeInclusive<u16> = 101..=1000;

/// Maximum bytes of the name of a cookie or query parameter.
const NAME_BYTES: usize = 256;

impl Reader<'_> {
    /// Reads a `hash` block over `settings`. With `algorithm_here`, the enclosing block determines the algorithm.
    pub(crate) fn hash(&mut self, node: &ConfigNode<'_>, algorithm_here: bool, settings: &mut Settings) {
        let Some(mapping) = self.mapping(node, &keys::HASH) else { return };
        let tables =
            [("ring", HashTable::Ring), ("maglev", HashTable::Maglev), ("rendezvous", HashTable::Rendezvous)];
        let HashSpec { table, bound } = &mut settings.hash;
        set_if_given(table, mapping.get("table").and_then(|p| self.keyword(p, &tables, &[])));
        set_if_given(
            bound,
            mapping.get("bound").and_then(|p| self.parsed(p, "a share like \"125%\"", parse_bound)),
        );
        let key = mapping.get("key");
        set_if_given(&mut settings.hash_key, key.and_then(|p| self.parsed(p, "a hash key", parse_key)));
        if !algorithm_here {
            return;
        }
        match (settings.algorithm, key) {
            (Algorithm::Hash, _) => {}
            (Algorithm::SourceHash, Some(key)) if settings.hash_key != HashKey::Source => {
                self.problem(
                    key,
                    Code::Conflict,
                    "`algorithm: source_hash` always uses the client's address as its key",
                )
                .help("set `algorithm: hash`, or remove this key");
            }
            (Algorithm::SourceHash, _) => {}
            (other, _) => {
                let message = format!(
                    "`hash` applies to `algorithm: hash` and `source_hash`, found `algorithm: {}`",
                    other.name()
                );
                self.problem(node, Code::Conflict, message)
                    .help("set `algorithm: hash` or `algorithm: source_hash`, or remove this block");
            }
        }
    }

    /// Reports a listener without HTTP requests where the pool uses a part of them as its hash key.
    pub(crate) fn check_hash_key_visible(
        &mut self,
        node: &ConfigNode<'_>,
        listener: &Listener,
        pools: &[Pool],
    ) {
        if matches!(listener.protocol, Protocol::Http | Protocol::Auto) {
            return;
        }
        let target_pools = listener.routes.iter().map(|route| route.pool).chain(listener.pool);
        let by_request = |pool: &&Pool| pool.hash_key().is_some_and(|key| *key != HashKey::Source);
        if let Some(pool) = target_pools.filter_map(|index| pools.get(index)).find(by_request) {
            let message = format!(
                "the pool `{}` uses a part of HTTP requests as its hash key, and a `{}` listener does not receive any",
                pool.name,
                listener.protocol.as_str()
            );
            self.problem(node, Code::Conflict, message).help("use a pool with `hash: {key: source}`");
        }
    }
}

fn parse_key(text: &str) -> Result<HashKey, ValueError> {
    let error = || ValueError::new(Code::BadValue, "is not a valid hash key", KEY_HELP);
    let name = |name: &str, forbidden: &[char]| {
        let allowed = |c: char| c.is_ascii_graphic() && !forbidden.contains(&c);
        let fits = (1..=NAME_BYTES).contains(&name.len()) && name.chars().all(allowed);
        fits.then(|| name.to_owned()).ok_or_else(error)
    };
    match text.split_once(':') {
        None if text == "source" => Ok(HashKey::Source),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", header)) => header_name(header).map(HashKey::Header),
        Some(("cookie", cookie)) => name(cookie, &['=', ';', ',', '"']).map(HashKey::Cookie),
        Some(("query", parameter)) => name(parameter, &['=', '&', '#', '?']).map(HashKey::Query),
        _ => Err(error()),
    }
}

fn parse_bound(text: &str) -> Result<Option<u16>, ValueError> {
    if text == "none" {
        return Ok(None);
    }
    let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let percent: u16 = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| ValueError::new(Code::BadUnit, "is not a valid bound", BOUND_HELP))?;
    if BOUND.contains(&percent) {
        Ok(Some(percent))
    } else {
        Err(ValueError::new(Code::OutOfRange, "is out of range: expected 101% to 1000%", BOUND_HELP))
    }
}
