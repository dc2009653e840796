//! `plimsoll demo`: balanced traffic without client errors.

use crate::process::run_to_end;

/// Returns the number after `key` in `text`.
fn number(text: &str, key: &str) -> u64 {
    let after = text.split(key).nth(1).unwrap_or_else(|| panic!("{key} is not in\n{text}"));
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn traffic_is_balanced_and_failures_are_hidden_from_clients() {
    let (code, out, err) = run_to_end(&["demo", "--seconds", "3"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(!out.contains('\x1b'), "no escape sequences without a terminal");
    for line in ["http://127.0.0.1:", "  1s  ", "  2s  ", "  3s  "] {
        assert!(out.contains(line), "{line} is missing in\n{out}");
    }
    let summary = out.split("\nDESTINATION").nth(1).expect("a summary");
    assert_eq!(number(summary, "client errors: "), 0, "{out}");
    assert!(number(summary, "\nrequests: ") > 600, "{out}");
    let mut all = 0.0;
    for (name, least, most) in
        [("fast", 20.0, 70.0), ("medium", 10.0, 50.0), ("slow", 4.0, 30.0), ("flaky", 3.0, 40.0)]
    {
        let row = summary.lines().find(|line| line.starts_with(name)).expect(name);
        let share = row.split_whitespace().find_map(|cell| cell.strip_suffix('%')).expect("a share");
        let share: f64 = share.parse().unwrap();
        assert!((least..most).contains(&share), "{name}: {share}%\n{out}");
        all += share;
    }
    assert!((all - 100.0_f64).abs() < 0.5, "{all}");
    let changes = summary.lines().find(|line| line.starts_with("flaky")).unwrap().split_whitespace().last();
    assert!(changes.unwrap().parse::<u64>().unwrap() > 0, "its status changed\n{out}");
}
