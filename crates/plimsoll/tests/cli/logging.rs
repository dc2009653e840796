//! The program's own log: its filter, and what clients can make it write.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Destination, Directory, Running, TIMEOUT, config, plimsoll};

/// Starts `plimsoll run` with a value of PLIMSOLL_LOG.
fn start(log: &str) -> (Directory, Running) {
    let destination = Destination::start("a");
    let directory = Directory::with(&config(&[destination.address], ""));
    let mut command = plimsoll();
    command.args(["run", "-c"]).arg(directory.config()).env("PLIMSOLL_LOG", log);
    let running = Running::start_with(&mut command);
    (directory, running)
}

/// Opens an HTTP/2 connection.
fn open_http2(running: &Running) -> (TcpStream, String) {
    let mut client = TcpStream::connect(running.address).unwrap();
    let address = client.local_addr().unwrap().to_string();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    (client, address)
}

/// Acknowledgement of a PING that was never sent.
const PING_ACK: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0abcdefgh";

/// Reads until the connection is closed, also by a reset.
fn wait_for_close(client: &mut TcpStream) -> bool {
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    let read = client.read_to_end(&mut Vec::new());
    read.map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true)
}

/// Sends unsolicited PING acknowledgements until the connection is closed, and returns its address.
fn flood_with_ping_acks(running: &Running) -> String {
    let (mut client, address) = open_http2(running);
    let acks = PING_ACK.repeat(500);
    // The bytes that were not read make the close a reset, which ends the write or the read.
    let closed = (0..200).any(|_| client.write_all(&acks).is_err()) || wait_for_close(&mut client);
    assert!(closed, "the connection stays open");
    address
}

fn is_from_info_on(line: &Value) -> bool {
    ["INFO", "WARN", "ERROR"].iter().any(|level| line["level"] == *level)
}

#[test]
fn a_flood_of_frames_makes_few_lines_and_debug_lines_have_the_clients_address() {
    let (_directory, mut running) = start("debug,h2=debug");
    let client = flood_with_ping_acks(&running);
    let closed = running.wait_for_log("http2_closed");
    assert_eq!((&closed["client"], &closed["listener"]), (&client.as_str().into(), &"web".into()));

    let (_directory, mut running) = start("debug");
    for _ in 0..3 {
        flood_with_ping_acks(&running);
    }
    running.signal(Signal::TERM);
    let lines = running.rest_of_log();
    let count = lines.iter().filter(|line| is_from_info_on(line)).count();
    assert!(count < 20, "{count}: {lines:?}");
}

#[test]
fn lines_of_a_library_have_the_clients_address() {
    let (_directory, mut running) = start("debug,h2=warn");
    let (mut client, address) = open_http2(&running);
    client.write_all(&PING_ACK.repeat(3)).unwrap();
    client.write_all(b"\0\0\x08\x06\0\0\0\0\0question").unwrap();
    let mut received = Vec::new();
    while !received.windows(8).any(|bytes| bytes == b"question") {
        let mut piece = [0; 256];
        let n = client.read(&mut piece).unwrap();
        assert!(n > 0, "the connection was closed");
        received.extend_from_slice(&piece[..n]);
    }
    drop(client);
    running.signal(Signal::TERM);
    let lines = running.rest_of_log();
    let line =
        lines.iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains("PING ack")));
    let line = line.unwrap_or_else(|| panic!("no line of h2: {lines:?}"));
    assert_eq!(line["spans"][0]["address"], address);
}

#[test]
fn a_misspelt_level_is_reported_and_does_not_silence_the_log() {
    for log in ["infos", "info,plimsoll_proxy=loud", "plimsoll_proxy"] {
        // `start` waits for the line `ready`, at INFO.
        let (_directory, mut running) = start(log);
        running.signal(Signal::TERM);
        assert_eq!(running.exit_code(), 0, "{log}");
    }
    let output =
        plimsoll().args(["run", "-c", "/nonexistent.yaml"]).env("PLIMSOLL_LOG", "infos").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("PLIMSOLL_LOG: expected error, warn, info, debug, trace or off, found `infos`"),
        "{text}"
    );
}
