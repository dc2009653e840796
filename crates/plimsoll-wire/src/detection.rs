//! Detection of a protocol by the first bytes of a connection.

/// Result of comparing the first bytes of a connection with a protocol.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Detection {
    /// The bytes belong to another protocol.
    No,
    /// The bytes match so far; more bytes are needed to decide.
    Perhaps,
    /// The bytes belong to this protocol.
    Yes,
}

impl Detection {
    /// Compares with bytes that every connection of the protocol begins with.
    #[inline]
    pub fn by_prefix(first: &[u8], prefix: &[u8]) -> Self {
        let n = first.len().min(prefix.len());
        match (first[..n] == prefix[..n], n == prefix.len()) {
            (false, _) => Self::No,
            (true, false) => Self::Perhaps,
            (true, true) => Self::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_once_it_is_complete() {
        for (first, detection) in [
            ("P", Detection::Perhaps),
            ("PRI", Detection::Yes),
            ("PRINT", Detection::Yes),
            ("PO", Detection::No),
        ] {
            assert_eq!(Detection::by_prefix(first.as_bytes(), b"PRI"), detection, "{first}");
        }
    }
}
