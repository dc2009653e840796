//! Batches of datagrams: received with one system call, and grouped into segment batches for sending.
//!
//! A segment batch is a run of datagrams of equal length; only the last may be shorter. The kernel joins
//! received datagrams into one (GRO) and splits one when sending (GSO).

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::serve::udp::flow_table::FlowKey;

/// Messages received with one system call. Each is a datagram or a segment batch.
pub(crate) const BATCH: usize = 32;
/// Maximum number of datagrams in a segment batch (`UDP_MAX_SEGMENTS` before Linux 6.9).
const MAX_SEGMENTS: usize = 64;
/// Maximum length of a segment batch, over IPv4 and IPv6: the kernel handles it as one datagram until it is
/// sent.
const MAX_SEGMENTED_BYTES: usize = 65_535 - 40 - 8;

/// Size of a receive buffer: the longest datagram (65,527 bytes, over IPv6) or segment batch, and some cache
/// lines more, so that the starts of 32 buffers do not compete for the same lines.
const BUFFER_SIZE: usize = 65_536 + 576;

/// Buffers for one batch, shared by all datagram listeners of a worker. Pages that no datagram reached use no
/// memory.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    metas: [RecvMeta; BATCH],
}

/// Properties of a received message beside its bytes.
#[derive(Copy, Clone, Debug)]
pub(crate) struct RecvMeta {
    pub(crate) len: usize,
    /// Length of each datagram but the last; at least `len` if there is only one.
    pub(crate) stride: usize,
    pub(crate) client: SocketAddr,
    pub(crate) local: Option<IpAddr>,
}

impl RecvMeta {
    pub(crate) const EMPTY: Self = Self {
        len: 0,
        stride: 0,
        client: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        local: None,
    };

    /// Returns the number of datagrams.
    pub(crate) fn datagrams(&self) -> usize {
        self.len.div_ceil(self.stride.max(1)).max(1)
    }

    /// Returns the key of its flow.
    pub(crate) fn key(&self) -> FlowKey {
        FlowKey { client: self.client, local: self.local, destination: None }
    }

    fn has_same_addresses(&self, other: &Self) -> bool {
        self.client == other.client && self.local == other.local
    }
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BATCH * BUFFER_SIZE].into(), metas: [RecvMeta::EMPTY; BATCH] }
    }

    /// Returns the `n`-th message.
    fn message(&self, n: usize) -> (RecvMeta, &[u8]) {
        let meta = self.metas[n];
        (meta, &self.bytes[n * BUFFER_SIZE..][..meta.len])
    }

    /// Returns the `n`-th buffer.
    pub(crate) fn buffer(&mut self, n: usize) -> &mut [u8] {
        &mut self.bytes[n * BUFFER_SIZE..][..BUFFER_SIZE]
    }

    /// Returns the buffers from the `n`-th on, and their properties.
    pub(crate) fn buffers(&mut self, n: usize) -> (impl Iterator<Item = &mut [u8]>, &mut [RecvMeta]) {
        (self.bytes[n * BUFFER_SIZE..].chunks_exact_mut(BUFFER_SIZE), &mut self.metas[n..])
    }

    /// Sets the properties of the `n`-th message.
    pub(crate) fn set_meta(&mut self, n: usize, meta: RecvMeta) {
        self.metas[n] = meta;
    }

    /// Groups the first `count` messages into runs that can be sent together. Datagrams between the same
    /// addresses keep their order.
    pub(crate) fn runs(&self, count: usize) -> Runs<'_> {
        Runs { batch: self, left: (1_u64 << count.min(BATCH)) - 1 }
    }
}

/// The messages of a batch that are left, one bit each.
pub(crate) struct Runs<'a> {
    batch: &'a Batch,
    left: u64,
}

impl<'a> Iterator for Runs<'a> {
    type Item = DatagramRun<'a>;

    fn next(&mut self) -> Option<DatagramRun<'a>> {
        let first = self.left.trailing_zeros() as usize;
        if first >= BATCH {
            return None;
        }
        let (meta, bytes) = self.batch.message(first);
        let mut run = DatagramRun::of(meta, bytes);
        self.left &= !(1 << first);
        let mut rest = self.left;
        while rest != 0 {
            let n = rest.trailing_zeros() as usize;
            rest &= !(1 << n);
            let (meta, bytes) = self.batch.message(n);
            if !meta.has_same_addresses(&run.meta) {
                continue;
            }
            if !run.try_extend(meta, bytes) {
                break;
            }
            self.left &= !(1 << n);
        }
        Some(run)
    }
}

/// One datagram, or several between the same addresses that form a segment batch.
pub(crate) struct DatagramRun<'a> {
    /// Properties of the whole run.
    pub(crate) meta: RecvMeta,
    messages: [&'a [u8]; BATCH],
    count: usize,
}

impl<'a> DatagramRun<'a> {
    fn of(meta: RecvMeta, bytes: &'a [u8]) -> Self {
        let mut messages: [&[u8]; BATCH] = [&[]; BATCH];
        messages[0] = bytes;
        Self { meta, messages, count: 1 }
    }

