//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};

use crate::tree::Span;

/// More problems than this are counted, not told: nobody reads them, and a hostile file could hold a
/// million.
const MAX_REPORTED: usize = 200;

/// Does it stop the file from being used?
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file works, but not quite as it reads.
    Warning,
}

/// The kind of a problem: a stable word for programs.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Not YAML, or not text at all.
    YamlSyntax,
    /// Valid YAML that means nothing here: tags, several documents, keys that are not text.
    UnsupportedYaml,
    /// Over a limit of size, depth or number.
    TooLarge,
    /// A key is given twice.
    DuplicateKey,
    /// No key of that name exists there.
    UnknownKey,
    /// A key that must be there is not.
    MissingKey,
    /// A list where a text belongs, and the like.
    WrongType,
    /// The right type, but not a value of its kind.
    BadValue,
    /// A number, time, share or size without its unit, or with a wrong one.
    BadUnit,
    /// Too small or too large.
    OutOfRange,
    /// Not an address one could listen on or connect to.
    BadAddress,
    /// Two listeners want the same address.
    AddressConflict,
    /// No pool has that name.
    UnknownPool,
    /// A name is given twice.
    DuplicateName,
    /// Keys that exclude each other.
    Conflict,
    /// A header name or value that must not be sent, or may not be edited.
    BadHeader,
    /// `${…}` that cannot be resolved.
    BadVariable,
    /// A file it names is not there, or not for us to read.
    UnreadableFile,
    /// A certificate, key or authority that is none, or does not fit. Found by whoever loads them.
    BadCertificate,
    /// Allowed, and dangerous.
    Insecure,
    /// A key or value of a later version.
    NotAvailableYet,
    /// A key of the specification that is accepted and does nothing yet.
    NotActiveYet,
    /// No listener and no route leads to it.
    UnusedPool,
    /// A rule or destination no message can reach.
    Unreachable,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 24] = [
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
    ];

    /// The word for programs.
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
        }
    }

    /// Warnings are the same everywhere: a code is either one or the other.
    pub const fn severity(self) -> Severity {
        match self {
            Self::NotActiveYet | Self::UnusedPool | Self::Unreachable | Self::Insecure => Severity::Warning,
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

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file as the caller named it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Index of the file among [`crate::Loaded::sources`].
    #[serde(skip)]
    pub source: usize,
    /// Bytes of its text.
    #[serde(skip)]
    pub bytes: Range<usize>,
}

/// Another place a problem has to do with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// Where.
    #[serde(flatten)]
    pub at: Location,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Does it stop the file?
    pub severity: Severity,
    /// Its kind.
    pub code: Code,
    /// Where.
    #[serde(flatten)]
    pub at: Location,
    /// Which key: `pools.api.destinations[1].address`; empty for the whole file.
    pub path: String,
    /// What is wrong. Never holds the value of a variable.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// The other place, for what is given twice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
}

/// One file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the caller named it.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Where each line starts.
    lines: Vec<usize>,
}

impl Source {
    /// A file of that name and text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, lines }
    }

    /// The line (from 1) and column (from 1, in characters) of a byte.
    pub(crate) fn line_and_column(&self, byte: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let start = self.lines[line - 1];
        let before = self.text.get(start..byte.min(self.text.len())).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// The bytes of a line (from 1), without its end.
    pub(crate) fn line(&self, line: usize) -> Range<usize> {
        let start = self.lines.get(line - 1).copied().unwrap_or(self.text.len());
        let end = self.lines.get(line).map_or(self.text.len(), |next| next - 1);
        start..end.max(start)
    }
}

/// Collects the problems of a load, and the files they are in.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    pub(crate) sources: Vec<Source>,
    reported: Vec<Problem>,
    unreported: usize,
    errors: bool,
}

impl Problems {
    /// Adds one; returns it for a word of help or another place.
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

    /// No more are told, so nothing need be done to tell one well.
    pub(crate) fn is_full(&self) -> bool {
        self.reported.len() >= MAX_REPORTED
    }

    /// Was there one that stops the file?
    pub(crate) fn has_errors(&self) -> bool {
        self.errors
    }

    /// All of them, in the order of the files.
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
                help: Some("correct these first".to_owned()),
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

/// A problem just added.
pub(crate) struct ProblemBuilder<'p> {
    problem: Option<&'p mut Problem>,
    sources: &'p [Source],
}

impl ProblemBuilder<'_> {
    /// Stands for a problem that is not told.
    pub(crate) fn suppressed() -> Self {
        Self { problem: None, sources: &[] }
    }

    /// What would be right.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        self.maybe_help(Some(help.into()))
    }

    /// What would be right, if it is known.
    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        if let (Some(problem), Some(help)) = (&mut self.problem, help) {
            problem.help = Some(help);
        }
        self
    }

    /// Another place it has to do with.
    pub(crate) fn related(mut self, message: &str, span: Span) -> Self {
        if let Some(problem) = &mut self.problem {
            problem.related.push(Related { message: message.to_owned(), at: locate(self.sources, span) });
        }
        self
    }
}
