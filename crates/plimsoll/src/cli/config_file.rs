//! Finding and loading the configuration file.

use std::path::{Path, PathBuf};

use plimsoll_config::{Code, Config, Problem, Severity};
use plimsoll_proxy::{ConfigSource, InvalidConfig};

/// Read when neither `-c` nor PLIMSOLL_CONFIG is given.
const DEFAULT_PATH: &str = "/etc/plimsoll/config.yaml";

/// Returns the given path, or the default one if it exists.
///
/// # Errors
/// A message for the user if no path was given and the default one does not exist.
pub(crate) fn find(given: Option<PathBuf>) -> Result<PathBuf, String> {
    let default = || Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists());
    given.or_else(default).ok_or_else(|| {
        format!(
            "no configuration given and {DEFAULT_PATH} does not exist. Name a file or directory with -c or \
             PLIMSOLL_CONFIG"
        )
    })
}

/// Loads a configuration for a running process; warnings are logged.
pub(crate) fn load(path: &Path) -> Result<Config, InvalidConfig> {
    let loaded =
        plimsoll_config::load_path(path, &env).map_err(|error| InvalidConfig::from(&*error.to_string()))?;
    let text = plimsoll_config::render_text(&loaded.problems, &loaded.sources).trim_end().to_owned();
    let config = loaded.config.ok_or_else(|| InvalidConfig { text, problems: loaded.problems.clone() })?;
    loaded.problems.iter().filter(|problem| problem.severity == Severity::Warning).for_each(log_warning);
    for (path, file) in plimsoll_proxy::tls::exposed_keys(&config) {
        let message = exposed_key_warning(&file.display().to_string());
        tracing::warn!(event = "config_warning", code = %Code::Insecure, path, "{message}");
    }
    Ok(config)
}

/// Returns the function that loads `path` again at every reload.
pub(crate) fn source(path: PathBuf) -> ConfigSource {
    Box::new(move || load(&path))
}

/// Returns the value of an environment variable.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the warning of a file with a private key that every user of the machine can read.
pub(crate) fn exposed_key_warning(file: &str) -> String {
    format!("{file}: every user of this machine can read this private key; `chmod o-rwx` it")
}

fn log_warning(problem: &Problem) {
    let at = format!("{}:{}:{}", problem.at.file, problem.at.line, problem.at.column);
    tracing::warn!(event = "config_warning", code = %problem.code, at, path = problem.path, "{}", problem.message);
}
