//! `plimsoll proxy`: a configuration made from flags.

use std::path::Path;

use clap::{Args, ValueEnum};
use plimsoll_config::{Config, Loaded, Problem, load};
use plimsoll_core::balance::Algorithm;
use serde_json::json;

use super::exit_code::USAGE;
use super::terminal::error_line;
use super::{logging, run};

/// Flags of `plimsoll proxy`.
#[derive(Args, Debug)]
pub(crate) struct ProxyArgs {
    /// Address to listen on; `:8080` is port 8080 on all interfaces
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// Destination addresses, comma-separated
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', required = true)]
    to: Vec<String>,
    #[arg(help = "Listener protocol", long, value_enum, default_value_t = ProxyProtocol::Http)]
    protocol: ProxyProtocol,
    /// Load balancing algorithm
    #[arg(long, value_name = "NAME", default_value = plimsoll_config::defaults::ALGORITHM.name(), value_parser = algorithms())]
    algorithm: String,
    /// Address of the admin API, or `off`
    #[arg(long, value_name = "HOST:PORT|off", default_value = super::admin_client::DEFAULT_ADDRESS)]
    admin: String,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
enum ProxyProtocol {
    /// HTTP/1.1 and HTTP/2 without TLS.
    Http,
    /// TCP connections, forwarded as they are.
    Tcp,
}

fn algorithms() -> clap::builder::PossibleValuesParser {
    Algorithm::ALL.map(Algorithm::name).into()
}

impl ProxyArgs {
    pub(crate) fn run(self) -> u8 {
        let config = match self.config() {
            Ok(config) => config,
            Err(lines) => {
                lines.iter().for_each(|line| error_line(line));
                return USAGE;
            }
        };
        let _log = logging::start("info");
        let source = Box::new(move || self.config().map_err(|lines| lines.join("\n").as_str().into()));
        run::serve(config, source)
    }

    /// Builds the configuration, or returns the problems of the flags.
    fn config(&self) -> Result<Config, Vec<String>> {
        let destinations: Vec<&str> =
            self.to.iter().map(|to| to.trim()).filter(|to| !to.is_empty()).collect();
        let protocol = if self.protocol == ProxyProtocol::Http { "http" } else { "tcp" };
        let listener = json!({"name": "main", "address": self.from, "protocol": protocol, "pool": "default"});
        let pool = json!({"load_balancer": {"algorithm": self.algorithm}, "destinations": destinations});
        let mut document = json!({"listeners": [listener], "pools": {"default": pool}});
        // The default is used as if nothing was given, so that its port may be busy.
        match &*self.admin {
            "off" => document["admin"] = json!(false),
            address if address != super::admin_client::DEFAULT_ADDRESS => {
                document["admin"] = json!({"address": address});
            }
            _ => {}
        }
        // Every JSON document is a YAML document.
        let text = document.to_string();
        let Loaded { config, problems, .. } = load(&text, "flags", Path::new("."), &|_| None);
        config.ok_or_else(|| problems.iter().map(describe_by_flag).collect())
    }
}

/// Describes a problem of the configuration by the flag it came from.
fn describe_by_flag(problem: &Problem) -> String {
    let flag = match &*problem.path {
        path if path.contains("address") && path.starts_with("listeners") => "--from",
        path if path.contains("algorithm") => "--algorithm",
        path if path.starts_with("admin") => "--admin",
        _ => "--to",
    };
    let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{flag}: {}{help}", problem.message)
}

#[cfg(test)]
mod tests {
    use plimsoll_config::model::{DestinationAddress, ListenAddress, Protocol};

    use super::*;

    fn proxy_args(from: &str, to: &str) -> ProxyArgs {
        let to = to.split(',').map(str::to_owned).collect();
        let (algorithm, admin) = ("p2c".to_owned(), "127.0.0.1:9900".to_owned());
        ProxyArgs { from: from.to_owned(), to, protocol: ProxyProtocol::Tcp, algorithm, admin }
    }

    #[test]
    fn the_admin_address_can_be_set_or_off() {
        let with = |admin: &str| ProxyArgs { admin: admin.to_owned(), ..proxy_args(":8080", "127.0.0.1:1") };
        let address = |admin: &str| {
            with(admin).config().unwrap().admin.map(|admin| (admin.address.port(), admin.configured))
        };
        assert_eq!(address("127.0.0.1:9900"), Some((9900, false)));
        assert_eq!(address("127.0.0.1:7"), Some((7, true)));
        assert_eq!(address("off"), None);
        assert!(with("nowhere").config().unwrap_err()[0].starts_with("--admin: "));
    }

    #[test]
    fn flags_make_a_configuration() {
        let config = proxy_args(":8080", "127.0.0.1:1, backend:2").config().unwrap();
        assert_eq!(config.listeners[0].protocol, Protocol::Tcp);
        assert!(matches!(config.listeners[0].addresses[0], ListenAddress::Socket(a) if a.port() == 8080));
        assert_eq!(config.pools[0].algorithm, Algorithm::P2c);
        let to: Vec<_> = config.pools[0].destinations.iter().map(|d| d.address.clone()).collect();
        let first = DestinationAddress::Socket("127.0.0.1:1".parse().unwrap());
        assert_eq!(to, [first, DestinationAddress::Name("backend".into(), 2)]);
    }

    #[test]
    fn problems_are_reported_by_flag() {
        let lines = proxy_args("nowhere", "127.0.0.1:1,127.0.0.1:x").config().unwrap_err();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("--from: ") && lines[1].starts_with("--to: "), "{lines:?}");
        let lines = proxy_args("${HOME}:1", "127.0.0.1:1").config().unwrap_err();
        assert!(lines[0].starts_with("--from: "), "{lines:?}");
    }
}
