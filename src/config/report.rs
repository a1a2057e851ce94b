//! What is wrong in configuration files, shown as annotated source.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// It can, but somebody should look.
    Warning,
}

/// One thing wrong at one place of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Byte range in the file's text; empty at the start of the file where there is no better place.
    pub span: Range<usize>,
    /// What is wrong, one sentence without a full stop.
    pub title: String,
    /// A few words beside the marked source.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Problem {
    /// An error at `span`.
    pub fn error(span: Range<usize>, title: impl Into<String>) -> Problem {
        Problem { severity: Severity::Error, span, title: title.into(), label: None, help: None }
    }

    /// A warning at `span`.
    pub fn warning(span: Range<usize>, title: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(span, title) }
    }

    /// With a few words beside the marked source.
    pub fn label(self, label: impl Into<String>) -> Problem {
        Problem { label: Some(label.into()), ..self }
    }

    /// With what to do.
    pub fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }
}

/// One file and what is wrong in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its text; empty if it could not be read.
    pub text: String,
    /// What is wrong, in the order found.
    pub problems: Vec<Problem>,
}

/// What is wrong in all files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    files: Vec<FileReport>,
}

impl Report {
    /// Adds a file; one without problems leaves no trace.
    pub fn add(&mut self, path: &Path, text: &str, mut problems: Vec<Problem>) {
        if !problems.is_empty() {
            problems.sort_by_key(|problem| problem.span.start);
            self.files.push(FileReport { path: path.to_owned(), text: text.to_owned(), problems });
        }
    }

    /// All problems.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.files.iter().flat_map(|file| &file.problems)
    }

    /// All problems with their places.
    pub fn located(&self) -> impl Iterator<Item = Located<'_>> {
        let place = |file: &'_ FileReport, problem: &Problem| line_and_column(&file.text, problem.span.start);
        self.files.iter().flat_map(move |file| {
            file.problems.iter().map(move |problem| {
                let (line, column) = place(file, problem);
                Located { path: &file.path, line, column, problem }
            })
        })
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether there is an error among them.
    pub fn has_errors(&self) -> bool {
        self.problems().any(|problem| problem.severity == Severity::Error)
    }

    /// As annotated source, with colours for a terminal.
    pub fn render(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let pieces: Vec<String> = self
            .files
            .iter()
            .flat_map(|file| file.problems.iter().map(|problem| renderer.render(&[group(file, problem)])))
            .collect();
        pieces.join("\n\n")
    }
}

/// One problem by itself, for scripts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located<'a> {
    /// The file.
    pub path: &'a Path,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: &'a Problem,
}

/// The line and the column (in characters) of a place in the text, both from 1.
pub(super) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..within(text, &(at..at)).start];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// Whether to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// For files and pipes.
    Plain,
    /// For terminals.
    Coloured,
}

fn group<'a>(file: &'a FileReport, problem: &'a Problem) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut mark = AnnotationKind::Primary.span(within(&file.text, &problem.span));
    if let Some(label) = &problem.label {
        mark = mark.label(label.as_str());
    }
    let snippet = Snippet::source(file.text.as_str()).path(file.path.display().to_string()).annotation(mark);
    let group = level.primary_title(problem.title.as_str()).element(snippet);
    match &problem.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// A range that certainly lies in the text and on its character boundaries: the renderer panics otherwise.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

/// The configuration can't be used: at least one error, and all that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Report);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.render(Style::Plain))
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_at_its_line_with_what_to_do() {
        let mut report = Report::default();
        let text = "[cluster]\nnmae = \"shop\"\n";
        report.add(Path::new("a.toml"), text, vec![Problem::error(10..14, "unknown key").help("did you mean name?")]);
        let shown = report.render(Style::Plain);
        assert!(shown.contains("a.toml:2:1") && shown.contains("^^^^") && shown.contains("did you mean"), "{shown}");
    }

    #[test]
    fn a_span_outside_the_text_or_within_a_letter_does_no_harm() {
        for span in [90..100, 1..2, 2..1000] {
            let mut report = Report::default();
            report.add(Path::new("a.toml"), "ö = 1", vec![Problem::error(span, "odd")]);
            assert!(report.render(Style::Plain).contains("odd"));
        }
    }
}
