//! NTLM and Negotiate: an authenticated connection to a destination belongs to one client.

use http::Request;

use crate::kit::http2::{Http2Client, get as h2_get};
use crate::kit::{Client, Connection, Destination, Setup, get, wait_until};

/// Asks for NTLM, sends a challenge, and then holds the connection to be authenticated.
fn serve_ntlm(conn: &mut Connection) {
    let (mut authenticated, mut challenges) = (false, 0);
    while let Some(request) = conn.request() {
        let credentials = request.fields.one("authorization").map(str::to_owned);
        let (status, challenge) = match credentials.as_deref() {
            Some(last) if last.ends_with(" 3") && challenges > 0 => {
                authenticated = true;
                ("200 OK", "")
            }
            _ if authenticated => ("200 OK", ""),
            Some(_) => {
                challenges += 1;
                ("401 Unauthorized", "WWW-Authenticate: NTLM TlRMTVNTUAAC\r\n")
            }
            None => ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: ntlm\r\n"),
        };
        conn.send(format!("HTTP/1.1 {status}\r\n{challenge}Content-Length: 2\r\n\r\nok"));
    }
}

fn fetch(client: &mut Client, authorization: &str) -> u16 {
    let line =
        if authorization.is_empty() { String::new() } else { format!("Authorization: {authorization}\r\n") };
    client.send(format!("GET /mail HTTP/1.1\r\nHost: test\r\n{line}\r\n"));
    client.read_response().status
}

#[test]
fn an_authenticated_connection_serves_its_own_client_only() {
    for scheme in ["NTLM", "negotiate"] {
        let destinations = [Destination::start(serve_ntlm), Destination::start(serve_ntlm)];
        let balancer = Setup::http(&[&destinations[0], &destinations[1]]).start();
        let mut victim = balancer.connect();
        assert_eq!(fetch(&mut victim, ""), 401);
        assert_eq!(fetch(&mut victim, &format!("{scheme} 1")), 401);
        assert_eq!(fetch(&mut victim, &format!("{scheme} 3")), 200, "the handshake stays on its connection");
        for _ in 0..4 {
            assert_eq!(fetch(&mut victim, ""), 200, "so does everything after it");
            let mut other = balancer.connect();
            assert_eq!([fetch(&mut other, ""), fetch(&mut other, "")], [401, 401]);
        }
        drop(victim);
        wait_until("the connections end with their clients", || {
            destinations.iter().all(|destination| destination.open() == 0)
        });
    }
}

#[test]
fn connections_without_such_credentials_are_shared() {
    let destination = Destination::start(crate::kit::respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    for scheme in ["", "Basic TlRMTQ==", "Bearer negotiate"] {
        assert_eq!(fetch(&mut balancer.connect(), scheme), 200);
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn a_client_of_http_2_is_told_to_use_http_1() {
    let destination = Destination::start(serve_ntlm);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let refused = client.fetch(h2_get("/"), b"").expect_err("a challenge cannot be met over HTTP/2");
    assert_eq!(refused.reason(), Some(h2::Reason::HTTP_1_1_REQUIRED));
    let request =
        Request::get("http://test/").header("authorization", "Negotiate YII").body(()).expect("valid");
    let refused = client.fetch(request, b"").expect_err("neither can credentials be sent");
    assert_eq!(refused.reason(), Some(h2::Reason::HTTP_1_1_REQUIRED));
    assert_eq!(destination.requests().len(), 1);
    // The connection that was asked for is closed: no other client gets it.
    assert_eq!(balancer.fetch(get("/")).status, 401);
    assert_eq!(destination.connections(), 2);
}
