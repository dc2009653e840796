//! Output of problems as text with source lines, and as JSON.

use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};

use crate::problem::{Location, Problem, Severity, Source};

/// Bytes of a line that are shown before the marked part. Twice as many are shown after its start.
const CONTEXT_BYTES: usize = 100;

/// Returns all problems as text in the style of `rustc`, or an empty text if there are none. `sources` are those of
/// [`crate::Loaded`].
pub fn render_text(problems: &[Problem], sources: &[Source]) -> String {
    let renderer = Renderer::plain().decor_style(DecorStyle::Ascii);
    let mut text = String::new();
    for problem in problems {
        text.push_str(&renderer.render(&[group(problem, sources)]));
        text.push_str("\n\n");
    }
    text
}

/// Returns all problems as a JSON array of `{severity, code, file, line, column, path, message, help}`. `related` has
/// other locations, such as the first of two equal keys.
pub fn render_json(problems: &[Problem]) -> String {
    // Serialization cannot fail: the types have neither maps nor floats.
    serde_json::to_string_pretty(problems).unwrap_or_default()
}

fn group<'p>(problem: &'p Problem, sources: &'p [Source]) -> Group<'p> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut elements = snippet(&problem.at, AnnotationKind::Primary, None, sources);
    for related in &problem.related {
        elements.extend(snippet(&related.at, AnnotationKind::Context, Some(&related.message), sources));
    }
    if !problem.path.is_empty() {
        elements.push(Level::NOTE.with_name("path").message(&problem.path).into());
    }
    if let Some(help) = &problem.help {
        elements.push(Level::HELP.message(help).into());
    }
    level.primary_title(&problem.message).id(problem.code.as_str()).elements(elements)
}

/// Returns the file name, line and column, with the source line.
fn snippet<'p>(
    at: &'p Location,
    kind: AnnotationKind,
    label: Option<&'p str>,
    sources: &'p [Source],
) -> Vec<Element<'p>> {
    let origin = Origin::path(at.file.as_str()).line(at.line).char_column(at.column);
    let Some(source) = sources.get(at.source) else { return vec![origin.into()] };
    let line = source.line(at.line);
    let Some(window) = window(&source.text, &line, &at.bytes) else { return vec![origin.into()] };
    let within = |byte: usize| byte.clamp(window.start, window.end) - window.start;
    let marked = within(at.bytes.start)..within(at.bytes.end);
    let snippet = Snippet::source(&source.text[window.clone()])
        .line_start(at.line)
        .annotation(kind.span(marked).label(label));
    // A snippet counts columns from its start, so a line that is cut off on the left needs an explicit origin.
    match window.start == line.start {
        true => vec![snippet.path(at.file.as_str()).into()],
        false => vec![origin.into(), snippet.into()],
    }
}

/// Returns the part of a line that is shown: the whole line, or the bytes around the marked part.
fn window(text: &str, line: &Range<usize>, marked: &Range<usize>) -> Option<Range<usize>> {
    let shown = text.get(line.clone())?;
    if shown.trim().is_empty() {
        return None;
    }
    let end = line.start + shown.trim_end().len();
    let floor = |at: usize| (line.start..=at.min(end)).rev().find(|at| text.is_char_boundary(*at));
    let near = marked.start.saturating_sub(line.start) <= CONTEXT_BYTES;
    let from = if near { line.start } else { floor(marked.start - CONTEXT_BYTES)? };
    Some(from..floor(marked.start.saturating_add(2 * CONTEXT_BYTES))?.max(from))
}
