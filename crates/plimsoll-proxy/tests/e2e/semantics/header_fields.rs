//! Which header lines pass, which end at the proxy, and which it writes itself.

use plimsoll_config::model::HeaderEdits;

use crate::kit::{
    Answer, Balancer, Client, Destination, Place, Request, Setup, answers, edits, get, hello, ok,
};

/// Header lines of one message through a proxy, as `name: value`, without those of `ours`.
fn lines(fields: &[(String, String)], ours: &[&str]) -> Vec<String> {
    let foreign = |name: &str| !ours.iter().any(|o| o.eq_ignore_ascii_case(name));
    fields.iter().filter(|(n, _)| foreign(n)).map(|(n, v)| format!("{n}: {v}")).collect()
}

const OURS: [&str; 4] = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];

/// The request with these lines, as the destination gets it.
fn forwarded(setup: impl Fn(Setup) -> Setup, request: &str) -> Request {
    let destination = Destination::start(hello("ok"));
    let balancer = setup(Setup::http(&[&destination])).start();
    assert_eq!(balancer.ask(request).status, 200, "{request:?}");
    destination.only_request()
}

fn with_lines(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n\r\n")
}

/// The answer with these lines, as the client gets it.
fn answered(setup: impl Fn(Setup) -> Setup, lines: &str) -> Answer {
    let destination =
        Destination::start(answers(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok")));
    let balancer: Balancer = setup(Setup::http(&[&destination])).start();
    balancer.ask(with_lines("X: y"))
}

fn plain(setup: Setup) -> Setup {
    setup
}

fn trusting(setup: Setup) -> Setup {
    setup.with(|s| s.listeners[0].trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")])
}

#[test]
fn end_to_end_lines_pass_as_they_came() {
    let request = forwarded(
        plain,
        &with_lines(
            "X-One: 1\r\nx-TWO:   2\r\nCookie: a=b\r\nCookie: c=d\r\nX-One: again\r\nX-Empty:\r\nAuthorization: x",
        ),
    );
    let expected = [
        "X-One: 1",
        "x-TWO: 2",
        "Cookie: a=b",
        "Cookie: c=d",
        "X-One: again",
        "X-Empty: ",
        "Authorization: x",
    ];
    assert_eq!(lines(&request.fields.0, &OURS), expected);
    let answer = answered(plain, "Set-Cookie: a\r\nSet-Cookie: b\r\nServer:  x y \r\nDate: now\r\n");
    assert_eq!(
        lines(&answer.fields.0, &["content-length"]),
        ["Set-Cookie: a", "Set-Cookie: b", "Server: x y", "Date: now"]
    );
}

#[test]
fn hop_by_hop_lines_end_here() {
    let hop = "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
               Upgrade: websocket\r\nHTTP2-Settings: AAMAAABk\r\nProxy-Authorization: Basic eDp5\r\n\
               Proxy-Authenticate: Basic";
    let request = forwarded(plain, &with_lines(&format!("{hop}\r\nX-Kept: y")));
    assert_eq!(lines(&request.fields.0, &OURS), ["X-Kept: y"]);
    let answer = answered(plain, &format!("{hop}\r\nX-Kept: y\r\n"));
    assert_eq!(lines(&answer.fields.0, &["content-length"]), ["X-Kept: y"]);
}

#[test]
fn nominated_lines_end_here_but_never_ours() {
    let request = forwarded(
        plain,
        &with_lines(
            "Connection: X-Secret, x-other ,,close\r\nX-Secret: a\r\nConnection: X-Third\r\nX-Other: b\r\nX-THIRD: c\r\nX-Kept: y",
        ),
    );
    assert_eq!(lines(&request.fields.0, &OURS), ["X-Kept: y"]);
    let nominated = "Connection: Host, Content-Length, Transfer-Encoding, X-Forwarded-For, X-Forwarded-Proto, \
                     X-Forwarded-Host, Connection";
    for setup in [plain, trusting] {
        let request = forwarded(
            setup,
            &format!(
                "POST / HTTP/1.1\r\nHost: test\r\n{nominated}\r\nContent-Length: 2\r\nX-Forwarded-Proto: https\r\n\r\nhi"
            ),
        );
        assert_eq!(request.body, b"hi");
        for name in OURS {
            assert_eq!(request.fields.all(name).len(), 1, "{name} in {:?}", request.fields);
        }
    }
    let answer = answered(plain, "Connection: X-Secret, Content-Length\r\nX-Secret: a\r\nX-Kept: y\r\n");
    assert_eq!((answer.text().as_str(), answer.fields.all("x-secret").len()), ("ok", 0));
}

#[test]
fn more_nominations_than_anybody_needs_are_refused() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let many = vec!["x"; 1000].join(",");
    assert_eq!(balancer.ask(with_lines(&format!("Connection: {many}"))).status, 400);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn strangers_cannot_say_whom_they_forward_for() {
    let request = forwarded(
        plain,
        &with_lines(
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
             X-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\nx-forwarded-for: 7.7.7.7",
        ),
    );
    assert_eq!(request.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.fields.one("x-forwarded-proto"), Some("http"));
    assert_eq!(request.fields.one("x-forwarded-host"), Some("test"));
    assert!(!request.fields.has("forwarded") && !request.fields.has("x-forwarded-port"));
}

#[test]
fn trusted_proxies_are_believed_and_continued() {
    let bare = forwarded(trusting, &with_lines("X: y"));
    assert_eq!(bare.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(bare.fields.one("x-forwarded-proto"), Some("http"));
    let request = forwarded(
        trusting,
        &with_lines(
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outside\r\n\
             X-Forwarded-Port: 443\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-For: 7.7.7.7, 8.8.8.8\r\n\
             X-Forwarded-Proto: twice",
        ),
    );
    let hops = request.fields.all("x-forwarded-for").join(", ");
    assert_eq!(hops, "6.6.6.6, 7.7.7.7, 8.8.8.8, 127.0.0.1");
    assert_eq!(request.fields.one("x-forwarded-proto"), Some("https"));
    assert_eq!(request.fields.one("x-forwarded-host"), Some("outside"));
    assert_eq!(request.fields.one("x-forwarded-port"), Some("443"));
    assert_eq!(request.fields.one("forwarded"), Some("for=6.6.6.6"));
}

#[test]
fn forwarded_host_is_the_host_that_was_meant() {
    let request = forwarded(plain, "GET http://meant:81/ HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(request.fields.one("host"), Some("meant:81"));
    assert_eq!(request.fields.one("x-forwarded-host"), Some("meant:81"));
}

fn with_edits(listener: HeaderEdits) -> impl Fn(Setup) -> Setup {
    move |setup| {
        setup.with(|s| {
            s.listeners[0].request_headers = listener.clone();
            s.listeners[0].response_headers = listener.clone();
        })
    }
}

#[test]
fn edits_set_add_and_remove_in_both_directions() {
    let change = with_edits(edits(&[("x-set", "new"), ("x-fresh", "1")], &[("x-add", "2")], &["x-gone"]));
    let arriving = "X-Set: a\r\nX-Keep: k\r\nx-set: b\r\nX-Add: 1\r\nX-Gone: a\r\nx-gone: b";
    let expected = ["X-Keep: k", "X-Add: 1", "x-set: new", "x-fresh: 1", "x-add: 2"];
    let request = forwarded(&change, &with_lines(arriving));
    assert_eq!(lines(&request.fields.0, &OURS), expected);
    let answer = answered(&change, &format!("{arriving}\r\n"));
    assert_eq!(lines(&answer.fields.0, &["content-length"]), expected);
}

#[test]
fn what_is_removed_is_not_in_the_trailers_either() {
    let change = with_edits(edits(&[("x-set", "new")], &[], &["x-gone"]));
    let body = "0\r\nX-Set: a\r\nx-gone: b\r\nX-Sum: 1\r\n\r\n";
    let request = forwarded(
        &change,
        &format!("PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
    );
    assert_eq!(lines(&request.trailers.0, &[]), ["X-Sum: 1"]);
    let destination =
        Destination::start(answers(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")));
    let answer = change(Setup::http(&[&destination])).start().ask(get("/"));
    assert_eq!(lines(&answer.trailers.0, &[]), ["X-Sum: 1"]);
}

#[test]
fn edits_of_forwarded_lines_leave_nothing_of_what_came() {
    let set =
        edits(&[("x-forwarded-for", "hidden"), ("x-forwarded-proto", "https")], &[], &["x-forwarded-host"]);
    for trust in [plain, trusting] {
        let change = with_edits(set.clone());
        let request = forwarded(
            |setup| trust(change(setup)),
            &with_lines(
                "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: ftp\r\nX-Forwarded-Host: h",
            ),
        );
        assert_eq!(request.fields.one("x-forwarded-for"), Some("hidden"));
        assert_eq!(request.fields.one("x-forwarded-proto"), Some("https"));
        assert!(!request.fields.has("x-forwarded-host"));
    }
}

#[test]
fn a_set_host_replaces_the_clients() {
    let request = forwarded(with_edits(edits(&[("host", "inside")], &[], &[])), &with_lines("X: y"));
    assert_eq!(request.fields.one("host"), Some("inside"));
    assert_eq!(request.fields.one("x-forwarded-host"), Some("test"));
}

#[test]
fn via_is_written_when_wanted_and_earlier_ones_are_kept() {
    let wanted = |setup: Setup| setup.with(|s| s.listeners[0].via = true);
    let request = forwarded(wanted, &with_lines("Via: 1.0 earlier"));
    assert_eq!(request.fields.all("via"), ["1.0 earlier", "1.1 plimsoll"]);
    let answer = answered(wanted, "Via: 1.1 inner\r\n");
    assert_eq!(answer.fields.all("via"), ["1.1 inner", "1.1 plimsoll"]);
    assert_eq!(forwarded(plain, &with_lines("X: y")).fields.all("via").len(), 0);
}

#[test]
fn bytes_beyond_ascii_pass_in_values() {
    let destination = Destination::start(answers(ok("ok")));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Name: J\xfcrgen\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(destination.only_request().fields.one("x-name"), Some("J\u{fc}rgen"));
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
    let destination = Destination::start(hello("ok"));
    let any: std::net::SocketAddr = "[::]:0".parse().expect("an address");
    let setup = trusting(Setup::http(&[&destination]))
        .with(|s| s.listeners[0].addresses = vec![Place::from(any).as_listener()]);
    // A system without IPv6 has nothing to test here.
    let Ok(balancer) = setup.try_start() else { return };
    let Place::Tcp(bound) = balancer.place() else { unreachable!("TCP") };
    let mut client = Client::connect(std::net::SocketAddr::from(([127, 0, 0, 1], bound.port())));
    client.send(with_lines("X-Forwarded-For: 6.6.6.6"));
    assert_eq!(client.answer().status, 200);
    assert_eq!(destination.only_request().fields.one("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
}
