//! The program as its users meet it: its verbs, its exit codes, its words, its signals.
#![allow(clippy::unwrap_used)] // A test's helpers may do what a test may.

mod demo;
mod process;
mod recommend;
mod run;
mod simulate;
mod stop;
mod verbs;
