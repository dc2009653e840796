//! Hostile input, which is rejected quickly and without a panic.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};

use plimsoll_config::{Loaded, Severity, load, render_json, render_text};
use proptest::prelude::*;

/// Loads and renders a text, and checks the invariants of every result.
fn load_hostile(text: &str) -> Loaded {
    let env = |name: &str| (name.len() == 1).then(|| name.repeat(40_000));
    let loaded = load(text, "hostile.yaml", Path::new("/nonexistent"), &env);
    let errors = loaded.problems.iter().any(|p| p.severity == Severity::Error);
    assert_eq!(loaded.config.is_none(), errors);
    for problem in &loaded.problems {
        assert!(problem.at.line >= 1 && problem.at.column >= 1 && !problem.message.is_empty());
    }
    let report = render_text(&loaded.problems, &loaded.sources);
    assert!(!report.contains('\u{1b}'), "{report}");
    let json: serde_json::Value = serde_json::from_str(&render_json(&loaded.problems)).unwrap();
    assert_eq!(json.as_array().map(Vec::len), Some(loaded.problems.len()));
    loaded
}

fn first(text: &str) -> String {
    load_hostile(text).problems[0].message.clone()
}

#[test]
fn deep_nesting_is_rejected() {
    let deep = "invalid YAML: recursion limit exceeded";
    assert_eq!(first(&"[".repeat(1 << 20)), deep);
    assert_eq!(first(&"{a: ".repeat(1 << 20)), deep);
    assert_eq!(first(&"- ".repeat(1 << 20)), deep);
    let steps: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert_eq!(first(&steps), deep);
    assert_eq!(first(&"? ".repeat(1 << 20)), "this value is not a valid key");
}

#[test]
fn aliases_cannot_expand_without_limit() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let refs = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{refs}]\n"));
    }
    assert_eq!(first(&bomb), "the file has too many values");
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for n in 1..200 {
        chain.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
    }
    assert_eq!(first(&chain), "the file is nested too deeply");
    let wide = format!("a: &a [{}]\nb: [{}]", "x, ".repeat(10_000), "*a, ".repeat(1000));
    assert_eq!(first(&wide), "the file has too many values");
}

#[test]
fn variables_cannot_expand_without_limit() {
    let many = format!("listen: [{}]", "\"${A}\", ".repeat(10_000));
    assert!(load_hostile(&many).problems.iter().any(|p| p.message.contains("more than 4 MiB")));
    let secrets = format!("listen: [{}]", "\"${file:x}\", ".repeat(10_000));
    assert!(load_hostile(&secrets).problems.len() <= 201);
}

#[test]
fn further_problems_are_counted() {
    let unknown: String = (0..100_000).map(|n| format!("destinatoin{n}: 1\n")).collect();
    let loaded = load_hostile(&unknown);
    assert_eq!(loaded.problems.len(), 201);
    assert!(loaded.problems[200].message.ends_with("more problems are not shown"));
    load_hostile(&format!("{{{}}}", "a: 1, ".repeat(200_000)));
    load_hostile(&format!("listen: [{}]", "\":80\", ".repeat(200_000)));
    load_hostile(&format!("listen: \":80\"\ndestinations: [{}]", "x, ".repeat(500_000)));
}

#[test]
fn large_files_load_in_linear_time() {
    load_hostile(&"#".repeat(4 << 20));
    load_hostile(&"\n".repeat(4 << 20));
    load_hostile(&format!("listen: \"{}\"", "x".repeat(4_000_000)));
    load_hostile(&format!("{}: 1", "x".repeat(1_000_000)));
    load_hostile(&"x: |\n  y\n".repeat(100_000));
    let pools: String = (0..20_000).map(|n| format!("  p{n}: {{destinations: [\"a:1\"]}}\n")).collect();
    let routes: String = (0..20_000).map(|n| format!("    - {{match: {{host: h}}, pool: q{n}}}\n")).collect();
    load_hostile(&format!("pools:\n{pools}listeners:\n- name: a\n  address: \":80\"\n  routes:\n{routes}"));
    let headers: String = (0..50_000).map(|n| format!("x{n}: y, ")).collect();
    load_hostile(&format!("listeners: [{{request_headers: {{set: {{{headers}}}}}}}]"));
}

#[test]
fn problems_have_no_control_characters() {
    load_hostile("\"\\e[31mlisten\": 1");
    load_hostile("listen: \"\\e]0;x\\a\"");
    load_hostile("workers: \"\\u202e1\"");
}

fn examples() -> Vec<String> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = std::fs::read_dir(folder).unwrap();
    let paths = files.map(|entry| entry.unwrap().path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    yaml.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

proptest! {
    #[test]
    fn any_text_loads_without_panic(text in "\\PC*") {
        load_hostile(&text);
    }

    #[test]
    fn any_bytes_load_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        load_hostile(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn yaml_like_text_loads_without_panic(parts in prop::collection::vec(yaml_part(), 0..60)) {
        load_hostile(&parts.concat());
    }

    #[test]
    fn a_changed_example_loads_without_panic(
        which in 0..6_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, yaml_part()), 1..6),
    ) {
        let examples = examples();
        let mut text: Vec<char> = examples[which % examples.len()].chars().collect();
        for (at, dropped, put) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + dropped).min(text.len());
            text.splice(at..end, put.chars());
        }
        load_hostile(&text.into_iter().collect::<String>());
    }
}

fn yaml_part() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "\n", "  ", ": ", "- ", "[", "]", "{", "}", ", ", "\"", "'", "#", "&a ", "*a", "!!str ", "|\n",
            ">\n", "? ", "${A}", "${", "}", "$${", "~", "null", "true", "no", "0", "-1", "1.5", "9e99",
            "30s", "5%", "64KiB", "a:1", "unix:", "[::]:1", "\t", "\r\n", "\u{feff}", "\u{0}", "---\n",
            "...\n", "%TAG", "<<: ", "é", "😀",
        ])
        .prop_map(str::to_owned),
        prop::sample::select(vec![
            "listen: ",
            "destinations: ",
            "load_balancer: ",
            "listeners: ",
            "pools: ",
            "workers: ",
            "admin: ",
            "access_log: ",
            "shutdown: ",
            "name: ",
            "address: ",
            "routes: ",
            "match: ",
            "host: ",
            "method: ",
            "retry: ",
            "when: ",
            "health_monitoring: ",
            "expect_status: ",
            "performance_monitoring: ",
            "dynamic_adjustment: ",
            "request_headers: ",
            "set: ",
            "labels: ",
            "limits: ",
            "timeouts: ",
            "tls: ",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,8}",
    ]
}
