//! Fields of a packet: numbers, binary data and text (section 1.5).

use super::Malformed;

/// Unparsed bytes of a packet.
pub(super) struct Rest<'b>(pub(super) &'b [u8]);

impl<'b> Rest<'b> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|byte| byte[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Parses binary data behind its length (section 1.5.6).
    pub(super) fn binary(&mut self) -> Result<&'b [u8], Malformed> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// Parses a UTF-8 string without control characters and non-characters, which a receiver may treat as malformed
    /// (section 1.5.4), and which brokers do.
    pub(super) fn text(&mut self) -> Result<&'b [u8], Malformed> {
        let bytes = self.binary()?;
        let is_plain = |c: char| {
            !c.is_control() && !matches!(u32::from(c), 0xfdd0..=0xfdef) && u32::from(c) & 0xfffe != 0xfffe
        };
        match str::from_utf8(bytes) {
            Ok(text) if text.chars().all(is_plain) => Ok(bytes),
            _ => Err(Malformed),
        }
    }
}
