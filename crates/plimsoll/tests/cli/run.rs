//! `run` and `proxy`: how they start, reload and go on.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::process::{Destination, Folder, Running, config, ends, get, plimsoll};

#[test]
fn an_invalid_configuration_does_not_start_and_says_everything() {
    let folder = Folder::with("listen: \":0\"\ndestinations: [\"127.0.0.1\"]\nworkers: none\n");
    let (code, _, err) = ends(&["run", "-c", folder.config().to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("config.yaml:2:16") && err.contains("config.yaml:3:10"), "{err}");
    assert!(err.contains("nothing was started"), "{err}");
}

#[test]
fn requests_pass_and_both_kinds_of_probes_answer() {
    let (a, b) = (Destination::start("a"), Destination::start("b"));
    let folder = Folder::with(&config(&[a.address, b.address], ""));
    let running = Running::start(&folder.config());
    let mut bodies: Vec<String> = (0..8).map(|_| get(running.listens, "/").body).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies, ["a", "b"]);
    assert_eq!(running.admin("/healthz").status, 200);
    assert_eq!(running.admin("/readyz").status, 200);
    assert!(running.admin("/metrics").body.contains("plimsoll_requests_total{listener=\"web\""));
}

#[test]
fn hup_reloads_what_is_valid_and_refuses_what_is_not() {
    let (a, b) = (Destination::start("a"), Destination::start("b"));
    let folder = Folder::with(&config(&[a.address], ""));
    let mut running = Running::start(&folder.config());
    assert_eq!(get(running.listens, "/").body, "a");

    folder.write(&config(&[b.address], ""));
    running.signal(Signal::HUP);
    running.until("reloaded");
    assert_eq!(get(running.listens, "/").body, "b");

    folder.write(&config(&[a.address], "laod_balancer: {}"));
    running.signal(Signal::HUP);
    let refused = running.until("reload_refused");
    assert!(refused["message"].as_str().unwrap().contains("laod_balancer"), "{refused}");
    assert_eq!(get(running.listens, "/").body, "b");
    let metrics = running.admin("/metrics").body;
    assert!(metrics.contains("plimsoll_config_last_reload_successful 0"), "{metrics}");

    let (code, _, err) = ends(&["reload", "--admin", &running.admin]);
    assert!(code == 1 && err.contains("laod_balancer") && err.contains("old configuration goes on"), "{err}");
    folder.write(&config(&[a.address], ""));
    let (code, out, _) = ends(&["reload", "--admin", &running.admin]);
    assert!(code == 0 && out.starts_with("applied: "), "{out}");
    assert_eq!(get(running.listens, "/").body, "a");
}

#[test]
fn a_reload_that_cannot_be_put_to_work_changes_nothing() {
    let a = Destination::start("a");
    let folder = Folder::with(&config(&[a.address], ""));
    let running = Running::start(&folder.config());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let second = format!("127.0.0.1:0\", pool: default}}, {{name: second, address: \"{address}");
    folder.write(&config(&[a.address], "").replacen("127.0.0.1:0", &second, 1));
    let (code, _, err) = ends(&["reload", "--admin", &running.admin]);
    assert!(code == 1 && err.contains(&address.to_string()) && err.contains("second"), "{code} {err}");
    assert_eq!(get(running.listens, "/").body, "a");
}

#[test]
fn a_busy_listener_does_not_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let a = Destination::start("a");
    let folder = Folder::with(&config(&[a.address], "").replacen("127.0.0.1:0", &address, 1));
    let (code, _, err) = ends(&["run", "-c", folder.config().to_str().unwrap()]);
    assert!(code == 1 && err.contains(&address) && err.contains("web"), "{code} {err}");
}

#[test]
fn a_busy_admin_address_matters_only_if_it_was_configured() {
    let a = Destination::start("a");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let without = config(&[a.address], "").replace("admin: {address: \"127.0.0.1:0\"}\n", "");
    let folder = Folder::with(&format!("{without}admin: {{address: \"{address}\"}}\n"));
    let (code, _, err) = ends(&["run", "-c", folder.config().to_str().unwrap()]);
    assert!(code == 1 && err.contains(&format!("admin: cannot listen on {address}")), "{code} {err}");

    // Taken by this test, or by somebody else already.
    let _usual = TcpListener::bind("127.0.0.1:9900");
    folder.write(&without);
    let running = Running::start(&folder.config());
    assert_eq!(running.admin, "off");
    assert_eq!(get(running.listens, "/").body, "a");

    folder.write(&format!("{without}admin: false\n"));
    assert_eq!(Running::start(&folder.config()).admin, "off");
}

#[test]
fn proxy_serves_without_a_file() {
    let (a, b) = (Destination::start("a"), Destination::start("b"));
    let to = format!("{},{}", a.address, b.address);
    for protocol in ["http", "tcp"] {
        let flags = ["proxy", "--from", "127.0.0.1:0", "--to", &to, "--protocol", protocol];
        let mut running = Running::start_with(plimsoll().args(flags).args(["--algorithm", "round_robin"]));
        assert!(["a", "b"].contains(&&*get(running.listens, "/").body));
        running.signal(Signal::INT);
        running.until("stopped");
        assert_eq!(running.exit_code(), 0);
    }
}

#[test]
fn why_a_destination_is_not_believed_stands_in_the_log() {
    let inside = Destination::start("inside");
    let certs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/certs");
    let secured = Folder::with(&format!(
        "listeners:\n  - {{name: tls, address: \"127.0.0.1:0\", protocol: https, pool: p, \
         tls: {{certificates: [{{cert: {certs}/example.pem, key: {certs}/example.key}}]}}}}\n\
         pools: {{p: {{destinations: [\"{}\"]}}}}\nadmin: false\n",
        inside.address
    ));
    let secured = Running::start(&secured.config());
    let asks = Folder::with(&format!(
        "listeners: [{{name: web, address: \"127.0.0.1:0\", pool: p}}]\n\
         pools: {{p: {{tls: {{ca: {certs}/example.pem, server_name: not.this.one}}, destinations: [\"{}\"]}}}}\n\
         admin: false\n",
        secured.listens
    ));
    let mut command = plimsoll();
    command.args(["run", "-c"]).arg(asks.config()).env("PLIMSOLL_LOG", "debug");
    let mut running = Running::start_with(&mut command);
    assert_eq!(get(running.listens, "/").status, 503);
    let line = running.until("no_handshake");
    assert_eq!((&line["level"], &line["pool"]), (&"DEBUG".into(), &"p".into()));
    assert_eq!(line["destination"], secured.listens.to_string());
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn usr1_opens_the_access_log_anew_and_usr2_ends_nothing() {
    let a = Destination::start("a");
    let folder = Folder::with(&config(&[a.address], "access_log: {path: access.log}"));
    let mut running = Running::start(&folder.config());
    let (old, new) = (folder.path("access.log"), folder.path("access.log"));
    get(running.listens, "/one");
    let moved = folder.path("access.log.1");
    std::fs::rename(old, &moved).unwrap();
    running.signal(Signal::USR1);
    running.until("logs_reopened");
    // Lines that were on their way may still reach the old file.
    let mut asked = 0;
    while !std::fs::read_to_string(&new).is_ok_and(|text| text.contains("/later")) {
        asked += 1;
        assert!(asked < 1000, "the new file never got a line");
        get(running.listens, "/later");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(std::fs::read_to_string(&moved).unwrap().contains("/one"));
    running.signal(Signal::USR2);
    running.until("no_upgrade");
    assert_eq!(get(running.listens, "/").body, "a");
}
