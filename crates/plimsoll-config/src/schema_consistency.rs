//! Whether the schema, the reader, the examples and the guide say the same.

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

/// Set `UPDATE_SCHEMA=1` to write it anew.
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
fn the_schema_knows_the_keys_the_reader_knows() {
    let schema = schema();
    for keys in keys::ALL {
        let block = block_at(&schema, keys.at);
        let told: BTreeSet<&str> =
            block["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let read: BTreeSet<&str> = keys.supported.iter().copied().collect();
        assert_eq!(told, read, "the keys of `{}`", keys.at);
        assert_eq!(block["additionalProperties"], json!(false), "{}", keys.at);
    }
}

/// The object schema of the blocks at a path like `listeners[].routes[]` or `pools.*.timeouts`.
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
fn the_schema_refuses_what_the_reader_refuses() {
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

/// The tidy form of a tree: of the pair of a switch and a block, the block.
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

/// As much of JSON Schema as ours uses; anything else in it is refused.
fn validate(root: &Json, schema: &Json, value: &Json) -> Result<(), String> {
    let Some(rules) = schema.as_object() else { return Err(format!("not a schema: {schema}")) };
    for (rule, with) in rules {
        let good = match rule.as_str() {
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
            "properties" | "$schema" | "title" | "description" | "$defs" => true,
            _ => return Err(format!("the rule {rule} is not known")),
        };
        if !good {
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
fn the_guide_lists_every_code_and_its_files_are_good() {
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
