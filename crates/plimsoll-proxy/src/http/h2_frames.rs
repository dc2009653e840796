//! Sending of body bytes as HTTP/2 DATA frames, within the flow-control window and the send buffer.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::SendStream;

/// Sends as many bytes of `parts` as the window allows, and returns their number. If that is all of them and
/// `end_stream` is set, the last frame ends the stream.
pub(crate) fn poll_send(
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    parts: [&[u8]; 3],
    end_stream: bool,
) -> Poll<io::Result<usize>> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    stream.reserve_capacity(total);
    let mut window = stream.capacity();
    while window == 0 {
        window = match ready!(stream.poll_capacity(cx)) {
            Some(Ok(window)) => window,
            _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
    }
    let sent = total.min(window);
    let mut data = BytesMut::with_capacity(sent);
    for part in parts {
        let fits = part.len().min(sent - data.len());
        data.extend_from_slice(&part[..fits]);
    }
    let last = end_stream && sent == total;
    stream.send_data(data.freeze(), last).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    Poll::Ready(Ok(sent))
}
