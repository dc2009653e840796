//! Whether a destination says by `grpc.health.v1` that it serves.
//!
//! Source: the gRPC project's `health-checking.md` and `PROTOCOL-HTTP2.md`.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request};
use plimsoll_wire::{grpc, protobuf};

use crate::health::probe::{AGENT, no_answer};

/// Bytes of the answer's message: two are enough, and a server may know fields that we do not.
const MAX_MESSAGE: usize = 4096;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// So much of what the destination says in its own words is told on.
const MAX_WORDS: usize = 100;

/// Asks `grpc.health.v1.Health/Check` about `service` (empty: the whole server).
///
/// # Errors
/// Why the answer is not `SERVING`.
pub(crate) async fn ask(
    mut requests: SendRequest<Bytes>,
    authority: &str,
    secure: bool,
    service: &str,
    timeout: Duration,
) -> Result<(), String> {
    let request = request(authority, secure, timeout)?;
    std::future::poll_fn(|cx| requests.poll_ready(cx)).await.map_err(no_answer)?;
    let (answer, mut body) = requests.send_request(request, false).map_err(no_answer)?;
    // A handful of bytes: they fit any window that a destination begins with, or wait until it opens.
    body.send_data(message(service), true).map_err(no_answer)?;
    let (head, body) = answer.await.map_err(no_answer)?.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(format!("answered {}", head.status.as_u16()));
    }
    if let Some(told) = failure(&head.headers) {
        return Err(told);
    }
    if !head.headers.get(CONTENT_TYPE).is_some_and(|value| grpc::is_grpc_content_type(value.as_bytes())) {
        return Err("answered with something that is not gRPC".to_owned());
    }
    let (bytes, trailers) = whole(body).await?;
    if let Some(told) = failure(&trailers) {
        return Err(told);
    }
    if !trailers.contains_key("grpc-status") && !head.headers.contains_key("grpc-status") {
        return Err("its answer ended without a grpc-status".to_owned());
    }
    verdict(&bytes)
}

fn request(authority: &str, secure: bool, timeout: Duration) -> Result<Request<()>, String> {
    let scheme = if secure { "https" } else { "http" };
    // At most eight digits, which hold a day: the longest time limit there is.
    let millis = timeout.as_millis().clamp(1, 99_999_999);
    Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("grpc-timeout", format!("{millis}m"))
        .header(USER_AGENT, AGENT)
        .body(())
        .map_err(|e| format!("cannot ask that way: {e}"))
}

/// `HealthCheckRequest { string service = 1; }` behind its length.
fn message(service: &str) -> Bytes {
    let mut fields = Vec::new();
    if !service.is_empty() {
        protobuf::write_string(&mut fields, 1, service);
    }
    let mut message = BytesMut::with_capacity(PREFIX + fields.len());
    message.put_u8(0);
    // The configuration bounds the name of a service far below what four bytes tell.
    message.put_u32(u32::try_from(fields.len()).unwrap_or(u32::MAX));
    message.put_slice(&fields);
    message.freeze()
}

/// The body to its end, and the trailers.
async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), String> {
    let mut bytes = Vec::new();
    while let Some(data) = std::future::poll_fn(|cx| body.poll_data(cx)).await {
        let data = data.map_err(no_answer)?;
        if bytes.len() + data.len() > PREFIX + MAX_MESSAGE {
            return Err(format!("its message is too long: more than {MAX_MESSAGE} bytes"));
        }
        bytes.extend_from_slice(&data);
        // Frames without data must not hold up the window either.
        let _ended_already = body.flow_control().release_capacity(data.len());
    }
    let trailers = std::future::poll_fn(|cx| body.poll_trailers(cx)).await.map_err(no_answer)?;
    Ok((bytes, trailers.unwrap_or_default()))
}

/// What a `grpc-status` other than OK says.
fn failure(fields: &HeaderMap) -> Option<String> {
    let status = fields.get("grpc-status")?.as_bytes();
    if status == b"0" {
        return None;
    }
    let Some(word) = grpc::status_name(status) else {
        return Some(format!("answered with the grpc-status {}, which is none", printable(status)));
    };
    let told = fields.get("grpc-message").map(|words| printable(words.as_bytes())).unwrap_or_default();
    Some(match told.is_empty() {
        true => format!("answered {word}"),
        false => format!("answered {word}: {told}"),
    })
}

