//! End-to-end tests of the program: commands, exit codes, output and signals.
#![allow(clippy::unwrap_used)] // A test's helpers may do what a test may.

mod commands;
mod demo;
mod logging;
mod outside;
mod process;
mod recommend;
mod run;
mod simulate;
mod stop;
