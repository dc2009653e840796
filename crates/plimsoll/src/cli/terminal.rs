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

/// Returns the width of the terminal in columns; `None` if standard output is none.
pub(crate) fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Formats rows as columns of equal width, two spaces apart; the first row is the header. Columns of numbers are aligned
/// to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let numeric: Vec<bool> = (0..columns).map(|column| is_numeric(rows, column)).collect();
    let line = |row: &Vec<String>| {
        let cells =
            row.iter().zip(widths.iter().zip(&numeric)).map(|(cell, (&width, numeric))| match numeric {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Whether all cells of a column below its header are numbers, with a unit or without; a dash is a missing one.
fn is_numeric(rows: &[Vec<String>], column: usize) -> bool {
    let is_number = |cell: &str| {
        let digits = cell.trim_start_matches(['+', '-', '<', '>', '≤', '≥', ' ']);
        let end =
            digits.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',')).unwrap_or(digits.len());
        let (number, unit) = digits.split_at(end);
        !number.is_empty() && matches!(unit.trim_start(), "" | "%" | "x" | "s" | "ms" | "µs" | "ns")
    };
    let mut cells =
        rows.iter().skip(1).filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty()).peekable();
    cells.peek().is_some()
        && cells.clone().any(|cell| is_number(cell))
        && cells.all(|cell| cell == "-" || is_number(cell))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "long head".to_owned()], vec!["wider".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "a      long head\nwider  x\n");
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let rows = [["NAME", "N", "SHARE", "AT"], ["a", "5", "2.5%", "1.2.3.4:5"], ["b", "100", "-", "x"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "NAME    N  SHARE  AT\na       5   2.5%  1.2.3.4:5\nb     100      -  x\n");
    }
}
