//! User instructions of a program, counted by callgrind.

use std::fs;
use std::io;
use std::path::Path;

/// Returns the command-line prefix that counts instructions into `out`.
pub(super) fn prefix(valgrind: &Path, out: &Path) -> Vec<String> {
    let out = format!("--callgrind-out-file={}", out.display());
    vec![valgrind.to_string_lossy().into_owned(), "--tool=callgrind".to_owned(), out]
}

/// Reads the sum over all functions of a finished run.
pub(super) fn read(out: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(out)?;
    total(&text).ok_or_else(|| io::Error::other("callgrind wrote no total: was the program killed?"))
}

fn total(text: &str) -> Option<u64> {
    let sum = text.lines().rev().find_map(|line| line.strip_prefix("totals: "))?;
    sum.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_parsed_from_the_last_lines() {
        assert_eq!(total("summary: 7\n\nfn=(1)\n1 5\n2 7\n\ntotals: 12\n"), Some(12));
        assert_eq!(total("fn=(1)\n"), None);
    }
}
