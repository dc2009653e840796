//! What came with one system call, and which of it can leave with one.
//!
//! A *train* is a run of datagrams of one length, but for the last, which may be shorter: what the kernel makes
//! of datagrams that came close together (GRO), and takes apart again for us (GSO).

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::serve::udp::flows::Key;

/// Pieces one system call takes in: datagrams, or trains of them.
pub(crate) const BATCH: usize = 32;
/// Datagrams in one train: more than that no kernel before Linux 6.9 takes apart (`UDP_MAX_SEGMENTS`).
const MOST: usize = 64;
/// Bytes in one train, over IPv4 and IPv6: to the kernel it is one datagram until the last moment.
const LONGEST: usize = 65_535 - 40 - 8;

/// Room for one datagram: the longest there can be (65,527 bytes, over IPv6), and a few lines more, so that
/// the beginnings of 32 buffers do not compete for the same lines of the cache. A train is not longer either.
const ROOM: usize = 65_536 + 576;

/// Buffers for one batch, used by all doors of a worker in turn. Pages no datagram ever reached cost nothing.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    heads: [Head; BATCH],
}

/// What is known of a piece beside its bytes.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Head {
    pub(crate) len: usize,
    /// The length of each datagram in it but the last; at least `len` where there is one only.
    pub(crate) stride: usize,
    pub(crate) client: SocketAddr,
    pub(crate) local: Option<IpAddr>,
}

impl Head {
    pub(crate) const NOBODY: Self = Self {
        len: 0,
        stride: 0,
        client: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        local: None,
    };

    /// How many datagrams that is.
    pub(crate) fn datagrams(&self) -> usize {
        self.len.div_ceil(self.stride.max(1)).max(1)
    }

    /// What it has in common with others of its flow.
    pub(crate) fn key(&self) -> Key {
        Key { client: self.client, local: self.local, destination: None }
    }

    fn is_between_same(&self, other: &Self) -> bool {
        self.client == other.client && self.local == other.local
    }
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BATCH * ROOM].into(), heads: [Head::NOBODY; BATCH] }
    }

    /// The `n`-th piece.
    fn piece(&self, n: usize) -> (Head, &[u8]) {
        let head = self.heads[n];
        (head, &self.bytes[n * ROOM..][..head.len])
    }

    /// Room for the `n`-th piece.
    pub(crate) fn room(&mut self, n: usize) -> &mut [u8] {
        &mut self.bytes[n * ROOM..][..ROOM]
    }

    /// Room for the `n`-th piece and all after it, and for what is to be known of them.
    pub(crate) fn rooms(&mut self, n: usize) -> (impl Iterator<Item = &mut [u8]>, &mut [Head]) {
        (self.bytes[n * ROOM..].chunks_exact_mut(ROOM), &mut self.heads[n..])
    }

    /// Says what is in the `n`-th room.
    pub(crate) fn label(&mut self, n: usize, head: Head) {
        self.heads[n] = head;
    }

    /// The first `count` pieces, those that can leave together taken together. Datagrams between the same two
    /// stay in their order.
    pub(crate) fn runs(&self, count: usize) -> Runs<'_> {
        Runs { batch: self, left: (1_u64 << count.min(BATCH)) - 1 }
    }
}

/// What is left of a batch, a bit for each piece.
pub(crate) struct Runs<'a> {
    batch: &'a Batch,
    left: u64,
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        let first = self.left.trailing_zeros() as usize;
        if first >= BATCH {
            return None;
        }
        let (head, bytes) = self.batch.piece(first);
        let mut run = Run::of(head, bytes);
        self.left &= !(1 << first);
        let mut rest = self.left;
        while rest != 0 {
            let n = rest.trailing_zeros() as usize;
            rest &= !(1 << n);
            let (head, bytes) = self.batch.piece(n);
            if !head.is_between_same(&run.head) {
                continue;
            }
            if !run.extend(head, bytes) {
                break;
            }
            self.left &= !(1 << n);
        }
        Some(run)
    }
}

/// One datagram, or several between the same two that make a train.
pub(crate) struct Run<'a> {
    /// Of all of it.
    pub(crate) head: Head,
    pieces: [&'a [u8]; BATCH],
    count: usize,
}

impl<'a> Run<'a> {
    fn of(head: Head, bytes: &'a [u8]) -> Self {
        let mut pieces: [&[u8]; BATCH] = [&[]; BATCH];
        pieces[0] = bytes;
        Self { head, pieces, count: 1 }
    }

    /// Takes a piece that came later along, if all of it is a train then.
    fn extend(&mut self, head: Head, bytes: &'a [u8]) -> bool {
        let stride = self.head.stride;
        let is_whole = stride > 0 && self.head.len.is_multiple_of(stride);
        let fits = head.stride == stride || (head.datagrams() == 1 && head.len < stride);
        let len = self.head.len + head.len;
        if !is_whole || !fits || head.len == 0 || len > LONGEST || len.div_ceil(stride) > MOST {
            return false;
        }
        self.head.len = len;
        self.pieces[self.count] = bytes;
        self.count += 1;
        true
    }

