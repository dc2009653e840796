//! What an response says about a call of gRPC, and how it becomes one of gRPC-Web.

use plimsoll_wire::grpc;

use crate::forward::request_context::RequestContext;
use plimsoll_wire::http1::body::write_chunk_head;
use plimsoll_wire::http1::response::{Delivery, ResponseHead};

/// The status of a call in the head of its response: it failed before it began.
pub(crate) fn status_in<'b>(request: &RequestContext, headers: &[httparse::Header<'b>]) -> Option<&'b [u8]> {
    if !request.is_grpc {
        return None;
    }
    headers.iter().find(|h| h.name.eq_ignore_ascii_case("grpc-status")).map(|h| h.value)
}

/// The status of a call among its trailer lines.
pub(crate) fn status_among(lines: &[u8]) -> Option<&[u8]> {
    lines
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"grpc-status:"))
        .map(<[u8]>::trim_ascii)
}

/// The type that an response of gRPC has for a client of gRPC-Web.
pub(crate) fn answer_type(
    request: &mut RequestContext,
    head: &mut ResponseHead<'_>,
    headers: &[httparse::Header<'_>],
    status_told: bool,
) -> Option<Vec<u8>> {
    let web = request.translated()?;
    let is_type = |h: &&httparse::Header<'_>| h.name.eq_ignore_ascii_case("content-type");
    // Anything else was said by somebody who does not speak gRPC, and passes as it is.
    web.translated = head.status < 200
        || (head.status == 200
            && headers.iter().find(is_type).is_some_and(|h| grpc::is_grpc_content_type(h.value)));
    if head.status != 200 || !web.translated {
        return None;
    }
    web.status_sent = status_told;
    // A frame of trailers follows, and all of it may be text.
    head.clear_length();
    Some(web.response_type.clone())
}

/// Writes trailers as the last frame of a body, which is where clients of gRPC-Web look for them.
pub(crate) fn write_web_end(
    out: &mut Vec<u8>,
    delivery: Delivery,
    request: &mut RequestContext,
    trailers: &mut Vec<u8>,
) {
    let view = request.view.clone();
    let edits = &view.routes[request.route].table.response_edits;
    let Some(web) = request.translated() else { return };
    let frame = web.trailer_frame(&std::mem::take(trailers), edits);
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
