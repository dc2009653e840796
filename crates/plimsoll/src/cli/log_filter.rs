//! PLIMSOLL_LOG: which lines of Plimsoll and of its libraries are logged.
//!
//! A level alone (`info`) is the level of Plimsoll. Libraries log only errors then, because some of them log a
//! line at WARN for each invalid frame of a client. `h2=debug` shows more of one library, and
//! `plimsoll_proxy=debug` of one part of Plimsoll. A filter that is not understood is reported and not used, so
//! that a misspelt word never silences the log.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Prefix of the targets of all our crates.
const OURS: &str = "plimsoll";
/// Names of the levels.
const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// Returns the filter of a level for Plimsoll's own lines.
pub(super) fn of_level(name: &str) -> Targets {
    with_level(level(name).unwrap_or(LevelFilter::INFO))
}

fn with_level(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::ERROR)).with_target(OURS, level)
}

/// Parses levels, comma-separated: one of Plimsoll's own lines, and `TARGET=LEVEL` of parts and libraries.
/// Without the former it is `default`.
///
/// # Errors
/// What was expected and what was found.
pub(super) fn parse(text: &str, default: &str) -> Result<Targets, String> {
    let mut own = None;
    let mut targets = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (target, name) = match part.split_once('=') {
            Some((target, name)) => (Some(target.trim()), name.trim()),
            None => (None, part),
        };
        let level = level(name).ok_or_else(|| expected_level(name))?;
        match target {
            None if own.is_some() => return Err("expected one level without a target, found two".to_owned()),
            None => own = Some(level),
            Some(target) if is_target(target) => targets.push((target.to_owned(), level)),
            Some(target) => {
                return Err(format!("expected a target such as plimsoll_proxy, found `{target}`"));
            }
        }
    }
    let filter = own.map_or_else(|| of_level(default), with_level);
    Ok(filter.with_targets(targets))
}

fn level(name: &str) -> Option<LevelFilter> {
    LEVELS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| level)
}

fn expected_level(found: &str) -> String {
    format!("expected error, warn, info, debug, trace or off, found `{found}`")
}

fn is_target(target: &str) -> bool {
    !target.is_empty() && target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-'))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter as L;

    use super::*;

    /// Returns the most verbose level that is logged for a target.
    fn most(text: &str, target: &str) -> L {
        let filter = parse(text, "info").expect("a valid filter");
        let levels = [tracing::Level::TRACE, tracing::Level::DEBUG, tracing::Level::INFO];
        let levels = levels.into_iter().chain([tracing::Level::WARN, tracing::Level::ERROR]);
        levels.into_iter().find(|level| filter.would_enable(target, level)).map_or(L::OFF, L::from_level)
    }

    #[test]
    fn levels_of_parts_and_libraries() {
        for (text, proxy, admin, library) in [
            ("", L::INFO, L::INFO, L::ERROR),
            ("info", L::INFO, L::INFO, L::ERROR),
            ("DEBUG", L::DEBUG, L::DEBUG, L::ERROR),
            ("off", L::OFF, L::OFF, L::OFF),
            ("error", L::ERROR, L::ERROR, L::ERROR),
            ("info,plimsoll_proxy=debug", L::DEBUG, L::INFO, L::ERROR),
            ("plimsoll_proxy=debug", L::DEBUG, L::INFO, L::ERROR),
            (" warn , h2=trace ,", L::WARN, L::WARN, L::TRACE),
            ("debug,h2=off", L::DEBUG, L::DEBUG, L::OFF),
            ("plimsoll_proxy::net::tls=debug", L::INFO, L::INFO, L::ERROR),
        ] {
            let found =
                [most(text, "plimsoll_proxy::serve"), most(text, "plimsoll_admin"), most(text, "h2::proto")];
            assert_eq!(found, [proxy, admin, library], "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "infos",
            "info,x",
            "plimsoll_proxy=",
            "=debug",
            "h2=infos",
            "info,debug",
            "h 2=info",
            "info;h2=warn",
        ] {
            assert!(parse(text, "info").is_err(), "{text}");
        }
    }
}
