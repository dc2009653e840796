//! Commands that end by themselves: output and exit codes.

use std::net::TcpListener;

use serde_json::Value;

use crate::process::{Destination, Directory, Running, config, output_of, plimsoll, run_to_end};

fn example(name: &str) -> String {
    format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn check_reports_valid_or_all_problems() {
    for name in ["minimal.yaml", "full.yaml", "specification-basic.yaml", "specification-advanced.yaml"] {
        let (code, out, _) = run_to_end(&["check", "-c", &example(name)]);
        assert_eq!(code, 0, "{name}: {out}");
        assert!(out.contains("valid"), "{out}");
    }
    let directory = Directory::with("listen: \":8080\"\ndestinations: [\"127.0.0.1\"]\nlaod_balancer: {}\n");
    let path = directory.config();
    let path = path.to_str().unwrap();
    let (code, out, err) = run_to_end(&["check", "-c", path]);
    assert_eq!(code, 1);
    assert!(out.contains("not valid, 2 errors"), "{out}");
    assert!(err.contains("config.yaml:2:16") && err.contains("config.yaml:3:1"), "{err}");
    assert!(err.contains("load_balancer"), "a suggestion: {err}");
    let (code, out, _) = run_to_end(&["validate", "-c", path, "-o", "json"]);
    let problems: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, problems.as_array().unwrap().len()), (1, 2));
    assert_eq!((&problems[1]["line"], &problems[1]["severity"]), (&3.into(), &"error".into()));
}

#[test]
fn check_works_without_a_standard_error() {
    let directory = Directory::with("listen: \":0\"\ndestinations: [\"127.0.0.1\"]\n");
    for output in ["text", "json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = plimsoll();
        command.args(["check", "-o", output, "-c"]).arg(directory.config()).stderr(writer);
        assert_eq!(command.output().unwrap().status.code(), Some(1));
    }
}

#[test]
fn private_keys_that_others_can_read_are_reported() {
    use std::os::unix::fs::PermissionsExt;
    let certs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/certs");
    let directory = Directory::with(&format!(
        "listeners: [{{name: web, address: \"127.0.0.1:0\", protocol: https, pool: p, \
         tls: {{certificates: [{{cert: {certs}/example.pem, key: own.key}}]}}}}]\n\
         pools: {{p: {{destinations: [\"127.0.0.1:1\"]}}}}\n"
    ));
    let (config, key) = (directory.config(), directory.path("own.key"));
    std::fs::copy(format!("{certs}/example.key"), &key).unwrap();
    for (mode, warns) in [(0o604, true), (0o600, false), (0o640, false)] {
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        let (code, out, err) = run_to_end(&["check", "-c", config.to_str().unwrap()]);
        assert_eq!(code, 0, "{err}");
        assert_eq!(
            err.contains("every user of this machine can read this private key"),
            warns,
            "{mode:o} {err}"
        );
        assert_eq!(out.contains("1 warning"), warns, "{out}");
    }
}

#[test]
fn warnings_are_errors_only_with_strict() {
    let path = example("specification-advanced.yaml");
    let (code, out, err) = run_to_end(&["check", "-c", &path]);
    assert!(code == 0 && out.contains("warning") && err.contains("warning"), "{out}{err}");
    assert_eq!(run_to_end(&["check", "-c", &path, "--strict"]).0, 1);
    for clean in ["minimal.yaml", "specification-basic.yaml"] {
        assert_eq!(run_to_end(&["check", "-c", &example(clean), "--strict"]).0, 0, "{clean}");
    }
}

#[test]
fn configuration_is_named_by_flag_or_environment() {
    let checked = plimsoll().arg("check").env("PLIMSOLL_CONFIG", example("minimal.yaml")).output().unwrap();
    assert_eq!(output_of(&checked).0, 0);
    let (code, _, err) = run_to_end(&["check", "-c", "/does/not/exist.yaml"]);
    assert!(code == 2 && err.contains("/does/not/exist.yaml"), "{code} {err}");
    for command in ["check", "run"] {
        let (code, _, err) = run_to_end(&[command]);
        assert!(code == 2 && err.contains("PLIMSOLL_CONFIG"), "{code} {err}");
    }
}

