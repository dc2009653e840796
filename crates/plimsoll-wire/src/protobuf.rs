//! How the few messages of protobuf are written and read that are met here: they are not worth a compiler and a
//! crate.
//!
//! Source: protobuf's "Encoding". Read strictly: what breaks off or goes beyond its bounds is malformed; fields
//! that nobody knows here are passed over.

/// Groups may lie within one another; protobuf's own readers stop at a hundred.
const MAX_DEPTH: u8 = 100;

/// What is wrong with a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MalformedMessage(&'static str);

impl std::fmt::Display for MalformedMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

const CUT: MalformedMessage = MalformedMessage("it breaks off");

/// How a field is told, in the low bits of its key.
const NUMBER: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const TEXT: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
const FOUR_BYTES: u8 = 5;

/// Writes a field that is text.
pub fn write_string(out: &mut Vec<u8>, field: u32, text: &str) {
    write_varint(out, u64::from(field) << 3 | u64::from(TEXT));
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

/// What a field is told as.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Value<'m> {
    /// A whole number.
    Number(u64),
    /// Eight bytes, read as what a message here has in them.
    Double(f64),
    /// Text, bytes, or a message within this one.
    Bytes(&'m [u8]),
    /// In a form that no message here has.
    Strange,
}

/// Takes the next field from the front of a message; `None` at its end.
///
/// # Errors
/// The message is none.
pub fn next_field<'m>(message: &mut &'m [u8]) -> Result<Option<(u32, Value<'m>)>, MalformedMessage> {
    if message.is_empty() {
        return Ok(None);
    }
    let (number, form) = key(message)?;
    let value = match form {
        NUMBER => Value::Number(varint(message)?),
        EIGHT_BYTES => {
            let (bytes, rest) = message.split_first_chunk().ok_or(CUT)?;
            *message = rest;
            Value::Double(f64::from_le_bytes(*bytes))
        }
        TEXT => {
            let len = usize::try_from(varint(message)?).map_err(|_| CUT)?;
            let (bytes, rest) = message.split_at_checked(len).ok_or(CUT)?;
            *message = rest;
            Value::Bytes(bytes)
        }
        GROUP_END => return Err(MalformedMessage("a group ends that never began")),
        _ => {
            skip(message, number, form, MAX_DEPTH)?;
            Value::Strange
        }
    };
    Ok(Some((number, value)))
}

/// The number in the field `wanted`: of several the last, and `None` if there is none. The same field in another
/// form is one that nobody knows.
///
/// # Errors
/// The message is none.
pub fn find_varint(mut message: &[u8], wanted: u32) -> Result<Option<u64>, MalformedMessage> {
    let mut found = None;
    while let Some((number, value)) = next_field(&mut message)? {
        if let (true, Value::Number(value)) = (number == wanted, value) {
            found = Some(value);
        }
    }
    Ok(found)
}

/// A field's number and its form.
fn key(bytes: &mut &[u8]) -> Result<(u32, u8), MalformedMessage> {
    let key = u32::try_from(varint(bytes)?).map_err(|_| MalformedMessage("a field's number is too large"))?;
    match (key >> 3, key as u8 & 7) {
        (0, _) => Err(MalformedMessage("a field has the number 0")),
        (_, 6..) => Err(MalformedMessage("a field has a form that is none")),
        known => Ok(known),
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, MalformedMessage> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(CUT)?;
        *bytes = rest;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(MalformedMessage("a number has more than 64 bits"))
}

fn skip(bytes: &mut &[u8], field: u32, form: u8, depth: u8) -> Result<(), MalformedMessage> {
    let len = match form {
        NUMBER => return varint(bytes).map(drop),
        GROUP => return skip_group(bytes, field, depth.checked_sub(1)),
        EIGHT_BYTES => 8,
        FOUR_BYTES => 4,
        _ => usize::try_from(varint(bytes)?).map_err(|_| CUT)?,
    };
    *bytes = bytes.get(len..).ok_or(CUT)?;
    Ok(())
}

fn skip_group(bytes: &mut &[u8], field: u32, depth: Option<u8>) -> Result<(), MalformedMessage> {
    let depth = depth.ok_or(MalformedMessage("its groups are nested too deep"))?;
    loop {
        match key(bytes)? {
            (number, GROUP_END) if number == field => return Ok(()),
            (_, GROUP_END) => return Err(MalformedMessage("a group ends that never began")),
            (number, form) => skip(bytes, number, form, depth)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_of_a_field_counts_and_what_is_unknown_is_passed_over() {
        let table: [(&[u8], Option<u64>); 10] = [
            (b"", None),
            (b"\x08\x01", Some(1)),
            (b"\x08\x01\x08\x02", Some(2)),
            (b"\x08\x81\x00", Some(1)),
            (b"\x10\x05\x08\x01", Some(1)),
            (b"\x19\0\0\0\0\0\0\0\0\x08\x01", Some(1)),
            (b"\x22\x02\x08\x07\x08\x01", Some(1)),
            (b"\x2d\0\0\0\0\x08\x01", Some(1)),
            // A group within a group, with a field of our number in it.
            (b"\x33\x08\x07\x3b\x3c\x34\x08\x01", Some(1)),
            // Our field as text is another field.
            (b"\x0a\x01x", None),
        ];
        for (message, expected) in table {
            assert_eq!(find_varint(message, 1), Ok(expected), "{message:?}");
        }
        let negative = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(find_varint(negative, 1), Ok(Some(u64::MAX)));
    }

    #[test]
    fn what_is_malformed_is_told() {
        let deep: Vec<u8> = [0x33; 101].into_iter().chain([0x34; 101]).collect();
        let table: [(&[u8], &str); 12] = [
            (b"\x08", "breaks off"),
            (b"\x08\x80", "breaks off"),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "64 bits"),
            (b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "64 bits"),
            (b"\x00\x01", "the number 0"),
            (b"\x0e", "a form that is none"),
            (b"\x80\x80\x80\x80\x10\x01", "too large"),
            (b"\x12\x05abc", "breaks off"),
            (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "breaks off"),
            (b"\x0c", "never began"),
            (b"\x33\x3c", "never began"),
            (&deep, "too deep"),
        ];
        for (message, why) in table {
            let told = find_varint(message, 1).expect_err("malformed");
            assert!(told.to_string().contains(why), "{message:?}: {told}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall(message in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either_way = find_varint(&message, 1);
        }

        #[test]
        fn a_number_is_found_among_strangers(value: u64, before in "[a-z]{0,300}", after: u64) {
            let mut message = Vec::new();
            write_string(&mut message, 7, &before);
            write_varint(&mut message, 1 << 3);
            write_varint(&mut message, value);
            write_varint(&mut message, 2 << 3);
            write_varint(&mut message, after);
            prop_assert_eq!(find_varint(&message, 1), Ok(Some(value)));
            // And cut anywhere within, it is malformed or lacks what was cut.
            for cut in 0..message.len() {
                let found = find_varint(&message[..cut], 1);
                prop_assert!(found.is_err() || found == Ok(None) || found == Ok(Some(value)));
            }
        }
    }
}
