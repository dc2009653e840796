//! Which part of the harness a command line asks for.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod abuse;
mod backend;
mod block;
mod certificate;
mod checks;
mod clock;
mod counts;
mod datagrams;
mod epoll;
mod floor;
mod load;
mod machine;
mod peers;
mod process;
mod report;
mod run;
mod scenario;
mod socket;
mod stats;
mod troubles;

/// Measures Plimsoll beside its peers in the same run.
#[derive(Parser)]
#[command(version, about)]
struct CommandLine {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    Run(run::Args),
    Abuse(abuse::Args),
    Checks(checks::Args),
    Troubles(troubles::Args),
    Counts(counts::Args),
    Floor(floor::Args),
    Backend(backend::Args),
    Destinations(troubles::destinations::Args),
    Load(load::Args),
}

fn main() -> ExitCode {
    let done = match CommandLine::parse().part {
        Part::Counts(args) => counts::run(&args),
        Part::Checks(args) => checks::run(&args).map(|()| ExitCode::SUCCESS),
        Part::Abuse(args) => abuse::run(&args).map(|()| ExitCode::SUCCESS),
        Part::Troubles(args) => troubles::run(&args).map(|()| ExitCode::SUCCESS),
        Part::Destinations(args) => troubles::destinations::serve(&args).map(|()| ExitCode::SUCCESS),
        Part::Run(args) => run::run(&args).map(|()| ExitCode::SUCCESS),
        Part::Floor(args) => floor::serve(&args).map(|()| ExitCode::SUCCESS),
        Part::Backend(args) => backend::serve(&args).map(|()| ExitCode::SUCCESS),
        Part::Load(args) => load::run(&args).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("plimsoll-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
