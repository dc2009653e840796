//! How words reach the person at the terminal.

use std::io::{self, IsTerminal, Write};

/// Writes to standard output. A reader that left (`| head`) is no reason to fail.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _reader_left = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line on what went wrong to standard error.
pub(crate) fn complain(text: &str) {
    let _reader_left = writeln!(io::stderr().lock(), "plimsoll: {}", text.trim_end());
}

/// Tells somebody who watches what is going on; programs are told nothing.
pub(crate) fn progress(what: &str) {
    if io::stderr().is_terminal() {
        eprintln!("… {what}");
    }
}

/// Columns as wide as their widest cell, two spaces between; the first row is the head.
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
