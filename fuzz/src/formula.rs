//! Body of the fuzz target for formulas.

use plimsoll_core::formula::Formula;

/// Any text parses or is rejected at an offset within it; a formula keeps its text.
pub fn formula(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Formula::parse(text) {
        Ok(formula) => {
            assert_eq!(formula.text(), text);
            let again = Formula::parse(formula.text()).expect("the same formula");
            assert_eq!(again.named(), formula.named());
        }
        Err(error) => {
            assert!(error.offset <= text.len() && text.is_char_boundary(error.offset));
            assert!(!error.message.is_empty());
        }
    }
}
