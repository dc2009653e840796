//! What lies outside of the process never holds up signals, the admin API or the stop: files that are never
//! delivered, logs without a reader, clients that use up descriptors or connections.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use plimsoll_proxy::Clock;
use rustix::process::Signal;

use crate::process::{Destination, Directory, Running, TIMEOUT, config, get, plimsoll};

/// Creates a pipe without a reader and a writer.
fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_configuration_that_is_never_delivered_does_not_stop_admin_and_signals() {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], ""));
    let mut running = Running::start(&directory.config());
    std::fs::remove_file(directory.config()).unwrap();
    make_pipe(&directory.config());
    running.signal(Signal::HUP);
    for _ in 0..3 {
        assert_eq!(running.admin("/healthz").status, 200);
        assert_eq!(get(running.address, "/").body, "a");
    }
    running.signal(Signal::TERM);
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn a_start_that_waits_for_a_certificate_ends_with_a_signal() {
    let directory = Directory::with(
        "listeners: [{name: web, address: \"127.0.0.1:0\", protocol: https, pool: p, \
         tls: {certificates: [{cert: cert.pem, key: key.pem}]}}]\n\
         pools: {p: {destinations: [\"127.0.0.1:1\"]}}\nadmin: false\n",
    );
    make_pipe(&directory.path("cert.pem"));
    make_pipe(&directory.path("key.pem"));
    let mut child =
        plimsoll().arg("run").arg("-c").arg(directory.config()).stderr(Stdio::piped()).spawn().unwrap();
    // Opening the pipe for writing succeeds once the process reads it.
    let _pipe = OpenOptions::new().write(true).open(directory.path("cert.pem")).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let clock = Clock::start();
    let signalled = clock.now();
    let status = child.wait().unwrap();
    // The signal ends the process by default before it is handled.
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::TERM.as_raw());
    assert!(status.code() == Some(0) || by_signal, "{status}");
    assert!(clock.now().since(signalled) < TIMEOUT);
}

#[test]
fn a_log_pipe_that_nobody_reads_does_not_hold_up_requests_and_the_stop() {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], "access_log: {path: access.log}"));
    make_pipe(&directory.path("access.log"));
    let mut running = Running::start(&directory.config());
    // More lines than the pipe holds (64 KiB).
    let target = format!("/{}", "x".repeat(2000));
    for _ in 0..100 {
        assert_eq!(get(running.address, &target).status, 200);
    }
    running.signal(Signal::TERM);
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn a_standard_output_that_nobody_reads_does_not_hold_up_the_stop() {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], "access_log: true"));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = plimsoll();
    command.arg("run").arg("-c").arg(directory.config());
    let mut running = Running::start_with_output(&mut command, writer.into());
    let target = format!("/{}", "x".repeat(2000));
    for _ in 0..100 {
        assert_eq!(get(running.address, &target).status, 200);
    }
    running.signal(Signal::TERM);
    assert_eq!(running.exit_code(), 0);
    drop(reader);
}

#[test]
fn clients_that_use_up_descriptors_leave_some_to_admin_and_checks() {
    let a = Destination::start("a");
    let checks = "load_balancer: {health_monitoring: {check_interval: 50ms}}";
    let directory = Directory::with(&config(&[a.address], checks));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128 && exec \"$0\" run -c \"$1\""]);
    command.arg(plimsoll().get_program()).arg(directory.config());
    let running = Running::start_with(&mut command);
    let clients: Vec<TcpStream> = (0..300)
        .filter_map(|_| {
            let mut client = TcpStream::connect(running.address).ok()?;
            client.write_all(b"GET / HTTP/1.1\r\n").ok()?;
            Some(client)
        })
        .collect();
    running
        .poll_admin_until("/v1/server", |server| server["listeners"][0]["connections"].as_u64() > Some(60));
    let checks =
        |pools: &serde_json::Value| pools["pools"][0]["destinations"][0]["counts"]["checksPassed"].as_u64();
    let before = checks(&running.poll_admin_until("/v1/pools", |pools| checks(pools).is_some()));
    running.poll_admin_until("/v1/pools", |pools| checks(pools) > before.map(|before| before + 3));
    assert_eq!(running.admin("/healthz").status, 200);
    drop(clients);
}
