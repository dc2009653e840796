//! Verbs that end by themselves: their words and their exit codes.

use std::net::TcpListener;

use serde_json::Value;

use crate::process::{Destination, Folder, Running, config, ends, plimsoll, told};

fn example(name: &str) -> String {
    format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn check_says_valid_or_everything_that_is_wrong() {
    for name in ["minimal.yaml", "full.yaml", "specification-basic.yaml", "specification-advanced.yaml"] {
        let (code, out, _) = ends(&["check", "-c", &example(name)]);
        assert_eq!(code, 0, "{name}: {out}");
        assert!(out.contains("valid"), "{out}");
    }
    let folder = Folder::with("listen: \":8080\"\ndestinations: [\"127.0.0.1\"]\nlaod_balancer: {}\n");
    let path = folder.config();
    let path = path.to_str().unwrap();
    let (code, out, err) = ends(&["check", "-c", path]);
    assert_eq!(code, 1);
    assert!(out.contains("not valid, 2 errors"), "{out}");
    assert!(err.contains("config.yaml:2:16") && err.contains("config.yaml:3:1"), "{err}");
    assert!(err.contains("load_balancer"), "a suggestion: {err}");
    let (code, out, _) = ends(&["validate", "-c", path, "-o", "json"]);
    let problems: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, problems.as_array().unwrap().len()), (1, 2));
    assert_eq!((&problems[1]["line"], &problems[1]["severity"]), (&3.into(), &"error".into()));
}

#[test]
fn warnings_are_errors_only_with_strict() {
    let path = example("specification-advanced.yaml");
    let (code, out, err) = ends(&["check", "-c", &path]);
    assert!(code == 0 && out.contains("warning") && err.contains("warning"), "{out}{err}");
    assert_eq!(ends(&["check", "-c", &path, "--strict"]).0, 1);
    for clean in ["minimal.yaml", "specification-basic.yaml"] {
        assert_eq!(ends(&["check", "-c", &example(clean), "--strict"]).0, 0, "{clean}");
    }
}

#[test]
fn the_configuration_is_named_by_flag_or_environment() {
    let told_by_env =
        plimsoll().arg("check").env("PLIMSOLL_CONFIG", example("minimal.yaml")).output().unwrap();
    assert_eq!(told(&told_by_env).0, 0);
    let (code, _, err) = ends(&["check", "-c", "/does/not/exist.yaml"]);
    assert!(code == 2 && err.contains("/does/not/exist.yaml"), "{code} {err}");
    for verb in ["check", "run"] {
        let (code, _, err) = ends(&[verb]);
        assert!(code == 2 && err.contains("PLIMSOLL_CONFIG"), "{code} {err}");
    }
}

#[test]
fn what_is_not_offered_is_a_usage_error() {
    for args in [&["drain", "api/a"][..], &["top"], &["explain", "GET", "/"], &["check", "--nope"], &[]] {
        assert_eq!(ends(args).0, 2, "{args:?}");
    }
    assert_eq!(ends(&["--help"]).0, 0);
    assert_eq!(ends(&["--version"]), (0, format!("plimsoll {}\n", env!("CARGO_PKG_VERSION")), String::new()));
}

#[test]
fn flags_of_proxy_are_checked_by_name() {
    let (code, _, err) = ends(&["proxy", "--from", "nowhere", "--to", "127.0.0.1:1"]);
    assert!(code == 2 && err.contains("--from"), "{code} {err}");
    let (code, _, err) = ends(&["proxy", "--from", ":0", "--to", "127.0.0.1:1", "--algorithm", "fastest"]);
    assert!(code == 2 && err.contains("least_connections"), "{code} {err}");
}

#[test]
fn the_schema_and_completions_are_printed() {
    let (code, out, _) = ends(&["schema"]);
    let schema: Value = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && schema["properties"]["listeners"].is_object());
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = ends(&["completion", shell]);
        assert!(code == 0 && out.contains("plimsoll"), "{shell}");
    }
}

/// An address nobody listens on.
fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn status_is_an_exit_code() {
    let nobody_there = nobody().to_string();
    let (code, _, err) = ends(&["status", "--admin", &nobody_there]);
    assert!(code == 4 && err.contains("nobody answers") && err.contains(&nobody_there), "{err}");
    assert_eq!(ends(&["reload", "--admin", &nobody_there]).0, 4);

    let (a, b) = (Destination::start("a"), nobody());
    for (destinations, health, want) in
        [(vec![a.address], "healthy", 0), (vec![a.address, b], "degraded", 3), (vec![b, nobody()], "down", 4)]
    {
        let folder = Folder::with(&config(&destinations, ""));
        let running = Running::start(&folder.config());
        running.admin_until("/v1/server", |server| server["health"] == health);
        let (code, out, err) = ends(&["status", "--admin", &running.admin]);
        assert_eq!(code, want, "{out}{err}");
        assert!(out.contains(health) && out.contains(&destinations[0].to_string()), "{out}");
        let json =
            plimsoll().args(["status", "-o", "json"]).env("PLIMSOLL_ADMIN", &running.admin).output().unwrap();
        let (code, out, _) = told(&json);
        let whole: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &whole["health"]), (want, &health.into()));
        assert_eq!(whole["pools"][0]["destinations"].as_array().unwrap().len(), destinations.len());
    }
}

#[test]
fn somebody_else_at_the_admin_address_is_told_from_plimsoll() {
    let stranger = Destination::start("not JSON");
    let (code, _, err) = ends(&["status", "--admin", &stranger.address.to_string()]);
    assert!(code == 4 && err.contains("not the admin plane"), "{err}");
}

#[test]
fn explain_tells_who_would_take_a_request_and_who_not_and_why() {
    let a = Destination::start("a");
    let folder = Folder::with(&config(&[a.address, nobody()], ""));
    let running = Running::start(&folder.config());
    running.admin_until("/v1/server", |server| server["health"] == "degraded");
    let url = format!("http://{}/path", running.listens);
    let (code, out, err) = ends(&["explain", "GET", &url, "-H", "x-tier: gold", "--admin", &running.admin]);
    assert_eq!(code, 0, "{err}");
    for told in ["default of listener web, pool default", "1 of 2 destinations are candidates", "takes it"] {
        assert!(out.contains(told), "{told}: {out}");
    }
    assert!(out.contains("set aside: down: ") && out.contains("cannot connect"), "{out}");
    let (code, out, _) = ends(&["explain", "GET", &url, "-o", "json", "--admin", &running.admin]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &told["winner"], &told["decidedBy"]),
        (0, &a.address.to_string().into(), &"lone".into())
    );
    let (code, _, err) = ends(&["explain", "GET", "http://127.0.0.1:1/", "--admin", &running.admin]);
    assert!(code == 2 && err.contains("no listener for requests has port 1"), "{code} {err}");
    let nobody_there = nobody().to_string();
    assert_eq!(ends(&["explain", "GET", &url, "--admin", &nobody_there]).0, 4);
}
