//! `plimsoll check`: validates a configuration and reports all problems.

use clap::Args;
use plimsoll_config::{Code, Location, Problem, Severity, load_path, render_json, render_text};

use super::config_file;
use super::exit_code::{FAILED, OK, USAGE};
use super::options::{ConfigOption, TextFormat};
use super::terminal::{error_line, print};

/// Flags of `plimsoll check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigOption,
    #[arg(help = "Output format", short, long, value_enum, default_value_t = TextFormat::Text)]
    output: TextFormat,
    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,
}

impl CheckArgs {
    pub(crate) fn run(self) -> u8 {
        let path = match config_file::find(self.config.path) {
            Ok(path) => path,
            Err(message) => {
                error_line(&message);
                return USAGE;
            }
        };
        let loaded = match load_path(&path, &config_file::env) {
            Ok(loaded) => loaded,
            Err(error) => {
                error_line(&error.to_string());
                return USAGE;
            }
        };
        let tls_problems = loaded.config.as_ref().map(plimsoll_proxy::tls::check).unwrap_or_default();
        let tls_problems: Vec<Problem> = tls_problems.into_iter().map(file_problem).collect();
        let problems = [&loaded.problems[..], &tls_problems].concat();
        let counts = ProblemCounts::of(&problems);
        let valid =
            loaded.config.is_some() && tls_problems.is_empty() && !(self.strict && counts.warnings > 0);
        match self.output {
            TextFormat::Json => print(&format!("{}\n", render_json(&problems))),
            TextFormat::Text => {
                eprint!("{}", render_text(&loaded.problems, &loaded.sources));
                for problem in &tls_problems {
                    eprintln!("error[{}]: {}\n  = path: {}\n", problem.code, problem.message, problem.path);
                }
                let result = if valid { "valid" } else { "not valid" };
                print(&format!("{}: {result}{}\n", path.display(), counts.describe()));
            }
        }
        if valid { OK } else { FAILED }
    }
}

/// Makes a problem of an error in a file that the configuration names.
fn file_problem((path, error): (String, plimsoll_proxy::tls::TlsError)) -> Problem {
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
struct ProblemCounts {
    errors: usize,
    warnings: usize,
}

impl ProblemCounts {
    fn of(problems: &[Problem]) -> Self {
        let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
        Self { errors, warnings: problems.len() - errors }
    }

    /// Formats as `, 1 error, 2 warnings`; zero counts are left out.
    fn describe(self) -> String {
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
    fn zero_counts_are_left_out() {
        assert_eq!(ProblemCounts { errors: 0, warnings: 0 }.describe(), "");
        assert_eq!(ProblemCounts { errors: 1, warnings: 2 }.describe(), ", 1 error, 2 warnings");
    }
}
