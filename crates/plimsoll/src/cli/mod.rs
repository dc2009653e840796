//! Which verbs there are, what each takes, and what its exit code says.

mod admin_client;
mod check;
mod config_file;
mod demo;
mod explain;
mod logging;
mod proxy_cmd;
mod recommend;
mod reload;
mod run;
mod simulate;
mod status;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// A load balancer for messages and traffic.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version, arg_required_else_help = true)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve in the foreground until told to stop
    #[command(after_help = RUN_HELP)]
    Run(File),
    /// Say everything that is wrong with a configuration
    #[command(visible_alias = "validate", after_help = CHECK_HELP)]
    Check(check::Check),
    /// Serve without a file: from one address to some others
    #[command(after_help = QUICK_HELP)]
    Proxy(proxy_cmd::Quick),
    /// See it work: destinations, a balancer and live traffic in this one process
    Demo(demo::Demo),
    /// Tell how a running plimsoll is
    #[command(after_help = STATUS_HELP)]
    Status(status::Status),
    /// Tell where a request would go and why, without sending it
    #[command(after_help = EXPLAIN_HELP)]
    Explain(explain::Explain),
    /// Have a running plimsoll read its configuration again, all or nothing
    #[command(after_help = RELOAD_HELP)]
    Reload(Admin),
    /// Try algorithms in virtual time, against destinations of all kinds
    #[command(after_help = simulate::HELP)]
    Simulate(simulate::Simulate),
    /// Name the policy that suits what was seen, with what it would change
    #[command(after_help = recommend::HELP)]
    Recommend(recommend::Recommend),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print a completion script for a shell
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Which configuration.
#[derive(Args, Debug)]
struct File {
    /// A file, or a folder whose *.yaml are joined; without it /etc/plimsoll/config.yaml, if that exists
    #[arg(short, long = "config", value_name = "FILE|DIR", env = "PLIMSOLL_CONFIG")]
    config: Option<PathBuf>,
}

/// Which running plimsoll.
#[derive(Args, Debug)]
struct Admin {
    /// Where its admin plane listens
    #[arg(long = "admin", value_name = "ADDRESS", env = "PLIMSOLL_ADMIN", default_value = admin_client::DEFAULT)]
    admin: String,
}

/// For whom an answer is.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Done: served and stopped cleanly, valid, healthy, applied.
const OK: u8 = 0;
/// It did not work: not started, invalid, refused.
const FAILED: u8 = 1;
/// The command line makes no sense, or names a file that cannot be read.
const USAGE: u8 = 2;
/// Some destinations of a pool do not serve.
const DEGRADED: u8 = 3;
/// A pool has no destination that serves, or nobody is there to ask.
const DOWN: u8 = 4;

const RUN_HELP: &str = "Signals: HUP reloads; TERM and INT drain, then exit (a second one: at once); QUIT \
drains without a deadline; USR1 reopens logs.
Logs go to stderr: PLIMSOLL_LOG sets the level (info), PLIMSOLL_LOG_FORMAT is text or json.
Exit codes: 0 stopped cleanly, 1 could not start, 2 usage.";
const CHECK_HELP: &str = "Exit codes: 0 valid, 1 invalid (with --strict also if there are warnings), 2 usage, \
or the file cannot be read.";
const QUICK_HELP: &str = "Example: plimsoll proxy --from :8080 --to 10.0.0.1:80,10.0.0.2:80
Everything else is as with `run`.";
const STATUS_HELP: &str = "Exit codes: 0 healthy, 3 degraded (some destinations of a pool do not serve), \
4 down (none of a pool does, or plimsoll does not run).";
const EXPLAIN_HELP: &str = "Example: plimsoll explain GET http://127.0.0.1:8080/v1/users -H 'x-tier: gold'
Exit codes: 0 a destination would take it, 1 none would, 2 the question makes no sense, 4 plimsoll does not run.";
const RELOAD_HELP: &str = "Exit codes: 0 applied, 1 refused (the old configuration goes on), 4 plimsoll does \
not run.";

/// Does what the command line says.
pub(crate) fn main() -> ExitCode {
    let code = match Command::parse().verb {
        Verb::Run(file) => run::run(file.config),
        Verb::Check(check) => check.run(),
        Verb::Proxy(quick) => quick.run(),
        Verb::Demo(demo) => demo.run(),
        Verb::Status(status) => status.run(),
        Verb::Explain(explain) => explain.run(),
        Verb::Reload(admin) => reload::run(&admin.admin),
        Verb::Simulate(simulate) => simulate.run(),
        Verb::Recommend(recommend) => recommend.run(),
        Verb::Schema => {
            terminal::say(&plimsoll_config::schema());
            OK
        }
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Command::command(), "plimsoll", &mut script);
            terminal::say(&String::from_utf8_lossy(&script));
            OK
        }
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }
}
