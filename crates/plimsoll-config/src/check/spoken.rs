//! What a listener speaks, and which of its keys that makes sense of.

use crate::check::config_node::Place;
use crate::check::read::Reader;
use crate::check::route::Routed;
use crate::check::table::Table;
use crate::model::Protocol;
use crate::problem::Code;

/// What the word after `protocol` says of a listener.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Spoken {
    pub(crate) word: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) tls: Tls,
}

/// Whether a listener ends TLS.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Its protocol says no.
    Never,
    /// Its protocol says so: it must say how.
    Always,
    /// If it says how.
    IfGiven,
}

const fn spoken(word: &'static str, protocol: Protocol, tls: Tls) -> Spoken {
    Spoken { word, protocol, tls }
}

pub(crate) const HTTP: Spoken = spoken("http", Protocol::Http, Tls::Never);
pub(crate) const SPOKEN: [Spoken; 7] = [
    HTTP,
    spoken("https", Protocol::Http, Tls::Always),
    spoken("tcp", Protocol::Tcp, Tls::Never),
    spoken("tls", Protocol::Tcp, Tls::Always),
    spoken("udp", Protocol::Udp, Tls::Never),
    spoken("mqtt", Protocol::Mqtt, Tls::IfGiven),
    spoken("auto", Protocol::Auto, Tls::IfGiven),
];

/// Keys that mean nothing where there are no connections.
const NOT_FOR_DATAGRAMS: [&str; 4] = ["proxy_protocol", "timeouts", "limits", "routes"];

impl Spoken {
    /// It carries requests.
    pub(crate) fn sees_requests(self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Auto)
    }

    /// Its clients say first what they want, within limits.
    pub(crate) fn awaits_a_head(self) -> bool {
        !matches!(self.protocol, Protocol::Tcp | Protocol::Udp)
    }

    /// It has connections.
    pub(crate) fn connects(self) -> bool {
        self.protocol != Protocol::Udp
    }

    /// What it sees of the hellos of TLS: those it answers, and those it passes on and may route by.
    pub(crate) fn sees_hello(self, ends_tls: bool, routes: bool) -> bool {
        ends_tls || self.protocol == Protocol::Auto || (self.protocol == Protocol::Tcp && routes)
    }

    /// What its routes choose between.
    pub(crate) fn routed(self, ends_tls: bool) -> Routed {
        match (self.sees_requests(), ends_tls || self.protocol == Protocol::Auto) {
            (true, false) => Routed::Requests,
            (true, true) => Routed::TlsRequests,
            (false, _) => Routed::Connections,
        }
    }

    pub(crate) fn needs_pool(self) -> &'static str {
        match self.protocol {
            Protocol::Http => "say which pool takes its requests, here or in `routes`",
            Protocol::Udp => "say which pool takes its datagrams",
            _ => "say which pool takes its connections",
        }
    }
}

impl Reader<'_> {
    /// The word after `protocol`: one of ours, or one the embedding program added.
    pub(crate) fn spoken(&mut self, place: &Place<'_>) -> Option<Spoken> {
        let own = SPOKEN.into_iter().map(|spoken| (spoken.word, spoken));
        let added = self
            .extensions
            .protocols
            .iter()
            .map(|&word| (word, spoken(word, Protocol::Other(word), Tls::IfGiven)));
        let words: Vec<_> = own.chain(added).collect();
        self.word(place, &words, &[])
    }

    /// Tells of keys for requests at a listener that sees none.
    pub(crate) fn only_http(&mut self, table: &Table<'_>, keys: &[&str], spoken: Spoken) {
        for key in keys {
            let Some(place) = table.get(key) else { continue };
            let at = place.key.unwrap_or(place.node.span);
            let message = format!("`{key}` is for requests, and a `{}` listener sees none", spoken.word);
            self.problems
                .add(Code::Conflict, at, place.path.text(), message)
                .help("remove it, or make the listener's protocol `http`");
        }
    }

    pub(crate) fn only_tls(&mut self, table: &Table<'_>, key: &str) {
        let Some(place) = table.get(key) else { return };
        let at = place.key.unwrap_or(place.node.span);
        let message = format!("`{key}` is for TLS, and this listener sees none");
        self.problems
            .add(Code::Conflict, at, place.path.text(), message)
            .help("remove it, or make the listener's protocol `https` or `tls`");
    }

    pub(crate) fn not_for_datagrams(&mut self, table: &Table<'_>) {
        for key in NOT_FOR_DATAGRAMS {
            let Some(place) = table.get(key) else { continue };
            let at = place.key.unwrap_or(place.node.span);
            let help = match key {
                "timeouts" => "remove it; `udp: {idle: …}` says when a silent client is forgotten",
                "limits" => "remove it; `udp: {max_flows: …}` bounds how many clients there are",
                "routes" => "remove it, and name the one pool with `pool`",
                _ => "remove it",
            };
            let message = format!("`{key}` is for connections, and a `udp` listener has none");
            self.problems.add(Code::Conflict, at, place.path.text(), message).help(help);
        }
    }
}
