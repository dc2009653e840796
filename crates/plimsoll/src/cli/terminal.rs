//! Text on standard output and standard error.

use std::io::{self, IsTerminal, Write};

/// Writes to standard output. A closed pipe (`| head`) is not an error.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _pipe_closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes to standard error. A closed standard error is not an error.
pub(crate) fn print_error(text: &str) {
    let _pipe_closed = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes an error message to standard error.
pub(crate) fn error_line(text: &str) {
    let _pipe_closed = writeln!(io::stderr().lock(), "plimsoll: {}", text.trim_end());
}

/// Reports progress of a long computation, on a terminal only.
pub(crate) fn progress(what: &str) {
    if io::stderr().is_terminal() {
        print_error(&format!("… {what}\n"));
    }
}

/// Formats rows as columns of equal width, two spaces apart; the first row is the header.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "long head".to_owned()], vec!["wider".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "a      long head\nwider  x\n");
    }
}
