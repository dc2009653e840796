//! Header fields: forwarded, removed and added ones.

use plimsoll_config::model::HeaderEdits;
use plimsoll_core::route::Match;

use crate::kit::http2::Http2Client;
use crate::kit::{
    Balancer, Client, Destination, Endpoint, Request, Response, Setup, edits, get, ok, respond_ok,
    respond_with, route,
};

/// Returns the fields as `name: value`, without those in `proxy_fields`.
fn lines(fields: &[(String, String)], proxy_fields: &[&str]) -> Vec<String> {
    let is_end_to_end = |name: &str| !proxy_fields.iter().any(|o| o.eq_ignore_ascii_case(name));
    fields.iter().filter(|(n, _)| is_end_to_end(n)).map(|(n, v)| format!("{n}: {v}")).collect()
}

const PROXY_FIELDS: [&str; 4] = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];

/// Sends the request through a proxy; returns it as the destination received it.
fn forward_request(setup: impl Fn(Setup) -> Setup, request: &str) -> Request {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = setup(Setup::http(&[&destination])).start();
    assert_eq!(balancer.fetch(request).status, 200, "{request:?}");
    destination.only_request()
}

fn with_lines(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n\r\n")
}

/// Sends a response with these lines through a proxy; returns it as the client received it.
fn forward_response(setup: impl Fn(Setup) -> Setup, lines: &str) -> Response {
    let destination =
        Destination::start(respond_with(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok")));
    let balancer: Balancer = setup(Setup::http(&[&destination])).start();
    balancer.fetch(with_lines("X: y"))
}

fn unchanged(setup: Setup) -> Setup {
    setup
}

fn trust_localhost(setup: Setup) -> Setup {
    setup.with(|s| s.listeners[0].trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")])
}

#[test]
fn end_to_end_fields_are_forwarded_unchanged() {
    let request = forward_request(
        unchanged,
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
    assert_eq!(lines(&request.fields.0, &PROXY_FIELDS), expected);
    let response =
        forward_response(unchanged, "Set-Cookie: a\r\nSet-Cookie: b\r\nServer:  x y \r\nDate: now\r\n");
    assert_eq!(
        lines(&response.fields.0, &["content-length"]),
        ["Set-Cookie: a", "Set-Cookie: b", "Server: x y", "Date: now"]
    );
}

#[test]
fn hop_by_hop_fields_are_removed() {
    let hop = "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
               Upgrade: websocket\r\nHTTP2-Settings: AAMAAABk\r\nProxy-Authorization: Basic eDp5\r\n\
               Proxy-Authenticate: Basic";
    let request = forward_request(unchanged, &with_lines(&format!("{hop}\r\nX-Kept: y")));
    assert_eq!(lines(&request.fields.0, &PROXY_FIELDS), ["X-Kept: y"]);
    let response = forward_response(unchanged, &format!("{hop}\r\nX-Kept: y\r\n"));
    assert_eq!(lines(&response.fields.0, &["content-length"]), ["X-Kept: y"]);
}

#[test]
fn fields_nominated_by_connection_are_removed_except_required_ones() {
    let request = forward_request(
        unchanged,
        &with_lines(
            "Connection: X-Secret, x-other ,,close\r\nX-Secret: a\r\nConnection: X-Third\r\nX-Other: b\r\nX-THIRD: c\r\nX-Kept: y",
        ),
    );
    assert_eq!(lines(&request.fields.0, &PROXY_FIELDS), ["X-Kept: y"]);
    let nominated = "Connection: Host, Content-Length, Transfer-Encoding, X-Forwarded-For, X-Forwarded-Proto, \
                     X-Forwarded-Host, Connection";
    for setup in [unchanged, trust_localhost] {
        let request = forward_request(
            setup,
            &format!(
                "POST / HTTP/1.1\r\nHost: test\r\n{nominated}\r\nContent-Length: 2\r\nX-Forwarded-Proto: https\r\n\r\nhi"
            ),
        );
        assert_eq!(request.body, b"hi");
        for name in PROXY_FIELDS {
            assert_eq!(request.fields.all(name).len(), 1, "{name} in {:?}", request.fields);
        }
    }
    let response =
        forward_response(unchanged, "Connection: X-Secret, Content-Length\r\nX-Secret: a\r\nX-Kept: y\r\n");
    assert_eq!((response.text().as_str(), response.fields.all("x-secret").len()), ("ok", 0));
}

#[test]
fn excessive_connection_options_are_refused() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let many = vec!["x"; 1000].join(",");
    assert_eq!(balancer.fetch(with_lines(&format!("Connection: {many}"))).status, 400);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn forwarded_fields_of_untrusted_clients_are_replaced() {
    let request = forward_request(
        unchanged,
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
fn forwarded_fields_of_trusted_proxies_are_extended() {
    let bare = forward_request(trust_localhost, &with_lines("X: y"));
    assert_eq!(bare.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(bare.fields.one("x-forwarded-proto"), Some("http"));
    let request = forward_request(
        trust_localhost,
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
fn forwarded_host_is_the_host_of_the_target() {
    let request = forward_request(unchanged, "GET http://meant:81/ HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(request.fields.one("host"), Some("meant:81"));
    assert_eq!(request.fields.one("x-forwarded-host"), Some("meant:81"));
}

const ALIASES: &str = "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Proto: https\r\nx.forwarded.host: evil\r\n\
                       X-Forwarded_Port: 1\r\nClient_Cert: :forged:\r\nx_lb_mark: forged\r\nX.Gone: a\r\n\
                       X_Tenant: b\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Other: kept";

/// Sets and removes a header, and routes by another one.
fn with_mark_and_tenant(setup: Setup) -> Setup {
    setup.with(|s| {
        s.listeners[0].request_headers = edits(&[("x-lb-mark", "ours")], &[], &["x-gone"]);
        let tenant = Match { headers: vec![("x-tenant".into(), "a".into())], ..Match::default() };
        s.listeners[0].routes.push(route("tenant", 0, tenant));
    })
}

#[test]
fn aliases_of_known_names_are_dropped_from_heads_and_trailers() {
    for trust in [unchanged, trust_localhost] {
        let setup = |setup| trust(with_mark_and_tenant(setup));
        let body = format!("Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{ALIASES}\r\nX-Tenant: b\r\n");
        let text = format!("POST / HTTP/1.1\r\nHost: test\r\nX-Tenant: a\r\n{ALIASES}\r\n{body}\r\n");
        let request = forward_request(setup, &text);
        let own = [&PROXY_FIELDS[..], &["transfer-encoding"]].concat();
        assert_eq!(lines(&request.fields.0, &own), ["X-Tenant: a", "X_Other: kept", "x-lb-mark: ours"]);
        assert_eq!(lines(&request.trailers.0, &[]), ["X_Other: kept"]);
    }
}

#[test]
fn aliases_of_known_names_are_dropped_over_http_2() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = with_mark_and_tenant(Setup::http(&[&destination])).start();
    let mut client = Http2Client::connect(&balancer);
    let mut request = http::Request::get("http://test/").header("x-tenant", "a");
    for line in ALIASES.split("\r\n") {
        let (name, value) = line.split_once(": ").expect("a line");
        request = request.header(name.to_ascii_lowercase(), value);
    }
    let response = client.fetch(request.body(()).expect("valid"), b"").expect("a response");
    assert_eq!(response.status(), 200);
    let seen = lines(&destination.only_request().fields.0, &PROXY_FIELDS);
    assert_eq!(seen, ["x-tenant: a", "x_other: kept", "x-lb-mark: ours"]);
}

#[test]
fn routes_match_what_is_forwarded() {
    let destinations = ["own", "matched"].map(|name| Destination::start(respond_ok(name)));
    let rows = [
        ("x-forwarded-proto", "https", "X-Forwarded-Proto: https", "own", "matched"),
        ("x-forwarded-proto", "http", "X-Forwarded-Proto: https", "matched", "own"),
        ("x-forwarded-for", "127.0.0.1", "X-Forwarded-For: 6.6.6.6", "matched", "own"),
        ("x-forwarded-host", "test", "X-Forwarded-Host: evil", "matched", "own"),
        ("forwarded", "for=6.6.6.6", "Forwarded: for=6.6.6.6", "own", "matched"),
        ("client-cert", ":x:", "Client-Cert: :x:", "own", "matched"),
        ("x-canary", "1", "Connection: x-canary\r\nX-Canary: 1", "own", "own"),
        ("x-canary", "1", "X_Canary: 1", "own", "own"),
        ("x-canary", "1", "X-Canary: 1", "matched", "matched"),
    ];
    for (name, value, lines, untrusted, trusted) in rows {
        for (trust, expected) in [(unchanged as fn(Setup) -> Setup, untrusted), (trust_localhost, trusted)] {
            let setup = Setup::http(&[&destinations[0]]).and_pool("other", &[&destinations[1]]).with(|s| {
                let matches = Match { headers: vec![(name.into(), value.into())], ..Match::default() };
                s.listeners[0].routes.push(route("matched", 1, matches));
            });
            let response = trust(setup).start().fetch(with_lines(lines));
            assert_eq!(response.text(), expected, "{name} of {lines:?}");
        }
    }
}

#[test]
fn trailers_that_change_a_message_are_dropped() {
    let body =
        "0\r\nCookie: a\r\nAuthorization: b\r\nHost: c\r\nX-Forwarded-For: d\r\nRange: e\r\nX-Sum: 1\r\n\r\n";
    let request = forward_request(
        unchanged,
        &format!("PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
    );
    assert_eq!(lines(&request.trailers.0, &[]), ["X-Sum: 1"]);
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
fn header_edits_apply_in_both_directions() {
    let change = with_edits(edits(&[("x-set", "new"), ("x-fresh", "1")], &[("x-add", "2")], &["x-gone"]));
    let arriving = "X-Set: a\r\nX-Keep: k\r\nx-set: b\r\nX-Add: 1\r\nX-Gone: a\r\nx-gone: b";
    let expected = ["X-Keep: k", "X-Add: 1", "x-set: new", "x-fresh: 1", "x-add: 2"];
    let request = forward_request(&change, &with_lines(arriving));
    assert_eq!(lines(&request.fields.0, &PROXY_FIELDS), expected);
    let response = forward_response(&change, &format!("{arriving}\r\n"));
    assert_eq!(lines(&response.fields.0, &["content-length"]), expected);
}

#[test]
fn header_edits_remove_fields_from_trailers() {
    let change = with_edits(edits(&[("x-set", "new")], &[], &["x-gone"]));
    let body = "0\r\nX-Set: a\r\nx-gone: b\r\nX-Sum: 1\r\n\r\n";
    let request = forward_request(
        &change,
        &format!("PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
    );
    assert_eq!(lines(&request.trailers.0, &[]), ["X-Sum: 1"]);
    let destination = Destination::start(respond_with(format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
    )));
    let response = change(Setup::http(&[&destination])).start().fetch(get("/"));
    assert_eq!(lines(&response.trailers.0, &[]), ["X-Sum: 1"]);
}

#[test]
fn header_edits_replace_forwarded_fields() {
    let set =
        edits(&[("x-forwarded-for", "hidden"), ("x-forwarded-proto", "https")], &[], &["x-forwarded-host"]);
    for trust in [unchanged, trust_localhost] {
        let change = with_edits(set.clone());
        let request = forward_request(
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
fn header_edit_of_host_replaces_the_client_s_host() {
    let request = forward_request(with_edits(edits(&[("host", "inside")], &[], &[])), &with_lines("X: y"));
    assert_eq!(request.fields.one("host"), Some("inside"));
    assert_eq!(request.fields.one("x-forwarded-host"), Some("test"));
}

#[test]
fn via_is_appended_if_configured() {
    let wanted = |setup: Setup| setup.with(|s| s.listeners[0].via = true);
    let request = forward_request(wanted, &with_lines("Via: 1.0 earlier"));
    assert_eq!(request.fields.all("via"), ["1.0 earlier", "1.1 plimsoll"]);
    let response = forward_response(wanted, "Via: 1.1 inner\r\n");
    assert_eq!(response.fields.all("via"), ["1.1 inner", "1.1 plimsoll"]);
    assert_eq!(forward_request(unchanged, &with_lines("X: y")).fields.all("via").len(), 0);
}

#[test]
fn field_values_may_contain_bytes_beyond_ascii() {
    let destination = Destination::start(respond_with(ok("ok")));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Name: J\xfcrgen\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    assert_eq!(destination.only_request().fields.one("x-name"), Some("J\u{fc}rgen"));
}

#[test]
fn ipv4_client_of_an_ipv6_listener_is_reported_as_ipv4() {
    let destination = Destination::start(respond_ok("ok"));
    let any: std::net::SocketAddr = "[::]:0".parse().expect("an address");
    let setup = trust_localhost(Setup::http(&[&destination]))
        .with(|s| s.listeners[0].addresses = vec![Endpoint::from(any).as_listener()]);
    // Nothing to test on a system without IPv6.
    let Ok(balancer) = setup.try_start() else { return };
    let Endpoint::Tcp(bound) = balancer.endpoint() else { unreachable!("TCP") };
    let mut client = Client::connect(std::net::SocketAddr::from(([127, 0, 0, 1], bound.port())));
    client.send(with_lines("X-Forwarded-For: 6.6.6.6"));
    assert_eq!(client.read_response().status, 200);
    assert_eq!(destination.only_request().fields.one("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
}
