//! docs/openapi.json says what is really answered.

use std::path::Path;

use serde_json::{Value, json};
use twtrace_common::EndReason;

use crate::{
    harness::{Harness, Reply},
    made_up::{end, entry},
};

fn read(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(path);
    let text = std::fs::read_to_string(&path).expect("the document is there");
    serde_json::from_str(&text).expect("it is JSON")
}

/// A schema by its reference, with the definitions it may refer to.
fn resolve(api: &Value, reference: &str) -> Value {
    let (file, pointer) = reference.split_once('#').unwrap_or((reference, ""));
    let document = if file.is_empty() { api.clone() } else { read(file) };
    let mut schema = document.pointer(pointer).expect("the reference leads somewhere").clone();
    if schema.get("$defs").is_none() && document.get("$defs").is_some() {
        schema["$defs"] = document["$defs"].clone();
    }
    schema
}

/// Puts what it refers to in the place of a reference out of this document, deeper ones as well.
fn inlined(api: &Value, schema: &Value) -> Value {
    match schema {
        Value::Object(map) => match map.get("$ref").and_then(Value::as_str) {
            Some(reference) if !reference.starts_with("#/$defs") => {
                let mut target = resolve(api, reference);
                // By itself, so that its own references are its own.
                target["$id"] = json!(format!("test:{}", reference.replace(['#', '$'], "_")));
                inlined(api, &target)
            }
            _ => map.iter().map(|(key, value)| (key.clone(), inlined(api, value))).collect(),
        },
        Value::Array(items) => items.iter().map(|item| inlined(api, item)).collect(),
        other => other.clone(),
    }
}

fn assert_fits(api: &Value, schema: &Value, document: &Value, what: &str) {
    let validator = jsonschema::validator_for(&inlined(api, schema)).expect("a schema");
    let faults: Vec<String> = validator
        .iter_errors(document)
        .map(|fault| format!("{}: {fault}", fault.instance_path))
        .collect();
    assert!(faults.is_empty(), "{what}: {faults:#?}\nin {document:#}");
}

fn content_type(reply: &Reply) -> String {
    let line = reply.head.lines().find(|line| line.to_lowercase().starts_with("content-type:"));
    line.expect("a content type").split_once(": ").expect("a value").1.to_owned()
}

fn served() -> Harness {
    let harness = Harness::start(|_| {});
    let mut events: Vec<_> = (1..=600).map(|id| entry(id, "10.2.0.2", false)).collect();
    events.push(end(&events[0], EndReason::Killed));
    harness.happen(events);
    harness
}

#[test]
fn every_path_answers_what_is_documented() {
    let harness = served();
    let api = read("openapi.json");
    for (path, operations) in api["paths"].as_object().expect("paths") {
        let target = path.replace("{peer}", "10.2.0.2:8080");
        let content = operations["get"]["responses"]["200"]["content"].as_object();
        let content = content.expect("content");
        let whole =
            content.keys().any(|kind| kind == "application/json" || kind.starts_with("text"));
        if !whole {
            continue;
        }
        let reply = harness.get(&target);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let kind = content_type(&reply);
        let documented = content.get(&kind).unwrap_or_else(|| panic!("{path}: {kind}"));
        let document = if kind == "application/json" { reply.json() } else { json!(reply.text()) };
        assert_fits(&api, &documented["schema"], &document, path);
    }
}

#[test]
fn answers_to_a_filter_are_what_is_documented() {
    let harness = served();
    let api = read("openapi.json");
    for path in ["/v1/summary", "/v1/peers", "/v1/diagnosis"] {
        let reply = harness.get(&format!("{path}?filter=timestamps+or+sport+=+1")).json();
        assert_eq!(reply["row_filter"]["filter"], "timestamps or sport = :1", "{path}");
        let pointer = format!(
            "/paths/{}/get/responses/200/content/application~1json/schema",
            path.replace('/', "~1")
        );
        assert_fits(&api, api.pointer(&pointer).expect("documented"), &reply, path);
    }
}

#[test]
fn every_line_of_a_stream_is_what_is_documented() {
    let harness = served();
    let api = read("openapi.json");
    for path in ["/v1/events", "/v1/summaries"] {
        let mut stream = harness.stream(path);
        harness.happen(vec![entry(1000, "10.2.0.3", true)]);
        let pointer = format!(
            "/paths/{}/get/responses/200/content/application~1x-ndjson/schema",
            path.replace('/', "~1")
        );
        let schema = api.pointer(&pointer).expect("documented");
        assert_fits(&api, schema, &stream.line(), path);
    }
}

#[test]
fn exactly_the_documented_parameters_are_taken() {
    let harness = served();
    let api = read("openapi.json");
    for (path, operations) in api["paths"].as_object().expect("paths") {
        let parameters = operations["get"]["parameters"].as_array().expect("parameters");
        let documented: Vec<&str> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "query")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let target = path.replace("{peer}", "10.2.0.2:8080");
        let reply = harness.get(&format!("{target}?no-such-parameter=1"));
        assert_eq!(reply.status, 400, "{path}");
        let error = reply.json()["error"].as_str().expect("a sentence").to_owned();
        let known = match documented.as_slice() {
            [] => "this takes none".to_owned(),
            known => format!("known are {}", known.join(", ")),
        };
        assert!(error.ends_with(&known), "{path}: {error}, documented {documented:?}");
    }
}

#[test]
fn faults_are_what_is_documented() {
    let harness = served();
    let api = read("openapi.json");
    for target in ["/v1/peers/10.7.7.7", "/v1/peers?top=x", "/nothing"] {
        let schema = json!({ "$ref": "#/components/schemas/fault" });
        assert_fits(&api, &schema, &harness.get(target).json(), target);
    }
}

#[test]
fn the_document_is_the_one_that_is_served() {
    assert_eq!(served().document("/v1/openapi.json"), read("openapi.json"));
}