#[test]
fn unknown_commands_and_flags_are_usage_errors() {
    for args in [&["drain", "api/a"][..], &["top"], &["explain", "GET", "/"], &["check", "--nope"], &[]] {
        assert_eq!(run_to_end(args).0, 2, "{args:?}");
    }
    assert_eq!(run_to_end(&["--help"]).0, 0);
    assert_eq!(
        run_to_end(&["--version"]),
        (0, format!("plimsoll {}\n", env!("CARGO_PKG_VERSION")), String::new())
    );
}

#[test]
fn errors_of_proxy_name_the_flag() {
    let (code, _, err) = run_to_end(&["proxy", "--from", "nowhere", "--to", "127.0.0.1:1"]);
    assert!(code == 2 && err.contains("--from"), "{code} {err}");
    let (code, _, err) =
        run_to_end(&["proxy", "--from", ":0", "--to", "127.0.0.1:1", "--algorithm", "fastest"]);
    assert!(code == 2 && err.contains("least_connections"), "{code} {err}");
}

#[test]
fn schema_and_completions_are_printed() {
    let (code, out, _) = run_to_end(&["schema"]);
    let schema: Value = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && schema["properties"]["listeners"].is_object());
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run_to_end(&["completion", shell]);
        assert!(code == 0 && out.contains("plimsoll"), "{shell}");
    }
}

/// Returns an address that is not listening.
fn unused_address() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn status_has_an_exit_code_for_each_health() {
    let unreachable = unused_address().to_string();
    let (code, _, err) = run_to_end(&["status", "--admin", &unreachable]);
    assert!(
        code == 4
            && err.contains("cannot reach the admin API at")
            && err.contains("(connection refused). Is plimsoll running?")
            && err.contains(&unreachable),
        "{err}"
    );
    assert_eq!(run_to_end(&["reload", "--admin", &unreachable]).0, 4);

    let (a, b) = (Destination::start("a"), unused_address());
    for (destinations, health, want) in [
        (vec![a.address], "healthy", 0),
        (vec![a.address, b], "degraded", 3),
        (vec![b, unused_address()], "down", 4),
    ] {
        let directory = Directory::with(&config(&destinations, ""));
        let running = Running::start(&directory.config());
        running.poll_admin_until("/v1/server", |server| server["health"] == health);
        let (code, out, err) = run_to_end(&["status", "--admin", &running.admin]);
        assert_eq!(code, want, "{out}{err}");
        assert!(out.contains(health) && out.contains(&destinations[0].to_string()), "{out}");
        let json =
            plimsoll().args(["status", "-o", "json"]).env("PLIMSOLL_ADMIN", &running.admin).output().unwrap();
        let (code, out, _) = output_of(&json);
        let document: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &document["health"]), (want, &health.into()));
        assert_eq!(document["pools"][0]["destinations"].as_array().unwrap().len(), destinations.len());
    }
}

#[test]
fn another_server_at_the_admin_address_is_reported() {
    let other = Destination::start("not JSON");
    let (code, _, err) = run_to_end(&["status", "--admin", &other.address.to_string()]);
    assert!(code == 4 && err.contains("is not the admin API of plimsoll"), "{err}");
}

#[test]
fn explain_reports_the_destination_and_why_others_are_set_aside() {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address, unused_address()], ""));
    let running = Running::start(&directory.config());
    running.poll_admin_until("/v1/server", |server| server["health"] == "degraded");
    let url = format!("http://{}/path", running.address);
    let (code, out, err) =
        run_to_end(&["explain", "GET", &url, "-H", "x-tier: gold", "--admin", &running.admin]);
    assert_eq!(code, 0, "{err}");
    for text in ["default of listener web, pool default", "1 of 2 destinations are candidates", "selected"] {
        assert!(out.contains(text), "{text}: {out}");
    }
    assert!(out.contains("set aside: down: ") && out.contains("cannot connect"), "{out}");
    let (code, out, _) = run_to_end(&["explain", "GET", &url, "-o", "json", "--admin", &running.admin]);
    let text: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &text["winner"], &text["decidedBy"]),
        (0, &a.address.to_string().into(), &"only_candidate".into())
    );
    let (code, _, err) = run_to_end(&["explain", "GET", "http://127.0.0.1:1/", "--admin", &running.admin]);
    assert!(code == 2 && err.contains("no HTTP listener has port 1"), "{code} {err}");
    let unreachable = unused_address().to_string();
    assert_eq!(run_to_end(&["explain", "GET", &url, "--admin", &unreachable]).0, 4);
}
