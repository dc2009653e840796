//! Which requests are heard: those meant for this machine, and no other site's.
//!
//! The admin plane listens on loopback and asks nobody who they are, so what a browser can be tricked into
//! sending must be refused: a name that resolves to 127.0.0.1 (DNS rebinding) shows in `Host`, a page of
//! another site in `Origin` and `Sec-Fetch-Site`.

use std::net::{IpAddr, Ipv6Addr};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// Bytes of a request body.
const MAX_BODY: usize = 1024 * 1024;
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Hears a request, or says why not.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let mut response = match admit(&request) {
        Ok(()) => pass(request, next).await,
        Err(detail) => Problem::new(StatusCode::FORBIDDEN, detail).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn pass(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match to_bytes(body, MAX_BODY).await {
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(_) => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB").into_response()
        }
    }
}

fn admit(request: &Request) -> Result<(), &'static str> {
    let host = only(request.headers(), &HOST)?.ok_or("a Host header is needed")?;
    let authority = request.uri().authority().map_or(host, |authority| authority.as_str());
    if !is_local(host) || !is_local(authority) {
        return Err(
            "Host must be localhost or a loopback address: the admin plane answers this machine only",
        );
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let same = |origin: &str| origin.strip_prefix("http://").is_some_and(|o| o.eq_ignore_ascii_case(host));
    if only(request.headers(), &ORIGIN)?.is_some_and(|origin| !same(origin)) {
        return Err("requests of other sites are refused (Origin)");
    }
    match only(request.headers(), &SEC_FETCH_SITE)? {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err("requests of other sites are refused (Sec-Fetch-Site)"),
    }
}

/// The value of a header that may stand there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, &'static str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| "a header is not ASCII"),
        (Some(_), Some(_)) => Err("a header stands there twice"),
    }
}

/// `localhost` or a loopback address, with or without a port.
fn is_local(host: &str) -> bool {
    let (name, port) = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, ""),
    };
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let local = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback()),
        None => {
            name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
    };
    local && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in
            ["localhost", "LocalHost:9900", "127.0.0.1", "127.0.0.1:1", "127.9.9.9:80", "[::1]", "[::1]:9900"]
        {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9900",
            "localhost:9900@evil.example",
            "localhost:x",
            "localhost:999999",
            "10.0.0.1:9900",
            "0.0.0.0",
            "[::]",
            "[::ffff:10.0.0.1]",
            "::1:9900:",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    fn verdict(method: &str, headers: &[(&str, &str)]) -> Result<(), &'static str> {
        let mut request = axum::http::Request::builder().method(method).uri("/v1/config:reload");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        admit(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn another_site_may_not_change_anything() {
        let host = ("host", "127.0.0.1:9900");
        assert!(verdict("POST", &[host]).is_ok());
        assert!(verdict("POST", &[host, ("origin", "http://127.0.0.1:9900")]).is_ok());
        assert!(verdict("POST", &[host, ("sec-fetch-site", "same-origin")]).is_ok());
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:8080"),
            ("origin", "https://127.0.0.1:9900"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("host", "127.0.0.1:9900"),
        ] {
            assert!(verdict("POST", &[host, (name, value)]).is_err(), "{name}: {value}");
        }
        assert!(verdict("GET", &[("host", "rebound.example:9900")]).is_err());
        assert!(verdict("GET", &[]).is_err());
    }
}
