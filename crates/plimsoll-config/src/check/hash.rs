//! What messages are hashed by, and how keys find destinations.

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

const KEY_HELP: &str = "it is one of source, path, header:NAME, cookie:NAME, query:NAME";
const BOUND_HELP: &str = "write it like \"125%\": what a destination may have in flight beside its share of all; \
                          \"none\" for no bound";

/// Percent of a destination's share: below 101 not all messages would fit, and beyond 1000 nothing is bounded.
const BOUND: std::ops::RangeInclusive<u16> = 101..=1000;

/// Bytes of a cookie's or parameter's name.
const NAME_BYTES: usize = 256;

impl Reader<'_> {
    /// Lays a `hash` block over `settings`. `algorithm_here`: the block it stands in decides the algorithm.
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
        set_if_given(&mut settings.hash_key, key.and_then(|p| self.parsed(p, "what to hash by", parse_key)));
        if !algorithm_here {
            return;
        }
        match (settings.algorithm, key) {
            (Algorithm::Hash, _) => {}
            (Algorithm::SourceHash, Some(key)) if settings.hash_key != HashKey::Source => {
                self.problem(key, Code::Conflict, "`source_hash` hashes by the client's address")
                    .help("make the algorithm `hash`, or remove this key");
            }
            (Algorithm::SourceHash, _) => {}
            (other, _) => {
                let message = format!("`hash` is for hashing, and the algorithm here is `{}`", other.name());
                self.problem(node, Code::Conflict, message)
                    .help("make the algorithm `hash` or `source_hash`, or remove this block");
            }
        }
    }

    /// Tells when a listener that sees no requests leads to a pool that hashes by something of them.
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
                "the pool `{}` hashes by something of requests, and a `{}` listener sees none",
                pool.name,
                listener.protocol.as_str()
            );
            self.problem(node, Code::Conflict, message)
                .help("give the listener a pool with `hash: {key: source}`");
        }
    }
}

fn parse_key(text: &str) -> Result<HashKey, ValueError> {
    let wrong = || ValueError::new(Code::BadValue, "is nothing to hash by", KEY_HELP);
    let name = |name: &str, kept_out: &[char]| {
        let good = |c: char| c.is_ascii_graphic() && !kept_out.contains(&c);
        let fits = (1..=NAME_BYTES).contains(&name.len()) && name.chars().all(good);
        fits.then(|| name.to_owned()).ok_or_else(wrong)
    };
    match text.split_once(':') {
        None if text == "source" => Ok(HashKey::Source),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", header)) => header_name(header).map(HashKey::Header),
        Some(("cookie", cookie)) => name(cookie, &['=', ';', ',', '"']).map(HashKey::Cookie),
        Some(("query", parameter)) => name(parameter, &['=', '&', '#', '?']).map(HashKey::Query),
        _ => Err(wrong()),
    }
}

fn parse_bound(text: &str) -> Result<Option<u16>, ValueError> {
    if text == "none" {
        return Ok(None);
    }
    let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let percent: u16 = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| ValueError::new(Code::BadUnit, "is no bound", BOUND_HELP))?;
    if BOUND.contains(&percent) {
        Ok(Some(percent))
    } else {
        Err(ValueError::new(Code::OutOfRange, "is out of range: 101% to 1000%", BOUND_HELP))
    }
}
