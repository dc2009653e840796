//! Replacement of a setting by a value from the file.

/// Replaces what held before, if there is something new.
pub(crate) fn set_if_given<T>(slot: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *slot = new;
    }
}
