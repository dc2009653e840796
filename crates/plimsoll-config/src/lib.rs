//! What a configuration file means, and everything that is wrong with it.
//!
//! [`load()`] turns text into a [`model::Config`] or into [`Problem`]s: all of them at once, each with file, line,
//! column and path. The way: text → `parse` → a `tree` whose every node knows its place → `expand` (variables) →
//! `check`, block by block, each value by a reader of its type → [`model`].

mod check;
pub mod defaults;
mod expand;
mod extensions;
mod load;
pub mod model;
mod parse;
mod problem;
mod report;
mod schema;
#[cfg(test)]
mod schema_consistency;
mod schema_types;
mod suggest;
mod tree;
pub mod units;

pub use extensions::Extensions;
pub use load::{Loaded, load, load_path, load_path_with, load_with};
pub use model::Config;
pub use problem::{Code, Location, Problem, Related, Severity, Source};
pub use report::{render_json, render_text};
pub use schema::schema;
