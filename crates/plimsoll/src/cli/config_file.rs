//! Which configuration file is meant, and what comes of reading it.

use std::path::{Path, PathBuf};

use plimsoll_config::{Config, Problem, Severity};
use plimsoll_proxy::{Invalid, Source};

/// Read when nobody names another.
const DEFAULT: &str = "/etc/plimsoll/config.yaml";

/// The file named by `-c` or PLIMSOLL_CONFIG, or the usual one if it exists.
///
/// # Errors
/// There is none: a sentence for people.
pub(crate) fn find(given: Option<PathBuf>) -> Result<PathBuf, String> {
    let usual = || Some(PathBuf::from(DEFAULT)).filter(|path| path.exists());
    given.or_else(usual).ok_or_else(|| {
        format!(
            "which configuration? Name a file or folder with -c or PLIMSOLL_CONFIG; {DEFAULT} does not exist"
        )
    })
}

/// Reads the configuration of a running process; warnings go to the log.
pub(crate) fn load(path: &Path) -> Result<Config, Invalid> {
    let loaded =
        plimsoll_config::load_path(path, &env).map_err(|error| Invalid::from(&*error.to_string()))?;
    let text = plimsoll_config::render_text(&loaded.problems, &loaded.sources).trim_end().to_owned();
    let config = loaded.config.ok_or_else(|| Invalid { text, problems: loaded.problems.clone() })?;
    loaded.problems.iter().filter(|problem| problem.severity == Severity::Warning).for_each(warn);
    Ok(config)
}

/// What reads `path` at every reload.
pub(crate) fn source(path: PathBuf) -> Source {
    Box::new(move || load(&path))
}

/// The value of a variable of the environment.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn warn(problem: &Problem) {
    let at = format!("{}:{}:{}", problem.at.file, problem.at.line, problem.at.column);
    tracing::warn!(event = "config_warning", code = %problem.code, at, path = problem.path, "{}", problem.message);
}
