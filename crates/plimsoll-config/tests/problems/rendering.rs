//! Output of problems as text and JSON.

use crate::{check, check_short, load_text};

#[test]
fn unresolved_variables_are_reported_once() {
    check(
        "listen: ▸\"${NOPE}\"\ndestinations: [▸\"${NOPE}:80\"]",
        &["bad-variable listen", "bad-variable destinations[0]"],
    );
    check_short("workers: ▸${NOPE}", &["bad-variable workers"]);
    check_short("workers: ${NOPE:-3}", &[]);
    check_short("access_log: {path: ▸\"${file:/no/such/file}\"}", &["bad-variable access_log.path"]);
    check_short(
        "admin: ▸${NOPE}\nshutdown: ▸${NOPE}\nload_balancer: ▸${NOPE}",
        &["bad-variable admin", "bad-variable shutdown", "bad-variable load_balancer"],
    );
}

#[test]
fn values_of_variables_are_never_shown() {
    let text = "listen: \"${SECRET}\"\ndestinations: [\"${SECRET}\", \"${SECRET}\"]\nworkers: ${NUMBER}\n\
                shutdown: {grace: \"${SECRET}\"}\naccess_log: \"${SECRET}\"\nadmin: {address: \"${SECRET}\"}\n\
                load_balancer: {algorithm: \"${SECRET}\", failover: \"${SECRET}\", retry: {when: [\"${SECRET}\"], \
                budget: \"${NUMBER}\"}, health_monitoring: {path: \"${SECRET}\", check_interval: \"${NUMBER}\", \
                port: \"${NUMBER}\", expect_status: \"${SECRET}\"}}";
    let loaded = load_text(text);
    assert!(loaded.problems.len() > 12, "{:?}", loaded.problems);
    let output = plimsoll_config::render_text(&loaded.problems, &loaded.sources)
        + &plimsoll_config::render_json(&loaded.problems);
    assert!(!output.contains("hunter2") && !output.contains("70000"), "{output}");
    assert!(output.contains("`${SECRET}` has no port"), "{output}");
}

#[test]
fn text_output_has_source_lines() {
    let loaded = load_text("listen: \":80\"\ndestinations: [\"a:1\"]\nload_balancer:\n  algoritm: p2c\n");
    let output = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
    let expected = "\
error[unknown-key]: unknown key `algoritm`
 --> test.yaml:4:3
  |
4 |   algoritm: p2c
  |   ^^^^^^^^
  |
  = path: load_balancer.algoritm
  = help: did you mean `algorithm`?

";
    assert_eq!(output, expected);
}

#[test]
fn json_output_has_related_locations() {
    let loaded = load_text("listen: \":80\"\ndestinations: [\"a:1\"]\nworkers: 1\nworkers: 2\n");
    let expected = r#"[
  {
    "severity": "error",
    "code": "duplicate-key",
    "file": "test.yaml",
    "line": 4,
    "column": 1,
    "path": "workers",
    "message": "the key `workers` is given twice; first on line 3",
    "help": "keep one of them",
    "related": [
      {
        "message": "first given here",
        "file": "test.yaml",
        "line": 3,
        "column": 1
      }
    ]
  }
]"#;
    assert_eq!(plimsoll_config::render_json(&loaded.problems), expected);
    assert_eq!(plimsoll_config::render_json(&[]), "[]");
}
