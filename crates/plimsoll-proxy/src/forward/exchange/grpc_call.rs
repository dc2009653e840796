//! What an answer says about a call of gRPC, and how it becomes one of gRPC-Web.

use plimsoll_wire::grpc;

use crate::forward::request_context::Job;
use plimsoll_wire::http1::body::write_chunk_head;
use plimsoll_wire::http1::response::{Delivery, ResponseHead};

/// The status of a call in the head of its answer: it failed before it began.
pub(crate) fn status_in<'b>(job: &Job, headers: &[httparse::Header<'b>]) -> Option<&'b [u8]> {
    if !job.is_call {
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

/// The type that an answer of gRPC has for a client of gRPC-Web.
pub(crate) fn answer_type(
    job: &mut Job,
    head: &mut ResponseHead<'_>,
    headers: &[httparse::Header<'_>],
    status_told: bool,
) -> Option<Vec<u8>> {
    let web = job.translated()?;
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
pub(crate) fn write_web_end(out: &mut Vec<u8>, delivery: Delivery, job: &mut Job, trailers: &mut Vec<u8>) {
    let view = job.view.clone();
    let edits = &view.routes[job.rule].table.response_edits;
    let Some(web) = job.translated() else { return };
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
    job.response_bytes += (out.len() - before) as u64;
}
