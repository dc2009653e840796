//! What `plimsoll proxy` makes of its flags: the configuration somebody would have written.

use std::path::Path;

use clap::{Args, ValueEnum};
use plimsoll_config::{Config, Loaded, Problem, load};
use plimsoll_core::balance::Algorithm;
use serde_json::json;

use super::terminal::complain;
use super::{USAGE, logging, run};

/// `plimsoll proxy`.
#[derive(Args, Debug)]
pub(crate) struct Quick {
    /// Where to listen; `:8080` is port 8080 of every address
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// Where to send, with commas between
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', required = true)]
    to: Vec<String>,
    /// What is spoken
    #[arg(long, value_enum, default_value_t = Spoken::Http)]
    protocol: Spoken,
    /// Which destination takes a message
    #[arg(long, value_name = "NAME", default_value = plimsoll_config::defaults::ALGORITHM.name(), value_parser = algorithms())]
    algorithm: String,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
enum Spoken {
    Http,
    Tcp,
}

fn algorithms() -> clap::builder::PossibleValuesParser {
    Algorithm::ALL.map(Algorithm::name).into()
}

impl Quick {
    pub(crate) fn run(self) -> u8 {
        let config = match self.config() {
            Ok(config) => config,
            Err(lines) => {
                lines.iter().for_each(|line| complain(line));
                return USAGE;
            }
        };
        let _log = logging::start("info");
        let source = Box::new(move || self.config().map_err(|lines| lines.join("\n").as_str().into()));
        run::serve(config, source)
    }

    /// The configuration, or what is wrong with the flags.
    fn config(&self) -> Result<Config, Vec<String>> {
        let destinations: Vec<&str> =
            self.to.iter().map(|to| to.trim()).filter(|to| !to.is_empty()).collect();
        let protocol = if self.protocol == Spoken::Http { "http" } else { "tcp" };
        let listener = json!({"name": "main", "address": self.from, "protocol": protocol, "pool": "default"});
        let pool = json!({"load_balancer": {"algorithm": self.algorithm}, "destinations": destinations});
        // JSON is YAML.
        let text = json!({"listeners": [listener], "pools": {"default": pool}}).to_string();
        let Loaded { config, problems, .. } = load(&text, "flags", Path::new("."), &|_| None);
        config.ok_or_else(|| problems.iter().map(in_flags).collect())
    }
}

/// A problem of the configuration in terms of the flag it came from.
fn in_flags(problem: &Problem) -> String {
    let flag = match &*problem.path {
        path if path.contains("address") && path.starts_with("listeners") => "--from",
        path if path.contains("algorithm") => "--algorithm",
        _ => "--to",
    };
    let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{flag}: {}{help}", problem.message)
}

#[cfg(test)]
mod tests {
    use plimsoll_config::model::{DestinationAddress, ListenAddress, Protocol};

    use super::*;

    fn quick(from: &str, to: &str) -> Quick {
        let to = to.split(',').map(str::to_owned).collect();
        Quick { from: from.to_owned(), to, protocol: Spoken::Tcp, algorithm: "p2c".to_owned() }
    }

    #[test]
    fn flags_are_a_configuration() {
        let config = quick(":8080", "127.0.0.1:1, backend:2").config().unwrap();
        assert_eq!(config.listeners[0].protocol, Protocol::Tcp);
        assert!(matches!(config.listeners[0].addresses[0], ListenAddress::Socket(a) if a.port() == 8080));
        assert_eq!(config.pools[0].algorithm, Algorithm::P2c);
        let to: Vec<_> = config.pools[0].destinations.iter().map(|d| d.address.clone()).collect();
        let first = DestinationAddress::Socket("127.0.0.1:1".parse().unwrap());
        assert_eq!(to, [first, DestinationAddress::Name("backend".into(), 2)]);
    }

    #[test]
    fn what_is_wrong_is_told_by_flag() {
        let lines = quick("nowhere", "127.0.0.1:1,127.0.0.1:x").config().unwrap_err();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("--from: ") && lines[1].starts_with("--to: "), "{lines:?}");
        let lines = quick("${HOME}:1", "127.0.0.1:1").config().unwrap_err();
        assert!(lines[0].starts_with("--from: "), "{lines:?}");
    }
}
