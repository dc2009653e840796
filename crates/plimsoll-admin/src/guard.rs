//! Rejection of requests that a browser sends on behalf of another site.
//!
//! The admin API listens on loopback without access control. A name that resolves to 127.0.0.1 (DNS rebinding)
//! is recognized by `Host`, a page of another site by `Origin` and `Sec-Fetch-Site`.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::connections::OpenConnection;
use crate::problem::Problem;

/// Maximum bytes of a request body.
const MAX_BODY: usize = 1024 * 1024;
/// Time limit of a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Passes a request on, or rejects it with 403, 408 or 413.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let mut response = match check_origin(&request) {
        Ok(()) => forward(request, next).await,
        Err(detail) => Problem::new(StatusCode::FORBIDDEN, detail).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn forward(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Body::from(body),
        Ok(Err(_)) => {
            let detail = "the request body is larger than 1 MiB";
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response();
        }
        Err(_) => {
            let detail = "the request body did not arrive within 10 s";
            return Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response();
        }
    };
    // From here on the client is not awaited.
    let _busy = parts.extensions.get::<Arc<OpenConnection>>().map(OpenConnection::handle_request);
    next.run(Request::from_parts(parts, body)).await
}

fn check_origin(request: &Request) -> Result<(), &'static str> {
    let host = single_value(request.headers(), &HOST)?.ok_or("expected a Host header, found none")?;
    let authority = request.uri().authority().map_or(host, |authority| authority.as_str());
    if !is_local(host) || !is_local(authority) {
        return Err("Host: expected localhost or a loopback address");
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let same = |origin: &str| origin.strip_prefix("http://").is_some_and(|o| o.eq_ignore_ascii_case(host));
    if single_value(request.headers(), &ORIGIN)?.is_some_and(|origin| !same(origin)) {
        return Err("Origin: requests from other sites are not allowed");
    }
    match single_value(request.headers(), &SEC_FETCH_SITE)? {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err("Sec-Fetch-Site: requests from other sites are not allowed"),
    }
}

/// Returns the value of a header that may occur once.
fn single_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, &'static str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| "Host, Origin and Sec-Fetch-Site: expected ASCII")
        }
        (Some(_), Some(_)) => Err("Host, Origin and Sec-Fetch-Site: expected at most one of each"),
    }
}

/// Whether `host` is `localhost` or a loopback address, with or without a port.
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
    fn only_loopback_hosts_are_local() {
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

    fn check(method: &str, headers: &[(&str, &str)]) -> Result<(), &'static str> {
        let mut request = axum::http::Request::builder().method(method).uri("/v1/config:reload");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check_origin(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn requests_from_other_sites_are_rejected() {
        let host = ("host", "127.0.0.1:9900");
        assert!(check("POST", &[host]).is_ok());
        assert!(check("POST", &[host, ("origin", "http://127.0.0.1:9900")]).is_ok());
        assert!(check("POST", &[host, ("sec-fetch-site", "same-origin")]).is_ok());
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:8080"),
            ("origin", "https://127.0.0.1:9900"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("host", "127.0.0.1:9900"),
        ] {
            assert!(check("POST", &[host, (name, value)]).is_err(), "{name}: {value}");
        }
        assert!(check("GET", &[("host", "rebound.example:9900")]).is_err());
        assert!(check("GET", &[]).is_err());
    }
}
