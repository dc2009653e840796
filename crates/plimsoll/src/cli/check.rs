//! `plimsoll check`: validates a configuration and reports all problems.

use clap::Args;
use plimsoll_config::{Code, Config, Location, Problem, Severity, load_path, render_json, render_text};

use super::config_file;
use super::exit_code::{FAILED, OK, USAGE};
use super::options::{ConfigOption, TextFormat};
use super::terminal::{error_line, print, print_error};

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
        let file_problems = loaded.config.as_ref().map(file_problems).unwrap_or_default();
        let problems = [&loaded.problems[..], &file_problems].concat();
        let counts = ProblemCounts::of(&problems);
        let valid = loaded.config.is_some() && counts.errors == 0 && !(self.strict && counts.warnings > 0);
        match self.output {
            TextFormat::Json => print(&format!("{}\n", render_json(&problems))),
            TextFormat::Text => {
                print_error(&render_text(&loaded.problems, &loaded.sources));
                for Problem { severity, code, message, path, .. } in &file_problems {
                    let severity = if *severity == Severity::Error { "error" } else { "warning" };
                    print_error(&format!("{severity}[{code}]: {message}\n  = path: {path}\n\n"));
                }
                let result = if valid { "valid" } else { "not valid" };
                print(&format!("{}: {result}{}\n", path.display(), counts.describe()));
            }
        }
        if valid { OK } else { FAILED }
    }
}

/// Returns the problems of files that the configuration names.
fn file_problems(config: &Config) -> Vec<Problem> {
    let errors = plimsoll_proxy::tls::check(config).into_iter().map(|(path, error)| {
        let (file, message) = (error.file.display().to_string(), error.to_string());
        file_problem(Severity::Error, Code::BadCertificate, path, file, message)
    });
    let exposed = plimsoll_proxy::tls::exposed_keys(config).into_iter().map(|(path, file)| {
        let file = file.display().to_string();
        let message = config_file::exposed_key_warning(&file);
        file_problem(Severity::Warning, Code::Insecure, path, file, message)
    });
    errors.chain(exposed).collect()
}

fn file_problem(severity: Severity, code: Code, path: String, file: String, message: String) -> Problem {
    Problem {
        severity,
        code,
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
