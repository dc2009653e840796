//! JSON Schema of the configuration file, for editors.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Value, json};

use crate::schema_types::File;

/// Returns the JSON Schema (draft 2020-12) of a configuration file, with descriptions and defaults.
///
/// It describes one block per feature: the pair of a boolean and a block with the same key, as in an example of the
/// specification, is valid YAML here but cannot be expressed in JSON Schema.
pub fn schema() -> String {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(without_null));
    let schema = settings.into_generator().into_root_schema_for::<File>();
    // A `Schema` is always serializable.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// Removes `null` from the types of optional keys: a key may be absent, but not null.
fn without_null(schema: &mut Schema) {
    let null = json!({"type": "null"});
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| *choice != null);
        if let [Value::Object(one)] = choices.as_slice() {
            let one = one.clone();
            schema.remove("anyOf");
            for (key, value) in one {
                // The description of the key stands above the description of its type.
                schema.ensure_object().entry(key).or_insert(value);
            }
        }
    }
}
