//! gRPC checks by `grpc.health.v1`.
//!
//! Source: the gRPC project's `health-checking.md` and `PROTOCOL-HTTP2.md`.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request};
use plimsoll_core::health::{CheckFailure, CheckFailureKind};
use plimsoll_wire::{grpc, protobuf};

use crate::health::probe::http2::{final_response, no_response};
use crate::health::probe::{AGENT, bad_response};

/// Maximum size of the response message. Two bytes are enough, but a server may send unknown fields.
const MAX_MESSAGE: usize = 4096;
/// Size of the prefix of a message: the compression flag and the length.
const PREFIX: usize = 5;
/// Maximum number of bytes of a destination's text that is reported.
const MAX_TEXT: usize = 100;

/// Calls `grpc.health.v1.Health/Check` for `service` (empty: the whole server).
///
/// # Errors
/// The response is not `SERVING`.
pub(super) async fn check(
    mut requests: SendRequest<Bytes>,
    authority: &str,
    secure: bool,
    service: &str,
    timeout: Duration,
) -> Result<(), CheckFailure> {
    let request = request(authority, secure, timeout)?;
    std::future::poll_fn(|cx| requests.poll_ready(cx)).await.map_err(no_response)?;
    let (response, mut body) = requests.send_request(request, false).map_err(no_response)?;
    // A few bytes fit the initial window of a destination, or wait until it opens.
    body.send_data(message(service), true).map_err(no_response)?;
    let (head, body) = final_response(response).await?.into_parts();
    if head.status != http::StatusCode::OK {
        let detail = format!("responded {}", head.status.as_u16());
        return Err(CheckFailure::protocol(CheckFailureKind::BadStatus, detail));
    }
    if let Some(failure) = failure(&head.headers) {
        return Err(failure);
    }
    if !head.headers.get(CONTENT_TYPE).is_some_and(|value| grpc::is_grpc_content_type(value.as_bytes())) {
        return Err(bad_response("the response is not gRPC"));
    }
    let (bytes, trailers) = read_to_end(body).await?;
    if let Some(failure) = failure(&trailers) {
        return Err(failure);
    }
    if !trailers.contains_key("grpc-status") && !head.headers.contains_key("grpc-status") {
        return Err(bad_response("the response ended without a grpc-status"));
    }
    check_message(&bytes)
}

fn request(authority: &str, secure: bool, timeout: Duration) -> Result<Request<()>, CheckFailure> {
    let scheme = if secure { "https" } else { "http" };
    // At most eight digits, enough for a day, the longest time limit.
    let millis = timeout.as_millis().clamp(1, 99_999_999);
    Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("grpc-timeout", format!("{millis}m"))
        .header(USER_AGENT, AGENT)
        .body(())
        .map_err(|error| format!("cannot express the request in HTTP/2: {error}").into())
}

/// Encodes `HealthCheckRequest { string service = 1; }` with its prefix.
fn message(service: &str) -> Bytes {
    let mut fields = Vec::new();
    if !service.is_empty() {
        protobuf::write_string(&mut fields, 1, service);
    }
    let mut message = BytesMut::with_capacity(PREFIX + fields.len());
    message.put_u8(0);
    // The configuration limits a service name to far less than four bytes can express.
    message.put_u32(u32::try_from(fields.len()).unwrap_or(u32::MAX));
    message.put_slice(&fields);
    message.freeze()
}

/// Reads the body to its end, and the trailers.
async fn read_to_end(mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), CheckFailure> {
    let mut bytes = Vec::new();
    while let Some(data) = std::future::poll_fn(|cx| body.poll_data(cx)).await {
        let data = data.map_err(no_response)?;
        if bytes.len() + data.len() > PREFIX + MAX_MESSAGE {
            return Err(bad_response(format!("the message is too long: more than {MAX_MESSAGE} bytes")));
        }
        bytes.extend_from_slice(&data);
        // The window must stay open for padding, too.
        let _ended_already = body.flow_control().release_capacity(data.len());
    }
    let trailers = std::future::poll_fn(|cx| body.poll_trailers(cx)).await.map_err(no_response)?;
    Ok((bytes, trailers.unwrap_or_default()))
}

