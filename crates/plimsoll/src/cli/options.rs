//! Flags that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::admin_client;

/// The configuration to read.
#[derive(Args, Debug)]
pub(crate) struct ConfigOption {
    /// Configuration file, or a directory of *.yaml and *.yml files to merge
    /// [default: /etc/plimsoll/config.yaml, if it exists]
    #[arg(short = 'c', long = "config", value_name = "FILE|DIR", env = "PLIMSOLL_CONFIG")]
    pub(crate) path: Option<PathBuf>,
}

/// The running instance to ask.
#[derive(Args, Debug)]
pub(crate) struct AdminOption {
    /// Address of the admin API
    #[arg(
        long = "admin",
        value_name = "HOST:PORT",
        env = "PLIMSOLL_ADMIN",
        default_value = admin_client::DEFAULT_ADDRESS
    )]
    pub(crate) address: String,
}

/// Output format of commands that print sentences.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextFormat {
    /// Text for reading.
    Text,
    /// One JSON document.
    Json,
}

/// Output format of commands that print a table.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// Table for reading.
    #[value(alias = "text")]
    Table,
    /// One JSON document.
    Json,
}
