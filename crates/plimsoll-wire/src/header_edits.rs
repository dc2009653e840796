//! Header edits: fields to drop and lines to append.

use crate::field_names::folds_to;

/// Edits of a header section or a trailer section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Folded names ([`fold_name`](crate::field_names::fold_name)) of fields to drop, in every spelling.
    pub dropped: Vec<String>,
    /// Names of fields that decide about a request, in lower case and folded: other spellings are dropped.
    pub decisive: Vec<(String, String)>,
    /// Complete lines to append to a header section, each with its CR LF.
    pub appended: Vec<u8>,
}

impl HeaderEdits {
    /// Reports whether received lines of the field `name` are dropped.
    #[inline]
    pub fn drops(&self, name: &str) -> bool {
        self.dropped.iter().any(|dropped| folds_to(name, dropped))
            || (!self.decisive.is_empty() && self.is_alias_of_decisive(name))
    }

    /// Reports whether received trailer lines of the field `name` are dropped. A field that decides about a request
    /// has no effect in a trailer, so it must not have one at the destination.
    pub fn drops_trailer(&self, name: &str) -> bool {
        self.drops(name) || self.decisive.iter().any(|(_, folded)| folds_to(name, folded))
    }

    fn is_alias_of_decisive(&self, name: &str) -> bool {
        self.decisive.iter().any(|(_, folded)| folds_to(name, folded))
            && !self.decisive.iter().any(|(exact, _)| exact.eq_ignore_ascii_case(name))
    }

    /// Returns trailer lines without those that are dropped.
    pub fn keep_trailers<'t>(&self, lines: &'t [u8]) -> impl Iterator<Item = &'t [u8]> {
        lines.split_inclusive(|&byte| byte == b'\n').filter(|line| {
            let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
            !str::from_utf8(name).is_ok_and(|name| self.drops_trailer(name))
        })
    }
}
