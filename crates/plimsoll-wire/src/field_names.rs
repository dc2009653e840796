//! Names of header fields as the names of variables that CGI, WSGI, PHP and Rack make of them.

/// Reports whether a field name is equal to `folded` where it becomes the name of a variable: without case, and with
/// `-` for every character that is neither a letter nor a digit. `folded` is in that form already.
#[inline]
pub fn folds_to(name: &str, folded: &str) -> bool {
    folds_to_bytes(name.as_bytes(), folded.as_bytes())
}

/// Reports whether the bytes of a field name are equal to `folded`, as [`folds_to`] does.
#[inline]
pub(crate) fn folds_to_bytes(name: &[u8], folded: &[u8]) -> bool {
    name.len() == folded.len() && name.iter().zip(folded).all(|(&byte, &expected)| fold(byte) == expected)
}

#[inline]
const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Folds a field name to the form that [`folds_to`] compares with.
pub fn fold_name(name: &str) -> String {
    name.bytes().map(|byte| char::from(fold(byte))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_to_letters_digits_and_hyphens() {
        assert_eq!(fold_name("X_Forwarded.For"), "x-forwarded-for");
        assert!(folds_to("X_FORWARDED-FOR", "x-forwarded-for") && folds_to("x~a", "x-a"));
        assert!(
            !folds_to("XForwardedFor", "x-forwarded-for") && !folds_to("x-forwarded-fo", "x-forwarded-for")
        );
    }
}
