//! Folders of files, and files that cannot be read.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;

use plimsoll_config::{Loaded, load_path};

fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Loaded) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let loaded = load_path(dir.path(), &|_| None).unwrap();
    (dir, loaded)
}

/// Returns each problem as `code file:line path`.
fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let (dir, loaded) = folder(files);
    let base = |file: &str| Path::new(file).strip_prefix(dir.path()).unwrap().display().to_string();
    loaded
        .problems
        .iter()
        .map(|p| format!("{} {}:{} {}", p.code, base(&p.at.file), p.at.line, p.path))
        .collect()
}

const LISTENER: &str = "listeners: [{name: web, address: \":80\", pool: a}]\n";

#[test]
fn lists_and_blocks_are_joined_in_the_order_of_names() {
    let (dir, loaded) = folder(&[
        ("10-web.yaml", LISTENER),
        ("20-a.yaml", "pools: {a: {destinations: [\"a:1\"]}}\nload_balancer: {algorithm: p2c}"),
        ("30-b.yml", "pools: {b: {destinations: [\"unix:b.sock\"]}}\nload_balancer: {failover: false}"),
        ("40-b.yaml", "listeners: [{name: other, address: \":81\", pool: b}]\nworkers: 2"),
        ("50-empty.yaml", "# nothing yet\n"),
        ("README.txt", "not: [yaml"),
        (".hidden.yaml", "not: [yaml"),
    ]);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let config = loaded.config.unwrap();
    let names: Vec<&str> = config.listeners.iter().map(|l| &*l.name).collect();
    assert_eq!((names.as_slice(), config.pools.len()), (["web", "other"].as_slice(), 2));
    assert!(config.pools.iter().all(|p| p.algorithm.name() == "p2c" && !p.retry.failover));
    let socket = plimsoll_config::model::DestinationAddress::Unix(dir.path().join("b.sock"));
    assert_eq!(config.pools[1].destinations[0].address, socket);
}

#[test]
fn a_repeated_key_names_both_files() {
    let pool = "pools: {a: {destinations: [\"a:1\"]}}\n";
    assert_eq!(
        problems(&[("a.yaml", LISTENER), ("b.yaml", pool), ("c.yaml", pool)]),
        ["duplicate-key c.yaml:1 pools.a"]
    );
    let (_dir, loaded) =
        folder(&[("a.yaml", &format!("{LISTENER}workers: 1")), ("b.yaml", &format!("{pool}workers: 1"))]);
    let problem = &loaded.problems[0];
    assert!(
        problem.message.starts_with("the key `workers` is given twice; first on line 2 of "),
        "{}",
        problem.message
    );
    assert!(problem.at.file.ends_with("b.yaml") && problem.related[0].at.file.ends_with("a.yaml"));
    assert_eq!(
        problems(&[("a.yaml", LISTENER), ("b.yaml", &format!("{pool}{pool}"))]),
        ["duplicate-key b.yaml:2 pools"],
        "within one file nothing is joined"
    );
    assert_eq!(
        problems(&[
            ("a.yaml", LISTENER),
            ("b.yaml", pool),
            ("c.yaml", "pools: {b: {destinations: [\"b:1\"]}}\npools: {}")
        ]),
        ["duplicate-key c.yaml:2 pools"],
    );
}

#[test]
fn an_invalid_file_does_not_hide_the_problems_of_others() {
    let reported = problems(&[("a.yaml", "listen: [\n"), ("b.yaml", "workrs: 1\n"), ("c.yaml", "[]")]);
    assert_eq!(reported[0], "yaml-syntax a.yaml:1 ");
    assert!(reported.contains(&"unknown-key b.yaml:1 workrs".to_owned()), "{reported:?}");
    assert!(reported.contains(&"wrong-type c.yaml:1 ".to_owned()), "{reported:?}");
}

#[test]
fn relative_paths_and_secrets_start_at_the_folder_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("port"), "9001\n").unwrap();
    let file = dir.path().join("plimsoll.yaml");
    std::fs::write(&file, "listen: \"unix:x\"\ndestinations: [\"127.0.0.1:${file:port}\"]").unwrap();
    let config = load_path(&file, &|_| None).unwrap().config.unwrap();
    assert_eq!(&*config.pools[0].destinations[0].name, "127.0.0.1:9001");
    let socket = plimsoll_config::model::ListenAddress::Unix(dir.path().join("x"));
    assert_eq!(config.listeners[0].addresses, [socket]);
}

#[test]
fn unreadable_files_are_reported_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| load_path(path, &|_| None).unwrap_err().to_string();
    let gone = dir.path().join("gone.yaml");
    assert!(error(&gone).starts_with(&format!("cannot read the configuration {}: ", gone.display())));
    assert!(error(dir.path()).ends_with("has no *.yaml or *.yml file"));

    let bad = dir.path().join("bad.yaml");
    std::fs::write(&bad, b"listen: \"\xff\"").unwrap();
    let loaded = load_path(&bad, &|_| None).unwrap();
    assert_eq!(loaded.problems[0].message, "the file is not UTF-8 text");
    assert_eq!((loaded.problems[0].at.line, loaded.problems[0].at.column), (1, 10));
    std::fs::write(&bad, vec![b'#'; (4 << 20) + 1]).unwrap();
    assert_eq!(load_path(&bad, &|_| None).unwrap().problems[0].message, "the file is larger than 4 MiB");
}

#[test]
fn a_link_to_a_file_that_is_gone_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), LISTENER).unwrap();
    std::fs::create_dir(dir.path().join("folder.yaml")).unwrap();
    assert!(load_path(dir.path(), &|_| None).is_ok());
    std::os::unix::fs::symlink("gone", dir.path().join("b.yml")).unwrap();
    let error = load_path(dir.path(), &|_| None).unwrap_err().to_string();
    assert!(error.contains("b.yml") && error.contains("No such file"), "{error}");
}
