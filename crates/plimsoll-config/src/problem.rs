//! Problems of a configuration with their locations.

use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};

use crate::tree::Span;

/// Maximum number of reported problems. Further ones are only counted, because a hostile file may have a million.
const MAX_REPORTED: usize = 200;

/// Severity of a problem.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is rejected.
    Error,
    /// The configuration is valid, but a part of it has no effect or is dangerous.
    Warning,
}

/// Kind of a problem, with a stable code for programs.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// Invalid YAML, or not UTF-8 text.
    YamlSyntax,
    /// YAML that is not supported: tags, several documents, keys that are not text.
    UnsupportedYaml,
    /// Limit of size, depth or number exceeded.
    TooLarge,
    /// Key that is given twice.
    DuplicateKey,
    /// Key that does not exist in its block.
    UnknownKey,
    /// Required key that is missing.
    MissingKey,
    /// Value of another type, such as a list instead of a text.
    WrongType,
    /// Value of the right type that is not valid.
    BadValue,
    /// Duration, rate, share or size without a valid unit.
    BadUnit,
    /// Value that is too small or too large.
    OutOfRange,
    /// Text that is not a valid address.
    BadAddress,
    /// Address that two listeners use.
    AddressConflict,
    /// Name of a pool that does not exist.
    UnknownPool,
    /// Name that is given twice.
    DuplicateName,
    /// Keys or values that exclude each other.
    Conflict,
    /// Header name or value that is not valid or may not be edited.
    BadHeader,
    /// Variable (`${…}`) that cannot be resolved.
    BadVariable,
    /// File that is missing or not readable.
    UnreadableFile,
    /// Certificate, key or authority that is not valid. Reported when TLS files are loaded.
    BadCertificate,
    /// Setting that is allowed, but dangerous.
    Insecure,
    /// Key or value of a later version.
    NotAvailableYet,
    /// Key of the specification that is accepted, but not active yet.
    NotActiveYet,
    /// Pool that no listener and no route uses.
    UnusedPool,
    /// Route or destination that no message can reach.
    Unreachable,
    /// Setting that has no effect with the others.
    NoEffect,
    /// Listener with a destination that leads back to it.
    ForwardingLoop,
}

impl Code {
    /// All codes, errors and warnings.
    pub const ALL: [Self; 26] = [
        Self::YamlSyntax,
        Self::UnsupportedYaml,
        Self::TooLarge,
        Self::DuplicateKey,
        Self::UnknownKey,
        Self::MissingKey,
        Self::WrongType,
        Self::BadValue,
        Self::BadUnit,
        Self::OutOfRange,
        Self::BadAddress,
        Self::AddressConflict,
        Self::UnknownPool,
        Self::DuplicateName,
        Self::Conflict,
        Self::BadHeader,
        Self::BadVariable,
        Self::UnreadableFile,
        Self::BadCertificate,
        Self::Insecure,
        Self::NotAvailableYet,
        Self::NotActiveYet,
        Self::UnusedPool,
        Self::Unreachable,
        Self::NoEffect,
        Self::ForwardingLoop,
    ];

    /// Returns the code, such as `unknown-key`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::YamlSyntax => "yaml-syntax",
            Self::UnsupportedYaml => "unsupported-yaml",
            Self::TooLarge => "too-large",
            Self::DuplicateKey => "duplicate-key",
            Self::UnknownKey => "unknown-key",
            Self::MissingKey => "missing-key",
            Self::WrongType => "wrong-type",
            Self::BadValue => "bad-value",
            Self::BadUnit => "bad-unit",
            Self::OutOfRange => "out-of-range",
            Self::UnreadableFile => "unreadable-file",
            Self::BadCertificate => "bad-certificate",
            Self::Insecure => "insecure",
            Self::BadAddress => "bad-address",
            Self::AddressConflict => "address-conflict",
            Self::UnknownPool => "unknown-pool",
            Self::DuplicateName => "duplicate-name",
            Self::Conflict => "conflict",
            Self::BadHeader => "bad-header",
            Self::BadVariable => "bad-variable",
            Self::NotAvailableYet => "not-available-yet",
            Self::NotActiveYet => "not-active-yet",
            Self::UnusedPool => "unused-pool",
            Self::Unreachable => "unreachable",
            Self::NoEffect => "no-effect",
            Self::ForwardingLoop => "forwarding-loop",
        }
    }

    /// Returns the severity, which is fixed for each code.
    pub const fn severity(self) -> Severity {
        match self {
            Self::NotActiveYet
            | Self::UnusedPool
            | Self::Unreachable
            | Self::Insecure
            | Self::NoEffect
            | Self::ForwardingLoop => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Location in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Name of the file as given by the caller.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Index of the file in [`crate::Loaded::sources`].
    #[serde(skip)]
    pub source: usize,
    /// Byte range in the text of the file.
    #[serde(skip)]
    pub bytes: Range<usize>,
}

/// Another location that a problem refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Related {
    /// Description of the location.
    pub message: String,
    /// Location in a file.
    #[serde(flatten)]
    pub at: Location,
}

/// Problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Severity, which follows from the code.
    pub severity: Severity,
    /// Kind of the problem.
    pub code: Code,
    /// Location in a file.
    #[serde(flatten)]
    pub at: Location,
    /// Path of the key, such as `pools.api.destinations[1].address`; empty for the whole file.
    pub path: String,
    /// Message with what was expected and found. It never contains the value of a variable.
    pub message: String,
    /// Suggestion for a correction.
    pub help: Option<String>,
    /// Other locations, such as the first of two equal keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
}

/// File of a configuration as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name of the file as given by the caller.
    pub name: String,
    /// Text of the file.
    pub text: String,
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
}

impl Source {
    /// Returns a file with this name and text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, lines }
    }

    /// Returns the line and column (in characters) of a byte, both counted from 1.
    pub(crate) fn line_and_column(&self, byte: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let start = self.lines[line - 1];
        let before = self.text.get(start..byte.min(self.text.len())).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// Returns the byte range of a line, counted from 1, without its end.
    pub(crate) fn line(&self, line: usize) -> Range<usize> {
        let start = self.lines.get(line - 1).copied().unwrap_or(self.text.len());
        let end = self.lines.get(line).map_or(self.text.len(), |next| next - 1);
        start..end.max(start)
    }
}

/// Problems found while loading, with their files.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    pub(crate) sources: Vec<Source>,
    reported: Vec<Problem>,
    unreported: usize,
    errors: bool,
}

impl Problems {
    /// Adds a problem and returns it, so that help and related locations can be added.
    pub(crate) fn add(
        &mut self,
        code: Code,
        span: Span,
        path: String,
        message: impl Into<String>,
    ) -> ProblemBuilder<'_> {
        self.errors |= code.severity() == Severity::Error;
        if self.is_full() {
            self.unreported += 1;
            return ProblemBuilder::suppressed();
        }
        let at = locate(&self.sources, span);
        self.reported.push(Problem {
            severity: code.severity(),
            code,
            at,
            path,
            message: message.into(),
            help: None,
            related: Vec::new(),
        });
        ProblemBuilder { problem: self.reported.last_mut(), sources: &self.sources }
    }

    /// Returns whether further problems are only counted, so that no help is needed.
    pub(crate) fn is_full(&self) -> bool {
        self.reported.len() >= MAX_REPORTED
    }

    /// Returns whether there is an error among the problems.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors
    }

    /// Returns all problems in the order of the files, and the files.
    pub(crate) fn finish(mut self) -> (Vec<Problem>, Vec<Source>) {
        if self.unreported > 0 {
            let span = Span { source: 0, start: 0, end: 0 };
            let at = locate(&self.sources, span);
            self.reported.push(Problem {
                severity: if self.errors { Severity::Error } else { Severity::Warning },
                code: Code::TooLarge,
                at,
                path: String::new(),
                message: format!("{} more problems are not shown", self.unreported),
                help: Some("fix the problems above first".to_owned()),
                related: Vec::new(),
            });
            let last = self.reported.len() - 1;
            self.reported[..last].sort_by_key(sort_key);
        } else {
            self.reported.sort_by_key(sort_key);
        }
        (self.reported, self.sources)
    }
}

fn sort_key(problem: &Problem) -> (usize, usize) {
    (problem.at.source, problem.at.bytes.start)
}

fn locate(sources: &[Source], span: Span) -> Location {
    let (start, end) = (span.start as usize, span.end as usize);
    let Some(source) = sources.get(span.source as usize) else {
        return Location { file: String::new(), line: 1, column: 1, source: 0, bytes: 0..0 };
    };
    let (line, column) = source.line_and_column(start);
    Location {
        file: source.name.clone(),
        line,
        column,
        source: span.source as usize,
        bytes: start..end.max(start),
    }
}

/// Problem that was just added.
pub(crate) struct ProblemBuilder<'p> {
    problem: Option<&'p mut Problem>,
    sources: &'p [Source],
}

impl ProblemBuilder<'_> {
    /// Returns a builder of a problem that is not reported.
    pub(crate) fn suppressed() -> Self {
        Self { problem: None, sources: &[] }
    }

    /// Adds a suggestion.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        self.maybe_help(Some(help.into()))
    }

    /// Adds a suggestion, if there is one.
    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        if let (Some(problem), Some(help)) = (&mut self.problem, help) {
            problem.help = Some(help);
        }
        self
    }

    /// Adds a related location.
    pub(crate) fn related(mut self, message: &str, span: Span) -> Self {
        if let Some(problem) = &mut self.problem {
            problem.related.push(Related { message: message.to_owned(), at: locate(self.sources, span) });
        }
        self
    }
}
