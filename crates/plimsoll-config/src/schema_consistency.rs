//! Tests that compare the schema with the reader, the examples and the documentation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde_json::{Map, Value as Json, json};

use crate::check::keys;
use crate::problem::{Code, Problems};
use crate::tree::{Kind, Node, Value};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn schema() -> Json {
    serde_json::from_str(&crate::schema()).unwrap()
}

/// Compares the published schema, or writes it if `UPDATE_SCHEMA=1` is set.
#[test]
fn the_published_schema_is_current() {
    let path = root("config.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, crate::schema()).unwrap();
    }
    let published = std::fs::read_to_string(path).unwrap();
    assert!(
        published == crate::schema(),
        "run the tests with UPDATE_SCHEMA=1, and commit config.schema.json"
    );
}

#[test]
fn the_schema_has_the_keys_of_the_reader() {
    let schema = schema();
    for keys in keys::ALL {
        let block = block_at(&schema, keys.at);
        let described: BTreeSet<&str> =
            block["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let read: BTreeSet<&str> = keys.supported.iter().copied().collect();
        assert_eq!(described, read, "the keys of `{}`", keys.at);
        assert_eq!(block["additionalProperties"], json!(false), "{}", keys.at);
    }
}

/// Returns the object schema of the blocks at a path like `listeners[].routes[]` or `pools.*.timeouts`.
fn block_at<'s>(schema: &'s Json, at: &str) -> &'s Json {
    let mut here = schema;
    for step in at.split('.').filter(|step| !step.is_empty()) {
        let (key, items) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
        here = match key {
            "*" => &here["additionalProperties"],
            _ => &here["properties"][key],
        };
        here = resolve(schema, here);
        if items {
            here = resolve(schema, &here["items"]);
        }
        if let Some(choices) = here["anyOf"].as_array() {
            let block =
                choices.iter().map(|choice| resolve(schema, choice)).find(|c| c["properties"].is_object());
            here = block.unwrap_or_else(|| panic!("no block at {at}"));
        }
    }
    here
}

fn resolve<'s>(schema: &'s Json, here: &'s Json) -> &'s Json {
    match here["$ref"].as_str() {
        Some(pointer) => resolve(schema, schema.pointer(pointer.trim_start_matches('#')).unwrap()),
        None => here,
    }
}

#[test]
fn every_example_is_valid_by_the_schema() {
    let schema = schema();
    let mut seen = 0;
    for entry in std::fs::read_dir(root("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let tree = crate::parse::parse(&text, 0, &mut Problems::default()).unwrap();
        validate(&schema, &schema, &json(&tree)).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        seen += 1;
    }
    assert!(seen >= 6, "{seen} examples");
}

#[test]
fn the_schema_rejects_what_the_reader_rejects() {
    let schema = schema();
    for text in [
        "listen: 8080",
        "listn: \":80\"",
        "workers: 0",
        "shutdown: {grace: 30}",
        "shutdown: {grace: 30 s}",
        "load_balancer: {algorithm: best}",
        "load_balancer: {failover: yes}",
        "load_balancer: {retry: {when: [\"status:200\"]}}",
        "pools: {p: {}}",
        "pools: {p: {destinations: [{weight: 1}]}}",
        "access_log:",
    ] {
        let tree = crate::parse::parse(text, 0, &mut Problems::default()).unwrap();
        assert!(validate(&schema, &schema, &json(&tree)).is_err(), "{text}");
    }
}

/// Converts a tree to JSON. The last of several equal keys is kept.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Scalar(scalar) => match scalar.kind {
            Kind::Null => Json::Null,
            Kind::Bool(on) => json!(on),
            Kind::Integer(number) => json!(number),
            Kind::Float(number) => json!(number),
            Kind::Text | Kind::Unresolved => json!(scalar.text),
        },
        Value::List(items) => items.iter().map(json).collect(),
        Value::Block(entries) => {
            let mut map = Map::new();
            for entry in entries {
                map.insert(entry.key.text.to_string(), json(&entry.value));
            }
            Json::Object(map)
        }
    }
}

