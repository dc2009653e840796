//! Body of the fuzz target for the text of a configuration.

use std::path::Path;

/// Any text loads or is reported: problems are rendered, lie within the text, and do not depend on the run.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let env = |name: &str| name.len().is_multiple_of(2).then(|| "value".to_owned());
    // No such folder: files that the text names are reported, not read.
    let dir = Path::new("/nonexistent");
    let loaded = plimsoll_config::load(text, "plimsoll.yaml", dir, &env);
    let _rendered = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
    assert!(loaded.config.is_some() || !loaded.problems.is_empty());
    let again = plimsoll_config::load(text, "plimsoll.yaml", dir, &env);
    assert_eq!(again.problems, loaded.problems);
    assert_eq!(again.config.is_some(), loaded.config.is_some());
}
