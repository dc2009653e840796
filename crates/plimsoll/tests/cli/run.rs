//! `run` and `proxy`: start, reload and operation.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::process::{Destination, Directory, Running, config, get, plimsoll, run_to_end};

#[test]
fn invalid_configuration_does_not_start_and_all_problems_are_reported() {
    let directory = Directory::with("listen: \":0\"\ndestinations: [\"127.0.0.1\"]\nworkers: none\n");
    let (code, _, err) = run_to_end(&["run", "-c", directory.config().to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("config.yaml:2:16") && err.contains("config.yaml:3:10"), "{err}");
    assert!(err.contains("nothing was started"), "{err}");
}

#[test]
fn requests_are_forwarded_and_the_admin_api_responds() {
    let (a, b) = (Destination::start("a"), Destination::start("b"));
    let directory = Directory::with(&config(&[a.address, b.address], ""));
    let running = Running::start(&directory.config());
    let mut bodies: Vec<String> = (0..8).map(|_| get(running.address, "/").body).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies, ["a", "b"]);
    assert_eq!(running.admin("/healthz").status, 200);
    assert_eq!(running.admin("/readyz").status, 200);
    assert!(running.admin("/metrics").body.contains("plimsoll_requests_total{listener=\"web\""));
}

#[test]
fn hup_applies_valid_and_rejects_invalid_configurations() {
    let (a, b) = (Destination::start("a"), Destination::start("b"));
    let directory = Directory::with(&config(&[a.address], ""));
    let mut running = Running::start(&directory.config());
    assert_eq!(get(running.address, "/").body, "a");

    directory.write(&config(&[b.address], ""));
    running.signal(Signal::HUP);
    running.wait_for_log("reloaded");
    assert_eq!(get(running.address, "/").body, "b");

    directory.write(&config(&[a.address], "laod_balancer: {}"));
    running.signal(Signal::HUP);
    let refused = running.wait_for_log("reload_rejected");
    assert!(refused["message"].as_str().unwrap().contains("laod_balancer"), "{refused}");
    assert_eq!(get(running.address, "/").body, "b");
    let metrics = running.admin("/metrics").body;
    assert!(metrics.contains("plimsoll_config_last_reload_successful 0"), "{metrics}");

    let (code, _, err) = run_to_end(&["reload", "--admin", &running.admin]);
    assert!(
        code == 1 && err.contains("laod_balancer") && err.contains("running configuration is unchanged"),
        "{err}"
    );
    directory.write(&config(&[a.address], ""));
    let (code, out, _) = run_to_end(&["reload", "--admin", &running.admin]);
    assert!(code == 0 && out.starts_with("applied: "), "{out}");
    assert_eq!(get(running.address, "/").body, "a");
}

#[test]
fn reload_that_cannot_be_applied_changes_nothing() {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], ""));
    let running = Running::start(&directory.config());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let second = format!("127.0.0.1:0\", pool: default}}, {{name: second, address: \"{address}");
    directory.write(&config(&[a.address], "").replacen("127.0.0.1:0", &second, 1));
    let (code, _, err) = run_to_end(&["reload", "--admin", &running.admin]);
    assert!(code == 1 && err.contains(&address.to_string()) && err.contains("second"), "{code} {err}");
    assert_eq!(get(running.address, "/").body, "a");
}

#[test]
fn address_in_use_prevents_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], "").replacen("127.0.0.1:0", &address, 1));
    let (code, _, err) = run_to_end(&["run", "-c", directory.config().to_str().unwrap()]);
    assert!(code == 1 && err.contains(&address) && err.contains("web"), "{code} {err}");
}

#[test]
fn admin_address_in_use_prevents_the_start_only_if_configured() {
    let a = Destination::start("a");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let without = config(&[a.address], "").replace("admin: {address: \"127.0.0.1:0\"}\n", "");
    let directory = Directory::with(&format!("{without}admin: {{address: \"{address}\"}}\n"));
    let (code, _, err) = run_to_end(&["run", "-c", directory.config().to_str().unwrap()]);
    assert!(code == 1 && err.contains(&format!("admin: cannot listen on {address}")), "{code} {err}");

    // In use by this test or by another process.
    let _default = TcpListener::bind("127.0.0.1:9900");
    directory.write(&without);
    let running = Running::start(&directory.config());
    assert_eq!(running.admin, "off");
    assert_eq!(get(running.address, "/").body, "a");

    directory.write(&format!("{without}admin: false\n"));
    assert_eq!(Running::start(&directory.config()).admin, "off");
}

#[test]
fn proxy_serves_without_a_file() {
    let (a, b) = (Destination::start("a"), Destination::start("b"));
    let to = format!("{},{}", a.address, b.address);
    for protocol in ["http", "tcp"] {
        let flags = ["proxy", "--from", "127.0.0.1:0", "--to", &to, "--protocol", protocol];
        let mut running = Running::start_with(plimsoll().args(flags).args(["--algorithm", "round_robin"]));
        assert!(["a", "b"].contains(&&*get(running.address, "/").body));
        running.signal(Signal::INT);
        running.wait_for_log("stopped");
        assert_eq!(running.exit_code(), 0);
    }
}

#[test]
fn certificate_errors_of_a_destination_are_logged() {
    let inside = Destination::start("inside");
    let certs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/certs");
    let secured = Directory::with(&format!(
        "listeners:\n  - {{name: tls, address: \"127.0.0.1:0\", protocol: https, pool: p, \
         tls: {{certificates: [{{cert: {certs}/example.pem, key: {certs}/example.key}}]}}}}\n\
         pools: {{p: {{destinations: [\"{}\"]}}}}\nadmin: false\n",
        inside.address
    ));
    let secured = Running::start(&secured.config());
    let asks = Directory::with(&format!(
        "listeners: [{{name: web, address: \"127.0.0.1:0\", pool: p}}]\n\
         pools: {{p: {{tls: {{ca: {certs}/example.pem, server_name: not.this.one}}, destinations: [\"{}\"]}}}}\n\
         admin: false\n",
        secured.address
    ));
    let mut command = plimsoll();
    command.args(["run", "-c"]).arg(asks.config()).env("PLIMSOLL_LOG", "debug");
    let mut running = Running::start_with(&mut command);
    assert_eq!(get(running.address, "/").status, 503);
    let line = running.wait_for_log("upstream_handshake_failed");
    assert_eq!((&line["level"], &line["pool"]), (&"DEBUG".into(), &"p".into()));
    assert_eq!(line["destination"], secured.address.to_string());
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn usr1_reopens_the_access_log_and_usr2_changes_nothing() {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], "access_log: {path: access.log}"));
    let mut running = Running::start(&directory.config());
    let (old, new) = (directory.path("access.log"), directory.path("access.log"));
    get(running.address, "/one");
    let moved = directory.path("access.log.1");
    std::fs::rename(old, &moved).unwrap();
    running.signal(Signal::USR1);
    running.wait_for_log("logs_reopened");
    // Queued lines may still reach the old file.
    let mut asked = 0;
    while !std::fs::read_to_string(&new).is_ok_and(|text| text.contains("/later")) {
        asked += 1;
        assert!(asked < 1000, "no line in the new file");
        get(running.address, "/later");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(std::fs::read_to_string(&moved).unwrap().contains("/one"));
    running.signal(Signal::USR2);
    running.wait_for_log("no_upgrade");
    assert_eq!(get(running.address, "/").body, "a");
}
