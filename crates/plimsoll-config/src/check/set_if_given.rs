//! Replacement of a setting by a value from the file.

/// Replaces a setting if the file gives a new value.
pub(crate) fn set_if_given<T>(slot: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *slot = new;
    }
}