/// Words of a stranger, as they may stand in a line for people.
fn printable(words: &[u8]) -> String {
    words
        .iter()
        .take(MAX_WORDS)
        .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' })
        .collect()
}

/// Reads `HealthCheckResponse { ServingStatus status = 1; }` behind its length.
fn verdict(bytes: &[u8]) -> Result<(), String> {
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(match bytes.is_empty() {
            true => "answered OK without a message".to_owned(),
            false => "its message is malformed: it breaks off".to_owned(),
        });
    };
    let [compressed, len @ ..] = *prefix;
    if compressed != 0 {
        return Err("its message is compressed, which nobody offered".to_owned());
    }
    if u32::from_be_bytes(len) as usize != message.len() {
        return Err("its message is malformed: its length is another than it says".to_owned());
    }
    let status =
        protobuf::find_varint(message, 1).map_err(|bad| format!("its message is malformed: {bad}"))?;
    // An enum is 32 bits wide, whatever came.
    match status.unwrap_or(0) as u32 {
        1 => Ok(()),
        0 => Err("answered UNKNOWN".to_owned()),
        2 => Err("answered NOT_SERVING".to_owned()),
        3 => Err("answered SERVICE_UNKNOWN".to_owned()),
        other => Err(format!("answered with the status {other}, which is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_protobuf_has_it() {
        assert_eq!(&message("")[..], b"\0\0\0\0\0");
        assert_eq!(&message("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(200);
        assert_eq!(&message(&long)[..9], b"\0\0\0\0\xcb\x0a\xc8\x01x");
    }

    #[test]
    fn only_serving_passes() {
        let good: [&[u8]; 3] =
            [b"\0\0\0\0\x02\x08\x01", b"\0\0\0\0\x04\x08\x02\x08\x01", b"\0\0\0\0\x05\x12\x01x\x08\x01"];
        for bytes in good {
            assert_eq!(verdict(bytes), Ok(()), "{bytes:?}");
        }
        let bad: [(&[u8], &str); 10] = [
            (b"", "without a message"),
            (b"\0\0\0", "breaks off"),
            (b"\0\0\0\0\0", "answered UNKNOWN"),
            (b"\0\0\0\0\x02\x08\x02", "answered NOT_SERVING"),
            (b"\0\0\0\0\x02\x08\x03", "answered SERVICE_UNKNOWN"),
            (b"\0\0\0\0\x02\x08\x09", "the status 9"),
            (b"\x01\0\0\0\x02\x08\x01", "compressed"),
            (b"\0\0\0\0\x03\x08\x01", "another than it says"),
            (b"\0\0\0\0\x02\x08\x01\0\0\0\0\x02\x08\x01", "another than it says"),
            (b"\0\0\0\0\x01\x08", "malformed"),
        ];
        for (bytes, why) in bad {
            assert!(verdict(bytes).is_err_and(|told| told.contains(why)), "{bytes:?}: {:?}", verdict(bytes));
        }
    }

    #[test]
    fn a_status_is_told_by_its_word() {
        let told = |status: &str, message: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert("grpc-status", status.parse().expect("a value"));
            fields.insert("grpc-message", message.parse().expect("a value"));
            failure(&fields)
        };
        assert_eq!(told("0", "fine"), None);
        assert_eq!(told("5", "unknown service").as_deref(), Some("answered NOT_FOUND: unknown service"));
        assert_eq!(told("12", "").as_deref(), Some("answered UNIMPLEMENTED"));
        assert_eq!(told("99", "").as_deref(), Some("answered with the grpc-status 99, which is none"));
        assert_eq!(told("14", "caf\u{e9}\t").as_deref(), Some("answered UNAVAILABLE: caf???"));
        assert_eq!(failure(&HeaderMap::new()), None);
    }
}
