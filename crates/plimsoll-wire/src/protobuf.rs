//! The protobuf wire format, as far as health checks and load reports need it.
//!
//! Source: protobuf's "Encoding". Parsing is strict: truncated messages and lengths past the end are malformed.
//! Unknown fields are skipped.

/// Most levels of nested groups, as in protobuf's own parsers.
const MAX_DEPTH: u8 = 100;

/// Reason why a message is malformed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MalformedMessage(&'static str);

impl std::fmt::Display for MalformedMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for MalformedMessage {}

const TRUNCATED: MalformedMessage = MalformedMessage("the message is truncated");

/// Wire types, in the low three bits of a field's key.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LEN: u8 = 2;
const GROUP: u8 = 3;
const END_GROUP: u8 = 4;
const FIXED32: u8 = 5;

/// Appends a string field to `out`.
pub fn write_string(out: &mut Vec<u8>, field: u32, text: &str) {
    write_varint(out, u64::from(field) << 3 | u64::from(LEN));
    write_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Value of a field, by its wire type.
#[derive(Copy, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'m> {
    /// Integer of any type, encoded as a varint.
    Varint(u64),
    /// Eight bytes, read as a double.
    Double(f64),
    /// String, bytes or embedded message.
    Bytes(&'m [u8]),
    /// Skipped value of another wire type.
    Skipped,
}

/// Parses the field at the front of a message and advances past it. Returns its number and value, or `None` at the
/// end.
///
/// # Errors
/// [`MalformedMessage`] with the reason.
pub fn next_field<'m>(message: &mut &'m [u8]) -> Result<Option<(u32, Value<'m>)>, MalformedMessage> {
    if message.is_empty() {
        return Ok(None);
    }
    let (number, wire_type) = key(message)?;
    let value = match wire_type {
        VARINT => Value::Varint(varint(message)?),
        FIXED64 => {
            let (bytes, rest) = message.split_first_chunk().ok_or(TRUNCATED)?;
            *message = rest;
            Value::Double(f64::from_le_bytes(*bytes))
        }
        LEN => {
            let len = usize::try_from(varint(message)?).map_err(|_| TRUNCATED)?;
            let (bytes, rest) = message.split_at_checked(len).ok_or(TRUNCATED)?;
            *message = rest;
            Value::Bytes(bytes)
        }
        END_GROUP => return Err(MalformedMessage("a group ends without a start")),
        _ => {
            skip(message, number, wire_type, MAX_DEPTH)?;
            Value::Skipped
        }
    };
    Ok(Some((number, value)))
}

/// Returns the integer in the field `wanted`: the last one if there are several, `None` if there is none. A field
/// of another wire type is skipped.
///
/// # Errors
/// [`MalformedMessage`] with the reason.
pub fn find_varint(mut message: &[u8], wanted: u32) -> Result<Option<u64>, MalformedMessage> {
    let mut found = None;
    while let Some((number, value)) = next_field(&mut message)? {
        if let (true, Value::Varint(value)) = (number == wanted, value) {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Parses a key into field number and wire type.
fn key(bytes: &mut &[u8]) -> Result<(u32, u8), MalformedMessage> {
    let key = u32::try_from(varint(bytes)?).map_err(|_| MalformedMessage("a field number is too large"))?;
    match (key >> 3, key as u8 & 7) {
        (0, _) => Err(MalformedMessage("a field number is 0")),
        (_, 6..) => Err(MalformedMessage("a wire type is unknown")),
        known => Ok(known),
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, MalformedMessage> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(TRUNCATED)?;
        *bytes = rest;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(MalformedMessage("a varint has more than 64 bits"))
}

fn skip(bytes: &mut &[u8], field: u32, wire_type: u8, depth: u8) -> Result<(), MalformedMessage> {
    let len = match wire_type {
        VARINT => return varint(bytes).map(drop),
        GROUP => return skip_group(bytes, field, depth.checked_sub(1)),
        FIXED64 => 8,
        FIXED32 => 4,
        _ => usize::try_from(varint(bytes)?).map_err(|_| TRUNCATED)?,
    };
    *bytes = bytes.get(len..).ok_or(TRUNCATED)?;
    Ok(())
}

fn skip_group(bytes: &mut &[u8], field: u32, depth: Option<u8>) -> Result<(), MalformedMessage> {
    let depth = depth.ok_or(MalformedMessage("groups are nested too deep"))?;
    loop {
        match key(bytes)? {
            (number, END_GROUP) if number == field => return Ok(()),
            (_, END_GROUP) => return Err(MalformedMessage("a group ends without a start")),
            (number, wire_type) => skip(bytes, number, wire_type, depth)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_value_counts_and_unknown_fields_are_skipped() {
        let table: [(&[u8], Option<u64>); 10] = [
            (b"", None),
            (b"\x08\x01", Some(1)),
            (b"\x08\x01\x08\x02", Some(2)),
            (b"\x08\x81\x00", Some(1)),
            (b"\x10\x05\x08\x01", Some(1)),
            (b"\x19\0\0\0\0\0\0\0\0\x08\x01", Some(1)),
            (b"\x22\x02\x08\x07\x08\x01", Some(1)),
            (b"\x2d\0\0\0\0\x08\x01", Some(1)),
            // Nested groups, with a field of the wanted number inside.
            (b"\x33\x08\x07\x3b\x3c\x34\x08\x01", Some(1)),
            // The wanted field as a string is skipped.
            (b"\x0a\x01x", None),
        ];
        for (message, expected) in table {
            assert_eq!(find_varint(message, 1), Ok(expected), "{message:?}");
        }
        let negative = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(find_varint(negative, 1), Ok(Some(u64::MAX)));
    }

    #[test]
    fn malformed_messages_are_rejected() {
        let deep: Vec<u8> = [0x33; 101].into_iter().chain([0x34; 101]).collect();
        let table: [(&[u8], &str); 12] = [
            (b"\x08", "truncated"),
            (b"\x08\x80", "truncated"),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "64 bits"),
            (b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "64 bits"),
            (b"\x00\x01", "number is 0"),
            (b"\x0e", "type is unknown"),
            (b"\x80\x80\x80\x80\x10\x01", "too large"),
            (b"\x12\x05abc", "truncated"),
            (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "truncated"),
            (b"\x0c", "without a start"),
            (b"\x33\x3c", "without a start"),
            (&deep, "too deep"),
        ];
        for (message, why) in table {
            let error = find_varint(message, 1).expect_err("malformed");
            assert!(error.to_string().contains(why), "{message:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(message in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either_way = find_varint(&message, 1);
        }

        #[test]
        fn a_varint_is_found_among_other_fields(value: u64, before in "[a-z]{0,300}", after: u64) {
            let mut message = Vec::new();
            write_string(&mut message, 7, &before);
            write_varint(&mut message, 1 << 3);
            write_varint(&mut message, value);
            write_varint(&mut message, 2 << 3);
            write_varint(&mut message, after);
            prop_assert_eq!(find_varint(&message, 1), Ok(Some(value)));
            // A truncated message is malformed, or lacks the fields behind the cut.
            for cut in 0..message.len() {
                let found = find_varint(&message[..cut], 1);
                prop_assert!(found.is_err() || found == Ok(None) || found == Ok(Some(value)));
            }
        }
    }
}
