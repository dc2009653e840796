//! Configuration of Plimsoll: one YAML file, or a folder of files, that becomes a checked model or a list of problems.
//!
//! [`load()`] and [`load_path()`] report **all** problems at once, each with its file, line, column, key path and a
//! suggestion. A [`Config`] exists only if there are no errors: every value in it is valid, and every name is resolved.
//!
//! ```
//! use std::path::Path;
//!
//! let text = r#"
//! listen: "127.0.0.1:8080"
//! destinations: ["10.0.0.1:9001", {address: "10.0.0.2:9001", weight: 3}]
//! load_balancer: {algorithm: p2c, health_monitoring: {check_interval: 2s}}
//! "#;
//! let loaded = plimsoll_config::load(text, "plimsoll.yaml", Path::new("/etc/plimsoll"), &|_| None);
//! print!("{}", plimsoll_config::render_text(&loaded.problems, &loaded.sources));
//!
//! let config = loaded.config.expect("a configuration without errors");
//! let pool = &config.pools[0];
//! assert_eq!(pool.algorithm.name(), "p2c");
//! assert_eq!(pool.destinations[1].weight.get(), 3);
//! assert_eq!(pool.timeouts.connect, plimsoll_config::defaults::DESTINATION_TIMEOUTS.connect);
//! ```
//!
//! A mistake is reported with its location and, where possible, with the key that was meant:
//!
//! ```
//! # use std::path::Path;
//! let text = "listen: ':8080'\ndestinations: ['a:1']\nload_balancer: {algoritm: p2c}";
//! let loaded = plimsoll_config::load(text, "plimsoll.yaml", Path::new(""), &|_| None);
//!
//! assert!(loaded.config.is_none());
//! let problem = &loaded.problems[0];
//! assert_eq!(problem.code, plimsoll_config::Code::UnknownKey);
//! assert_eq!((problem.at.line, problem.at.column), (3, 17));
//! assert_eq!(problem.help.as_deref(), Some("did you mean `algorithm`?"));
//! ```
//!
//! # Steps
//!
//! | step | module | result |
//! |---|---|---|
//! | parse YAML | `parse` | a `tree` in which every node has its location, with limits on size, depth and aliases |
//! | expand variables | `expand` | `${NAME}`, `${NAME:-default}` and `${file:/path}` replaced by their values |
//! | check | `check` | a [`model`], block by block, with a reader for each type |
//! | report | [`render_text`], [`render_json`] | problems as text with source lines, or as JSON |
//!
//! Values of variables never appear in problems, because they may be secrets.
//!
//! # Related items
//!
//! - [`defaults`] has the values that hold when a key is absent; `docs/defaults.md` gives their reasons.
//! - [`schema()`] returns the JSON Schema for editors, with a description and a default for each key. It is published as
//!   `config.schema.json`.
//! - [`units`] parses durations, rates, shares and sizes.
//! - [`Extensions`] adds the protocols, health checks and policies of an embedding program, for [`load_with`] and
//!   [`load_path_with`].

mod check;
mod constructors;
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
