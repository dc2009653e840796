//! gRPC status in responses, and their translation to gRPC-Web.

use plimsoll_wire::grpc;

use crate::forward::request_context::RequestContext;
use plimsoll_wire::http1::body::write_chunk_head;
use plimsoll_wire::http1::response::{Delivery, ResponseHead};

/// Returns the gRPC status in the head of a response: the call failed before its first message.
pub(crate) fn header_status<'b>(
    request: &RequestContext,
    headers: &[httparse::Header<'b>],
) -> Option<&'b [u8]> {
    if !request.is_grpc {
        return None;
    }
    headers.iter().find(|h| h.name.eq_ignore_ascii_case("grpc-status")).map(|h| h.value)
}

/// Returns the gRPC status among trailer lines.
pub(crate) fn trailer_status(lines: &[u8]) -> Option<&[u8]> {
    lines
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"grpc-status:"))
        .map(<[u8]>::trim_ascii)
}

/// Returns the gRPC-Web content type that replaces the one of a gRPC response.
pub(crate) fn grpc_web_content_type(
    request: &mut RequestContext,
    head: &mut ResponseHead<'_>,
    headers: &[httparse::Header<'_>],
    status_in_head: bool,
) -> Option<Vec<u8>> {
    let translator = request.grpc_web_translator()?;
    let is_type = |h: &&httparse::Header<'_>| h.name.eq_ignore_ascii_case("content-type");
    // Any other response does not come from a gRPC server, and is forwarded unchanged.
    translator.translated = head.status < 200
        || (head.status == 200
            && headers.iter().find(is_type).is_some_and(|h| grpc::is_grpc_content_type(h.value)));
    if head.status != 200 || !translator.translated {
        return None;
    }
    translator.status_sent = status_in_head;
    // A trailer frame follows, and the body may be Base64 text.
    head.clear_length();
    Some(translator.response_type.clone())
}

/// Writes the trailers as the last frame of the body, where gRPC-Web clients expect them.
pub(crate) fn write_trailer_frame(
    out: &mut Vec<u8>,
    delivery: Delivery,
    request: &mut RequestContext,
    trailers: &mut Vec<u8>,
) {
    let routes = request.routes.clone();
    let edits = &routes.routes[request.route].table.response_edits;
    let Some(translator) = request.grpc_web_translator() else { return };
    let frame = translator.trailer_frame(&std::mem::take(trailers), edits);
    let before = out.len();
    match delivery {
        Delivery::Chunked => {
            write_chunk_head(out, frame.len());
            out.extend_from_slice(&frame);
            out.extend_from_slice(b"\r\n");
        }
        Delivery::Plain | Delivery::UntilClose => out.extend_from_slice(&frame),
    }
    request.response_bytes += (out.len() - before) as u64;
}
