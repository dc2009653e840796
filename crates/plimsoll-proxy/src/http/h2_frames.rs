//! How body bytes become frames, as far as the other side's window and our own buffer allow.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::SendStream;

/// Sends what fits of the parts. Answers the bytes taken; with all of them, and if the stream `ends` there,
/// the last frame says so.
pub(crate) fn poll_send(
    to: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    parts: [&[u8]; 3],
    ends: bool,
) -> Poll<io::Result<usize>> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    to.reserve_capacity(total);
    let mut room = to.capacity();
    while room == 0 {
        room = match ready!(to.poll_capacity(cx)) {
            Some(Ok(room)) => room,
            _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
    }
    let taken = total.min(room);
    let mut data = BytesMut::with_capacity(taken);
    for part in parts {
        let fits = part.len().min(taken - data.len());
        data.extend_from_slice(&part[..fits]);
    }
    let last = ends && taken == total;
    to.send_data(data.freeze(), last).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    Poll::Ready(Ok(taken))
}
