//! Streaming base64 (RFC 4648 section 4).
//!
//! Decoder and encoder take their input in pieces and carry incomplete groups over to the next piece.

use std::fmt;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Value of bytes outside the alphabet.
const NONE: u8 = 0xff;

const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut at = 0;
    while at < ALPHABET.len() {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values
};

/// The text is not base64.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct InvalidBase64;

impl fmt::Display for InvalidBase64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected base64, found a byte or padding that does not belong there")
    }
}

impl std::error::Error for InvalidBase64 {}

/// Base64 decoder. Further groups may follow padding, because senders encode in pieces too.
#[derive(Debug, Default)]
pub struct Decoder {
    bits: u32,
    /// Characters of the current group, padding included.
    have: u8,
    padded: bool,
}

impl Decoder {
    /// Decodes `text` in place and returns the number of decoded bytes at its front.
    ///
    /// # Errors
    /// [`InvalidBase64`]; the content of `text` is unspecified then.
    pub fn decode(&mut self, text: &mut [u8]) -> Result<usize, InvalidBase64> {
        let mut len = 0;
        for at in 0..text.len() {
            if text[at] == b'=' {
                self.pad()?;
                continue;
            }
            let value = VALUES[usize::from(text[at])];
            if value == NONE || self.padded {
                return Err(InvalidBase64);
            }
            self.bits = self.bits << 6 | u32::from(value);
            self.have += 1;
            // The second character completes a byte, and so does each that follows.
            if self.have > 1 {
                text[len] = (self.bits >> (8 - 2 * self.have)) as u8;
                len += 1;
            }
            if self.have == 4 {
                *self = Self::default();
            }
        }
        Ok(len)
    }

    /// Accepts padding where a byte is complete and the bits left over are zero.
    fn pad(&mut self) -> Result<(), InvalidBase64> {
        let left = match (self.have, self.padded) {
            (2, _) => 0b1111,
            (3, false) => 0b11,
            (3, true) => 0,
            _ => return Err(InvalidBase64),
        };
        if self.bits & left != 0 {
            return Err(InvalidBase64);
        }
        (self.have, self.padded) = (self.have + 1, true);
        if self.have == 4 {
            *self = Self::default();
        }
        Ok(())
    }

    /// Reports whether the text may end here: no group is incomplete.
    pub fn is_complete(&self) -> bool {
        self.have == 0
    }
}

/// Encoder of base64 text.
#[derive(Debug, Default)]
pub struct Encoder {
    carried: [u8; 2],
    count: usize,
}

impl Encoder {
    /// Appends all complete groups to `out`; up to two bytes wait for the next piece.
    pub fn encode(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        out.reserve((self.count + bytes.len()) / 3 * 4);
        while self.count > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return };
            bytes = rest;
            if self.count == 2 {
                write_group([self.carried[0], self.carried[1], byte], 4, out);
                self.count = 0;
            } else {
                (self.carried[1], self.count) = (byte, 2);
            }
        }
        let (groups, rest) = bytes.as_chunks::<3>();
        groups.iter().for_each(|&group| write_group(group, 4, out));
        self.carried[..rest.len()].copy_from_slice(rest);
        self.count = rest.len();
    }

    /// Appends the waiting bytes to `out`, with padding.
    pub fn pad(&mut self, out: &mut Vec<u8>) {
        let [first, second] = self.carried;
        match std::mem::take(&mut self.count) {
            0 => {}
            1 => write_group([first, 0, 0], 2, out),
            _ => write_group([first, second, 0], 3, out),
        }
    }
}

/// Encodes all of `bytes`, with padding.
pub fn encode(bytes: &[u8]) -> String {
    let (mut encoder, mut text) = (Encoder::default(), Vec::new());
    encoder.encode(bytes, &mut text);
    encoder.pad(&mut text);
    // The alphabet is ASCII.
    String::from_utf8(text).unwrap_or_default()
}

/// Appends the first `characters` of a group, and padding for the rest.
fn write_group(group: [u8; 3], characters: usize, out: &mut Vec<u8>) {
    let [a, b, c] = group.map(u32::from);
    let bits = a << 16 | b << 8 | c;
    let letter = |place: usize| match place < characters {
        true => ALPHABET[(bits >> (18 - 6 * place) & 63) as usize],
        false => b'=',
    };
    out.extend_from_slice(&std::array::from_fn::<u8, 4, _>(letter));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &str, step: usize) -> Result<Vec<u8>, InvalidBase64> {
        let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
        for piece in text.as_bytes().chunks(step) {
            let mut piece = piece.to_vec();
            let len = decoder.decode(&mut piece)?;
            bytes.extend_from_slice(&piece[..len]);
        }
        decoder.is_complete().then_some(bytes).ok_or(InvalidBase64)
    }

    #[test]
    fn the_examples_of_the_rfc_round_trip() {
        let table = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (bytes, text) in table {
            let (mut encoder, mut out) = (Encoder::default(), Vec::new());
            encoder.encode(bytes.as_bytes(), &mut out);
            encoder.pad(&mut out);
            assert_eq!(out, text.as_bytes());
            for step in 1..6 {
                assert_eq!(decoded(text, step), Ok(bytes.as_bytes().to_vec()), "{text} by {step}");
            }
        }
    }

    #[test]
    fn padded_pieces_may_follow_each_other() {
        for step in 1..9 {
            assert_eq!(decoded("Zg==Zm8=Zm9v", step), Ok(b"ffofoo".to_vec()), "by {step}");
        }
    }

    #[test]
    fn invalid_base64_is_rejected() {
        let table = [
            "Z", "Zg", "Zm8", "Zg=", "=", "Z===", "Zg=a", "Zg=g", "Zm8==", "Z g=", "Zm9v\n", "Zm-_", "Zh==",
            "Zm9=",
        ];
        for text in table {
            for step in 1..5 {
                assert_eq!(decoded(text, step), Err(InvalidBase64), "{text:?} by {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn encoded_bytes_decode_whatever_the_pieces(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..8),
            step in 1_usize..30,
        ) {
            let (mut encoder, mut text, mut all) = (Encoder::default(), Vec::new(), Vec::new());
            for (piece, ends) in &pieces {
                encoder.encode(piece, &mut text);
                if *ends {
                    encoder.pad(&mut text);
                }
                all.extend_from_slice(piece);
            }
            encoder.pad(&mut text);
            let text = String::from_utf8(text).expect("letters");
            prop_assert_eq!(decoded(&text, step), Ok(all));
        }

        #[test]
        fn no_bytes_cause_a_panic(mut text in prop::collection::vec(any::<u8>(), 0..100)) {
            let len = text.len();
            prop_assert!(Decoder::default().decode(&mut text).unwrap_or(0) <= len);
        }
    }
}
