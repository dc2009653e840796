//! One direction of a try: the request, from the client to the destination.

use std::task::{Context, Poll};

use crate::base::context::WorkerContext;
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{End, Exchange, TURNS};
use crate::forward::request_context::Job;

impl Exchange {
    /// Client to destination.
    pub(crate) fn poll_upload<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
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
                if job.body.is_done() {
                    self.upstream.finish(job.body.trailers());
                }
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
    fn read_body<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        job: &mut Job,
    ) -> Result<bool, End> {
        let mut scratch = worker.scratch.borrow_mut();
        let data = match client.poll_body(cx, job, &mut scratch[..self.upload.read_size()]) {
            Poll::Pending => return Ok(false),
            Poll::Ready(data) => data?,
        };
        self.progress = true;
        if self.answer.is_none() && job.keep(&scratch[data.clone()]) {
            return Ok(true);
        }
        job.streamed = true;
        if job.chunked {
            job.write_chunk(self.upload.buffer(), &scratch[data]);
            return Ok(true);
        }
        if data.is_empty() {
            return Ok(true);
        }
        let polled = self.upstream.poll_write(cx, &scratch[data.clone()]);
        self.upload_broken = self.upload.wrote(polled, [&scratch[data], b"", b""]).is_err();
        Ok(!self.upload_broken)
    }
}
