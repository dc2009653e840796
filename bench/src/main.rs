//! Benchmarks of Plimsoll beside other proxies.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod abuse;
mod backend;
mod baseline;
mod block;
mod certificate;
mod checks;
mod clock;
mod counts;
mod datagrams;
mod epoll;
mod faults;
mod host;
mod load;
mod process;
mod proxies;
mod report;
mod run;
mod scenario;
mod socket;
mod stats;

/// Benchmark Plimsoll and other proxies in the same run
#[derive(Parser)]
#[command(version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Abuse(abuse::Args),
    Checks(checks::Args),
    Faults(faults::Args),
    Counts(counts::Args),
    Baseline(baseline::Args),
    Backend(backend::Args),
    Destinations(faults::destinations::Args),
    Load(load::Args),
}

fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Counts(args) => counts::run(&args),
        Command::Checks(args) => checks::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Abuse(args) => abuse::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Faults(args) => faults::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Destinations(args) => faults::destinations::serve(&args).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => run::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Baseline(args) => baseline::serve(&args).map(|()| ExitCode::SUCCESS),
        Command::Backend(args) => backend::serve(&args).map(|()| ExitCode::SUCCESS),
        Command::Load(args) => load::run(&args).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("plimsoll-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