/// Validates a value with the rules of JSON Schema that the schema uses. Any other rule is an error.
fn validate(root: &Json, schema: &Json, value: &Json) -> Result<(), String> {
    let Some(rules) = schema.as_object() else { return Err(format!("not a schema: {schema}")) };
    for (rule, with) in rules {
        let valid = match rule.as_str() {
            "$ref" => return validate(root, resolve(root, schema), value),
            "anyOf" => with.as_array().unwrap().iter().any(|choice| validate(root, choice, value).is_ok()),
            "const" => with == value,
            "enum" => with.as_array().unwrap().contains(value),
            "type" => is_type(with.as_str().unwrap(), value),
            "minimum" => value.as_f64().is_none_or(|v| v >= with.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|v| v <= with.as_f64().unwrap()),
            "pattern" => {
                value.as_str().is_none_or(|v| Regex::new(with.as_str().unwrap()).unwrap().is_match(v))
            }
            "required" => {
                with.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some())
            }
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| validate(root, with, item))?;
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Json::as_object);
                for (key, item) in value.as_object().into_iter().flatten() {
                    match known.and_then(|known| known.get(key)) {
                        Some(property) => validate(root, property, item)?,
                        None if *with == json!(false) => return Err(format!("no key {key}")),
                        None => validate(root, with, item)?,
                    }
                }
                true
            }
            "properties" | "$schema" | "title" | "description" | "default" | "$defs" => true,
            _ => return Err(format!("the rule {rule} is not known")),
        };
        if !valid {
            return Err(format!("{value} is not {rule} {with}"));
        }
    }
    Ok(())
}

fn is_type(name: &str, value: &Json) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    }
}

#[test]
fn the_guide_lists_every_code_and_its_files_are_valid() {
    let guide = std::fs::read_to_string(root("docs/guide/configuration.md")).unwrap();
    for code in Code::ALL {
        assert!(guide.contains(&format!("| `{code}` | ")), "the guide lacks {code}");
    }
    let files: Vec<&str> =
        guide.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(files.len() >= 3);
    for text in files {
        let loaded = crate::load(text, "guide", Path::new(""), &|_| None);
        assert!(loaded.problems.is_empty(), "{}", crate::render_text(&loaded.problems, &loaded.sources));
    }
}

/// Keys of the schema with their defaults, by the paths that docs/defaults.md uses.
fn documented_defaults(schema: &Json) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for keys in keys::ALL {
        let block = block_at(schema, keys.at);
        for (key, property) in block["properties"].as_object().unwrap() {
            let path = if keys.at.is_empty() { key.clone() } else { format!("{}.{key}", keys.at) };
            let path =
                path.trim_start_matches("load_balancer.").replace("pools.*.destinations", "destinations");
            if let Some(default) = property.get("default") {
                rows.push((path, documented(default)));
            }
        }
    }
    rows
}

/// A default as docs/defaults.md writes it.
fn documented(default: &Json) -> String {
    match default {
        Json::String(text) if text.is_empty() => "\"\"".to_owned(),
        Json::String(text) => text.clone(),
        Json::Array(items) if !items.is_empty() => {
            items.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[test]
fn the_docs_list_every_default_with_a_reason() {
    let text = std::fs::read_to_string(root("docs/defaults.md")).unwrap();
    let has_reason =
        |row: &str| text.lines().any(|line| line.strip_prefix(row).is_some_and(|r| r.len() > 10));
    let rows: Vec<String> = documented_defaults(&schema())
        .into_iter()
        .map(|(path, value)| format!("| `{path}` | `{value}` | "))
        .collect();
    assert!(rows.len() > 100, "{} defaults", rows.len());
    let missing: Vec<&String> = rows.iter().filter(|row| !has_reason(row)).collect();
    assert!(missing.is_empty(), "docs/defaults.md lacks these rows with a reason: {missing:#?}");
}

#[test]
fn every_default_is_valid_by_the_schema() {
    let schema = schema();
    for keys in keys::ALL {
        for (key, property) in block_at(&schema, keys.at)["properties"].as_object().unwrap() {
            if let Some(default) = property.get("default") {
                validate(&schema, property, default)
                    .unwrap_or_else(|why| panic!("the default of `{key}` in `{}`: {why}", keys.at));
            }
        }
    }
}

#[test]
fn every_key_of_the_schema_has_a_description() {
    let schema = schema();
    for keys in keys::ALL {
        for (key, property) in block_at(&schema, keys.at)["properties"].as_object().unwrap() {
            let words = property["description"].as_str().unwrap_or_default().split_whitespace().count();
            assert!(words >= 3, "`{key}` in `{}` has no description", keys.at);
        }
    }
}
