//! Whether a configuration is valid, for people and for programs.

use clap::Args;
use plimsoll_config::{Code, Location, Problem, Severity, load_path, render_json, render_text};

use super::terminal::{complain, say};
use super::{FAILED, File, OK, Output, USAGE, config_file};

/// `plimsoll check`.
#[derive(Args, Debug)]
pub(crate) struct Check {
    #[command(flatten)]
    file: File,
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Warnings count as errors
    #[arg(long)]
    strict: bool,
}

impl Check {
    pub(crate) fn run(self) -> u8 {
        let path = match config_file::find(self.file.config) {
            Ok(path) => path,
            Err(sentence) => {
                complain(&sentence);
                return USAGE;
            }
        };
        let loaded = match load_path(&path, &config_file::env) {
            Ok(loaded) => loaded,
            Err(error) => {
                complain(&error.to_string());
                return USAGE;
            }
        };
        let sealed = loaded.config.as_ref().map(plimsoll_proxy::tls::check).unwrap_or_default();
        let sealed: Vec<Problem> = sealed.into_iter().map(about_a_file).collect();
        let problems = [&loaded.problems[..], &sealed].concat();
        let counts = Counts::of(&problems);
        let good = loaded.config.is_some() && sealed.is_empty() && !(self.strict && counts.warnings > 0);
        match self.output {
            Output::Json => say(&format!("{}\n", render_json(&problems))),
            Output::Text => {
                eprint!("{}", render_text(&loaded.problems, &loaded.sources));
                for problem in &sealed {
                    eprintln!("error[{}]: {}\n  = path: {}\n", problem.code, problem.message, problem.path);
                }
                let verdict = if good { "valid" } else { "not valid" };
                say(&format!("{}: {verdict}{}\n", path.display(), counts.in_words()));
            }
        }
        if good { OK } else { FAILED }
    }
}

/// What is wrong is not in the configuration but in a file it names.
fn about_a_file((path, error): (String, plimsoll_proxy::tls::TlsError)) -> Problem {
    let message = error.to_string();
    let file = error.file.display().to_string();
    Problem {
        severity: Severity::Error,
        code: Code::BadCertificate,
        at: Location { file, line: 1, column: 1, source: 0, bytes: 0..0 },
        path,
        message,
        help: None,
        related: Vec::new(),
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Counts {
    errors: usize,
    warnings: usize,
}

impl Counts {
    fn of(problems: &[Problem]) -> Self {
        let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
        Self { errors, warnings: problems.len() - errors }
    }

    /// `, 1 error, 2 warnings`; nothing of what is not there.
    fn in_words(self) -> String {
        let part = |count, word| match count {
            0 => String::new(),
            1 => format!(", 1 {word}"),
            n => format!(", {n} {word}s"),
        };
        part(self.errors, "error") + &part(self.warnings, "warning")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_words() {
        assert_eq!(Counts { errors: 0, warnings: 0 }.in_words(), "");
        assert_eq!(Counts { errors: 1, warnings: 2 }.in_words(), ", 1 error, 2 warnings");
    }
}