/// Returns the failure of a `grpc-status` other than OK.
fn failure(fields: &HeaderMap) -> Option<CheckFailure> {
    let status = fields.get("grpc-status")?.as_bytes();
    if status == b"0" {
        return None;
    }
    let Some(name) = grpc::status_name(status) else {
        return Some(bad_response(format!("responded with the unknown grpc-status {}", printable(status))));
    };
    let text = fields.get("grpc-message").map(|text| printable(text.as_bytes())).unwrap_or_default();
    let detail = match text.is_empty() {
        true => format!("responded {name}"),
        false => format!("responded {name}: {text}"),
    };
    Some(CheckFailure::protocol(CheckFailureKind::BadStatus, detail))
}

/// Makes a destination's text fit for a log line.
fn printable(text: &[u8]) -> String {
    text.iter()
        .take(MAX_TEXT)
        .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' })
        .collect()
}

/// Checks `HealthCheckResponse { ServingStatus status = 1; }` with its prefix.
fn check_message(bytes: &[u8]) -> Result<(), CheckFailure> {
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(bad_response(match bytes.is_empty() {
            true => "responded OK without a message",
            false => "the message is malformed: it is incomplete",
        }));
    };
    let [compressed, len @ ..] = *prefix;
    if compressed != 0 {
        return Err(bad_response("the message is compressed, although no encoding was offered"));
    }
    if u32::from_be_bytes(len) as usize != message.len() {
        return Err(bad_response("the message is malformed: its length differs from its prefix"));
    }
    let status = protobuf::find_varint(message, 1)
        .map_err(|error| bad_response(format!("the message is malformed: {error}")))?;
    let rejected =
        |status: &str| Err(CheckFailure::protocol(CheckFailureKind::Rejected, format!("responded {status}")));
    // An enum has 32 bits (protobuf encoding), whatever was received.
    match status.unwrap_or(0) as u32 {
        1 => Ok(()),
        0 => rejected("UNKNOWN"),
        2 => rejected("NOT_SERVING"),
        3 => rejected("SERVICE_UNKNOWN"),
        other => Err(bad_response(format!("responded with the unknown status {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_encoded_as_protobuf() {
        assert_eq!(&message("")[..], b"\0\0\0\0\0");
        assert_eq!(&message("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(200);
        assert_eq!(&message(&long)[..9], b"\0\0\0\0\xcb\x0a\xc8\x01x");
    }

    #[test]
    fn only_the_status_serving_passes() {
        let good: [&[u8]; 3] =
            [b"\0\0\0\0\x02\x08\x01", b"\0\0\0\0\x04\x08\x02\x08\x01", b"\0\0\0\0\x05\x12\x01x\x08\x01"];
        for bytes in good {
            assert_eq!(check_message(bytes), Ok(()), "{bytes:?}");
        }
        let bad: [(&[u8], &str); 10] = [
            (b"", "without a message"),
            (b"\0\0\0", "incomplete"),
            (b"\0\0\0\0\0", "responded UNKNOWN"),
            (b"\0\0\0\0\x02\x08\x02", "responded NOT_SERVING"),
            (b"\0\0\0\0\x02\x08\x03", "responded SERVICE_UNKNOWN"),
            (b"\0\0\0\0\x02\x08\x09", "unknown status 9"),
            (b"\x01\0\0\0\x02\x08\x01", "compressed"),
            (b"\0\0\0\0\x03\x08\x01", "differs from its prefix"),
            (b"\0\0\0\0\x02\x08\x01\0\0\0\0\x02\x08\x01", "differs from its prefix"),
            (b"\0\0\0\0\x01\x08", "malformed"),
        ];
        for (bytes, why) in bad {
            assert!(
                check_message(bytes).is_err_and(|failure| failure.detail.contains(why)),
                "{bytes:?}: {:?}",
                check_message(bytes)
            );
        }
    }

    #[test]
    fn a_status_is_reported_by_its_name() {
        let detail = |status: &str, message: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert("grpc-status", status.parse().expect("a value"));
            fields.insert("grpc-message", message.parse().expect("a value"));
            failure(&fields).map(|failure| failure.detail)
        };
        assert_eq!(detail("0", "fine"), None);
        assert_eq!(detail("5", "unknown service").as_deref(), Some("responded NOT_FOUND: unknown service"));
        assert_eq!(detail("12", "").as_deref(), Some("responded UNIMPLEMENTED"));
        assert_eq!(detail("99", "").as_deref(), Some("responded with the unknown grpc-status 99"));
        assert_eq!(detail("14", "caf\u{e9}\t").as_deref(), Some("responded UNAVAILABLE: caf???"));
        assert_eq!(failure(&HeaderMap::new()), None);
    }
}
