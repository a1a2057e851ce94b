//! Text for terminals and pipes: columns that line up, values that can't play tricks on the terminal, colour only
//! where it is wanted.

use std::io::{self, IsTerminal, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Writes `text` to standard output. `false` if nobody reads on (`| head`), which is no error.
pub fn emit(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true),
    }
}

/// Whether to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    /// No escape sequence at all.
    Plain,
    /// A terminal that shows them.
    Colour,
}

impl Paint {
    /// Colour on a terminal, unless NO_COLOR (<https://no-color.org>) or TERM=dumb says otherwise.
    pub fn for_stdout() -> Paint {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        if io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb { Paint::Colour } else { Paint::Plain }
    }

    /// Bold.
    pub fn strong(self, text: &str) -> String {
        self.wrapped("1", text)
    }

    /// What differs or needs attention: bold yellow.
    pub fn notice(self, text: &str) -> String {
        self.wrapped("1;33", text)
    }

    fn wrapped(self, code: &str, text: &str) -> String {
        match self {
            Paint::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Paint::Plain => text.to_owned(),
        }
    }
}

/// `text` on one line and without power over the terminal: control characters and those that reorder text are
/// written as escapes.
pub fn shown(text: &str) -> String {
    let reorders = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || reorders(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// `text` in at most `columns`, cut with an ellipsis.
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let (head, _) = text.split_at(prefix(text, columns.saturating_sub(1)));
    format!("{head}…")
}

/// `text` in lines of at most `columns`; never empty.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while lines.is_empty() || !rest.is_empty() {
        let end = prefix(rest, columns).max(rest.chars().next().map_or(0, char::len_utf8));
        let (line, after) = rest.split_at(end);
        lines.push(line.to_owned());
        rest = after;
    }
    lines
}

/// Bytes of the longest beginning of `text` that takes at most `columns`.
fn prefix(text: &str, columns: usize) -> usize {
    let mut taken = 0;
    let past = text.char_indices().find(|(_, c)| {
        taken += c.width().unwrap_or(0);
        taken > columns
    });
    past.map_or(text.len(), |(at, _)| at)
}

/// `text` and blanks up to `columns`.
pub fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(text.width())))
}

/// Which end of a column lines up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table: a line of headings, then `rows`, as wide as each column needs.
pub fn table(headings: &[(&str, Align)], rows: &[Vec<String>], paint: Paint) -> String {
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.width()).max().unwrap_or(0);
    let widths: Vec<usize> = headings.iter().enumerate().map(|(at, it)| it.0.width().max(width(at))).collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(headings).zip(&widths).map(|((cell, (_, align)), width)| {
            let blanks = " ".repeat(width.saturating_sub(cell.width()));
            match align {
                Align::Left => format!("{cell}{blanks}"),
                Align::Right => format!("{blanks}{cell}"),
            }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out = paint.strong(&line(&headings.iter().map(|it| it.0).collect::<Vec<_>>())) + "\n";
    for row in rows {
        out += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
        out.push('\n');
    }
    out
}

/// A number of bytes as PostgreSQL's `pg_size_pretty` counts, in steps of 1024.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.95 {
            let digits = if unit == "B" { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TB")
}

/// A time span, at the precision that people care about.
pub fn seconds(span: f64) -> String {
    let whole = span.round() as u64;
    match span {
        _ if span == 0.0 => "0 s".to_owned(),
        _ if span.abs() < 0.00095 => format!("{:.0} µs", span * 1e6),
        _ if span.abs() < 0.0095 => format!("{:.1} ms", span * 1e3),
        _ if span < 9.95 => format!("{span:.2} s"),
        _ if span < 59.5 => format!("{span:.0} s"),
        _ if whole < 3_600 => format!("{} min {} s", whole / 60, whole % 60),
        _ if whole < 86_400 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_play_tricks_on_the_terminal() {
        assert_eq!(shown("a\x1b[31m\nb\u{202e}c\u{9b}ä"), "a\\u{1b}[31m\\nb\\u{202e}c\\u{9b}ä");
    }

    #[test]
    fn width_is_counted_in_columns() {
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語!", 6), "日本…");
        assert_eq!(pad("日本", 6), "日本  ");
        assert_eq!(wrap("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(wrap("日本語", 3), ["日", "本", "語"]);
        assert_eq!(wrap("日本", 1), ["日", "本"], "no line is empty, however narrow");
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["é".to_owned(), "1".to_owned()], vec!["long".to_owned(), "100".to_owned()]];
        let text = table(&[("NAME", Align::Left), ("N", Align::Right)], &rows, Paint::Plain);
        assert_eq!(text, "NAME    N\né       1\nlong  100\n");
    }

    #[test]
    fn sizes_and_spans_are_short() {
        let sizes = [0, 999, 1_000, 1 << 20, 5_242_880, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.0 MB", "5.0 MB", "16777216.0 TB"]);
        let spans = [0.0, 0.000_001, -0.0015, 0.25, 12.5, 59.9, 3_725.0, 200_000.0].map(seconds);
        assert_eq!(spans, ["0 s", "1 µs", "-1.5 ms", "0.25 s", "12 s", "1 min 0 s", "1 h 2 min", "2 d 7 h"]);
    }

    #[test]
    fn colour_wraps_only_where_it_is_wanted() {
        assert_eq!(Paint::Plain.notice("x"), "x");
        assert_eq!(Paint::Colour.notice("x"), "\x1b[1;33mx\x1b[0m");
    }
}