    pub(crate) fn load(&self) -> Load<'_> {
        Load { pieces: &self.pieces[..self.count], len: self.head.len, stride: self.head.stride }
    }

    /// Each for itself.
    pub(crate) fn apart(&self) -> impl Iterator<Item = (Head, &'a [u8])> {
        let (head, stride) = (self.head, self.head.stride.max(1));
        self.pieces[..self.count]
            .iter()
            .flat_map(move |&piece| {
                // A datagram may be empty; a train has none that is.
                let empty = piece.is_empty().then_some(piece);
                empty.into_iter().chain(piece.chunks(stride))
            })
            .map(move |datagram| (Head { len: datagram.len(), stride: datagram.len(), ..head }, datagram))
    }
}

/// What is to be sent to one address: a datagram, or a train.
#[derive(Copy, Clone)]
pub(crate) struct Load<'a> {
    pieces: &'a [&'a [u8]],
    pub(crate) len: usize,
    pub(crate) stride: usize,
}

impl<'a> Load<'a> {
    pub(crate) fn one(datagram: &'a &'a [u8]) -> Self {
        Self { pieces: std::slice::from_ref(datagram), len: datagram.len(), stride: datagram.len() }
    }

    #[cfg(test)]
    pub(crate) fn train(pieces: &'a [&'a [u8]]) -> Self {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        Self { pieces, len, stride: pieces[0].len() }
    }

    /// The datagram, if it is one.
    pub(crate) fn alone(&self) -> Option<&'a [u8]> {
        (self.len <= self.stride).then(|| self.pieces[0])
    }

    /// Can it leave as a train at all?
    pub(crate) fn is_train(&self) -> bool {
        self.len <= LONGEST && self.stride <= usize::from(u16::MAX)
    }

    pub(crate) fn slices(&self) -> ([IoSlice<'a>; BATCH], usize) {
        let slices = std::array::from_fn(|n| IoSlice::new(self.pieces.get(n).copied().unwrap_or_default()));
        (slices, self.pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces as `client:length` or `client:length/stride`; runs as clients and lengths of their datagrams.
    #[track_caller]
    fn check(pieces: &str, runs: &[&str]) {
        let mut batch = Batch::new();
        let mut count = 0;
        for piece in pieces.split_whitespace() {
            let (client, size) = piece.split_once(':').expect("a colon");
            let (len, stride) = size.split_once('/').unwrap_or((size, size));
            let client = SocketAddr::new([127, 0, 0, 1].into(), client.parse().expect("a number"));
            let (len, stride) = (len.parse().expect("a number"), stride.parse().expect("a number"));
            batch.room(count)[..len].fill(count as u8);
            batch.label(count, Head { len, stride, client, local: None });
            count += 1;
        }
        let made: Vec<String> = batch
            .runs(count)
            .map(|run| {
                let lengths: Vec<_> = run.apart().map(|(head, _)| head.len.to_string()).collect();
                assert_eq!(lengths.len(), run.head.datagrams());
                format!("{}: {}", run.head.client.port(), lengths.join(" "))
            })
            .collect();
        assert_eq!(made, runs, "{pieces}");
    }

    #[test]
    fn datagrams_of_one_length_are_taken_together() {
        check("", &[]);
        check("1:5", &["1: 5"]);
        check("1:5 1:5 1:5", &["1: 5 5 5"]);
        check("1:5 2:5 1:5 2:5", &["1: 5 5", "2: 5 5"]);
    }

    #[test]
    fn a_shorter_one_is_the_last() {
        check("1:5 1:3 1:5 1:5", &["1: 5 3", "1: 5 5"]);
        check("1:5 1:3 1:3", &["1: 5 3", "1: 3"]);
        check("1:3 1:5 2:1", &["1: 3", "1: 5", "2: 1"]);
    }

    #[test]
    fn empty_ones_travel_alone() {
        check("1:0 1:0", &["1: 0", "1: 0"]);
        check("1:5 1:0 1:5", &["1: 5", "1: 0", "1: 5"]);
    }

    #[test]
    fn trains_join_where_they_fit() {
        check("1:12/5", &["1: 5 5 2"]);
        check("1:10/5 1:12/5 1:5", &["1: 5 5 5 5 2", "1: 5"]);
        check("1:5 1:10/5 1:6/3", &["1: 5 5 5", "1: 3 3"]);
        check("1:10/5 1:4", &["1: 5 5 4"]);
    }

    #[test]
    fn a_train_is_bounded() {
        check("1:30000 1:30000 1:30000", &["1: 30000 30000", "1: 30000"]);
        let ones = |n: usize| vec!["1"; n].join(" ");
        check("1:60/1 1:4/1 1:1", &[&format!("1: {}", ones(64)), "1: 1"]);
    }
}
