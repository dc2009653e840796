//! The command line: commands, flags, help texts and exit codes.

mod admin_client;
mod check;
mod config_file;
mod demo;
mod exit_code;
mod explain;
mod log_filter;
mod logging;
mod options;
mod proxy_cmd;
mod recommend;
mod reload;
mod run;
mod simulate;
mod status;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::options::{AdminOption, ConfigOption};

/// A load balancer for messages and traffic.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the load balancer in the foreground
    #[command(after_help = RUN_HELP)]
    Run(ConfigOption),
    /// Validate a configuration and report all problems
    #[command(visible_alias = "validate", after_help = CHECK_HELP)]
    Check(check::CheckArgs),
    /// Run the load balancer from flags, without a configuration file
    #[command(after_help = PROXY_HELP)]
    Proxy(proxy_cmd::ProxyArgs),
    /// Run a demonstration: destinations, the balancer and live traffic in one process
    #[command(after_help = demo::HELP)]
    Demo(demo::DemoArgs),
    /// Show the health of a running instance
    #[command(after_help = STATUS_HELP)]
    Status(status::StatusArgs),
    /// Show which destination a request would get and why, without sending it
    #[command(after_help = EXPLAIN_HELP)]
    Explain(explain::ExplainArgs),
    /// Reload the configuration of a running instance
    #[command(after_help = RELOAD_HELP)]
    Reload(AdminOption),
    /// Compare algorithms in a simulation
    #[command(after_help = simulate::HELP)]
    Simulate(simulate::SimulateArgs),
    /// Recommend an algorithm for observed traffic
    #[command(after_help = recommend::HELP)]
    Recommend(recommend::RecommendArgs),
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Exit codes: 0 schema printed; 2 usage error")]
    Schema,
    /// Print a shell completion script
    #[command(after_help = "Exit codes: 0 script printed; 2 usage error")]
    Completion {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
}

const RUN_HELP: &str = "Signals:
  HUP        reload the configuration
  TERM, INT  drain within `shutdown.grace`, then exit; a second one closes all connections at once
  QUIT       drain without a deadline, then exit
  USR1       reopen log files

The log goes to stderr. PLIMSOLL_LOG sets its level (error, warn, info, debug or trace; default: info), also of
parts (info,plimsoll_proxy=debug) and libraries (info,h2=debug), which log only errors otherwise.
PLIMSOLL_LOG_FORMAT sets its format (text or json; default: text on a terminal, else json).

Exit codes: 0 stopped cleanly; 1 cannot start; 2 usage error";
const CHECK_HELP: &str = "Problems are printed to stderr (text) or stdout (json).

Exit codes: 0 valid; 1 invalid (with --strict: or there are warnings); 2 usage error or unreadable file";
const PROXY_HELP: &str = "Example:
  plimsoll proxy --from :8080 --to 10.0.0.1:80,10.0.0.2:80

Health checks, outlier detection, retries and the admin API have their defaults. Signals, log and exit codes \
are those of `plimsoll run`.";
const STATUS_HELP: &str = "Exit codes: 0 healthy; 2 usage error; 3 degraded (a pool has destinations that do not \
serve); 4 down (a pool has no destination that serves) or the admin API is unreachable";
const EXPLAIN_HELP: &str = "Example:
  plimsoll explain GET http://127.0.0.1:8080/v1/users -H 'x-tier: gold' --from 10.1.2.3

Exit codes: 0 a destination was found; 1 no destination was found; 2 usage error, or no listener accepts the \
request; 4 the admin API is unreachable";
const RELOAD_HELP: &str = "The new configuration is applied as a whole or not at all.

Exit codes: 0 applied; 1 rejected, the running configuration is unchanged; 2 usage error; 4 the admin API is \
unreachable";

/// Parses the command line and runs its command.
pub(crate) fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Run(config) => run::run(config.path),
        Command::Check(check) => check.run(),
        Command::Proxy(proxy) => proxy.run(),
        Command::Demo(demo) => demo.run(),
        Command::Status(status) => status.run(),
        Command::Explain(explain) => explain.run(),
        Command::Reload(admin) => reload::run(&admin.address),
        Command::Simulate(simulate) => simulate.run(),
        Command::Recommend(recommend) => recommend.run(),
        Command::Schema => {
            terminal::print(&plimsoll_config::schema());
            exit_code::OK
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "plimsoll", &mut script);
            terminal::print(&String::from_utf8_lossy(&script));
            exit_code::OK
        }
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