    /// Appends a later message if the result is a valid segment batch.
    fn try_extend(&mut self, meta: RecvMeta, bytes: &'a [u8]) -> bool {
        let stride = self.meta.stride;
        let is_whole = stride > 0 && self.meta.len.is_multiple_of(stride);
        let fits = meta.stride == stride || (meta.datagrams() == 1 && meta.len < stride);
        let len = self.meta.len + meta.len;
        if !is_whole
            || !fits
            || meta.len == 0
            || len > MAX_SEGMENTED_BYTES
            || len.div_ceil(stride) > MAX_SEGMENTS
        {
            return false;
        }
        self.meta.len = len;
        self.messages[self.count] = bytes;
        self.count += 1;
        true
    }

    pub(crate) fn segments(&self) -> SegmentBatch<'_> {
        SegmentBatch { messages: &self.messages[..self.count], len: self.meta.len, stride: self.meta.stride }
    }

    /// Returns the datagrams one by one.
    pub(crate) fn split(&self) -> impl Iterator<Item = (RecvMeta, &'a [u8])> {
        let (meta, stride) = (self.meta, self.meta.stride.max(1));
        self.messages[..self.count]
            .iter()
            .flat_map(move |&message| {
                // A datagram may be empty; one in a segment batch may not.
                let empty = message.is_empty().then_some(message);
                empty.into_iter().chain(message.chunks(stride))
            })
            .map(move |datagram| (RecvMeta { len: datagram.len(), stride: datagram.len(), ..meta }, datagram))
    }
}

/// Bytes to send to one address: a datagram, or several of equal length.
#[derive(Copy, Clone)]
pub(crate) struct SegmentBatch<'a> {
    messages: &'a [&'a [u8]],
    pub(crate) len: usize,
    pub(crate) stride: usize,
}

impl<'a> SegmentBatch<'a> {
    pub(crate) fn single(datagram: &'a &'a [u8]) -> Self {
        Self { messages: std::slice::from_ref(datagram), len: datagram.len(), stride: datagram.len() }
    }

    #[cfg(test)]
    pub(crate) fn of(messages: &'a [&'a [u8]]) -> Self {
        let len = messages.iter().map(|message| message.len()).sum();
        Self { messages, len, stride: messages[0].len() }
    }

    /// Returns the datagram, if there is only one.
    pub(crate) fn as_single(&self) -> Option<&'a [u8]> {
        (self.len <= self.stride).then(|| self.messages[0])
    }

    /// Reports whether it is short enough to be sent with GSO.
    pub(crate) fn fits_gso(&self) -> bool {
        self.len <= MAX_SEGMENTED_BYTES && self.stride <= usize::from(u16::MAX)
    }

    pub(crate) fn slices(&self) -> ([IoSlice<'a>; BATCH], usize) {
        let slices = std::array::from_fn(|n| IoSlice::new(self.messages.get(n).copied().unwrap_or_default()));
        (slices, self.messages.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes messages as `client:length` or `client:length/stride`, and runs as clients and lengths of their
    /// datagrams.
    #[track_caller]
    fn check(messages: &str, runs: &[&str]) {
        let mut batch = Batch::new();
        let mut count = 0;
        for message in messages.split_whitespace() {
            let (client, size) = message.split_once(':').expect("a colon");
            let (len, stride) = size.split_once('/').unwrap_or((size, size));
            let client = SocketAddr::new([127, 0, 0, 1].into(), client.parse().expect("a number"));
            let (len, stride) = (len.parse().expect("a number"), stride.parse().expect("a number"));
            batch.buffer(count)[..len].fill(count as u8);
            batch.set_meta(count, RecvMeta { len, stride, client, local: None });
            count += 1;
        }
        let grouped: Vec<String> = batch
            .runs(count)
            .map(|run| {
                let lengths: Vec<_> = run.split().map(|(meta, _)| meta.len.to_string()).collect();
                assert_eq!(lengths.len(), run.meta.datagrams());
                format!("{}: {}", run.meta.client.port(), lengths.join(" "))
            })
            .collect();
        assert_eq!(grouped, runs, "{messages}");
    }

    #[test]
    fn datagrams_of_one_length_form_a_run() {
        check("", &[]);
        check("1:5", &["1: 5"]);
        check("1:5 1:5 1:5", &["1: 5 5 5"]);
        check("1:5 2:5 1:5 2:5", &["1: 5 5", "2: 5 5"]);
    }

    #[test]
    fn a_shorter_datagram_ends_its_run() {
        check("1:5 1:3 1:5 1:5", &["1: 5 3", "1: 5 5"]);
        check("1:5 1:3 1:3", &["1: 5 3", "1: 3"]);
        check("1:3 1:5 2:1", &["1: 3", "1: 5", "2: 1"]);
    }

    #[test]
    fn empty_datagrams_are_sent_alone() {
        check("1:0 1:0", &["1: 0", "1: 0"]);
        check("1:5 1:0 1:5", &["1: 5", "1: 0", "1: 5"]);
    }

    #[test]
    fn segment_batches_join_where_they_fit() {
        check("1:12/5", &["1: 5 5 2"]);
        check("1:10/5 1:12/5 1:5", &["1: 5 5 5 5 2", "1: 5"]);
        check("1:5 1:10/5 1:6/3", &["1: 5 5 5", "1: 3 3"]);
        check("1:10/5 1:4", &["1: 5 5 4"]);
    }

    #[test]
    fn a_run_is_bounded_in_bytes_and_datagrams() {
        check("1:30000 1:30000 1:30000", &["1: 30000 30000", "1: 30000"]);
        let ones = |n: usize| vec!["1"; n].join(" ");
        check("1:60/1 1:4/1 1:1", &[&format!("1: {}", ones(64)), "1: 1"]);
    }
}
