//! Header edits: fields to drop and lines to append.

/// Edits of a header section or a trailer section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Names, in lower case, of fields to drop when they are received.
    pub dropped: Vec<String>,
    /// Complete lines to append to a header section, each with its CR LF.
    pub appended: Vec<u8>,
}

impl HeaderEdits {
    /// Reports whether received lines of the field `name` are dropped.
    #[inline]
    pub fn drops(&self, name: &str) -> bool {
        self.dropped.iter().any(|dropped| dropped.eq_ignore_ascii_case(name))
    }
}
