//! One direction of a try: the request, from the client to the destination.

use std::task::{Context, Poll};

use super::{End, Exchange, TURNS};
use crate::http1::serve::{Client, Job};
use crate::worker::Worker;

impl Exchange {
    /// Client to destination.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Client,
        job: &mut Job,
    ) -> Result<(), End> {
        for _ in 0..TURNS {
            if self.upload_broken {
                return Ok(());
            }
            let unsent = match &job.wire[self.sent..] {
                [] => self.upload.rest(),
                wire => wire,
            };
            if unsent.is_empty() {
                if job.body.is_done() || !self.read_body(cx, worker, client, job)? {
                    return Ok(());
                }
                continue;
            }
            match self.upstream.poll_write(cx, unsent) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n @ 1..)) => {
                    self.progress = true;
                    match self.sent < job.wire.len() {
                        true => self.sent += n,
                        false => self.upload.advance(n),
                    }
                }
                Poll::Ready(_) => self.upload_broken = true,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads more of the request body and sends it on; `false` when the client has none yet.
    fn read_body(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Client,
        job: &mut Job,
    ) -> Result<bool, End> {
        let mut scratch = worker.scratch.borrow_mut();
        let n = match client.stream.poll_read(cx, &mut scratch[..self.upload.read_size()]) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(n @ 1..)) => n,
            Poll::Ready(_) => return Err(End::ClientGone),
        };
        self.progress = true;
        job.streamed = true;
        let data = job.take_body(client, &mut scratch[..n]).map_err(End::Refused)?;
        if job.chunked {
            job.write_chunk(self.upload.buffer(), &scratch[data]);
            return Ok(true);
        }
        let polled = self.upstream.poll_write(cx, &scratch[data.clone()]);
        self.upload_broken = self.upload.wrote(polled, [&scratch[data], b"", b""]).is_err();
        Ok(!self.upload_broken)
    }
}
