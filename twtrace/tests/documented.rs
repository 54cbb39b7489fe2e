//! What is told of in the documents is what there is.

use std::{fs, path::Path};

use serde_json::{Value, json};
use twtrace::{
    needs::Needs,
    trust::{DOUBTS, Doubt, Section},
    view::figures::{Figure, ROW, RowKey, Unit},
};

/// The code in which each family of metrics is given its name.
const METRICS: &str =
    concat!(include_str!("../src/view/metrics/mod.rs"), include_str!("../src/trust.rs"));
/// The table of families.
const DAEMON: &str = include_str!("../../docs/DAEMON.md");

#[test]
fn every_metric_family_is_in_the_table() {
    let begins = |word: &&str| word.starts_with("twtrace_") || word.starts_with("process_");
    let names: Vec<_> = METRICS.split('"').filter(begins).collect();
    assert!(names.len() > 30, "the families are found: {names:?}");
    for name in names {
        let ends = ["", "_total", "_info"];
        let told = ends.iter().any(|end| DAEMON.contains(&format!("`{name}{end}`")));
        assert!(told, "docs/DAEMON.md does not tell of {name}");
    }
}

/// Compares a part of a document with what it is made from; with `INSTA_UPDATE=always` it is
/// written anew. The part is what stands between the line `begin` and the next line `end`.
fn assert_documented(file: &str, begin: &str, end: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let text = fs::read_to_string(&path).expect("the document is there");
    let (before, rest) = text.split_once(&format!("{begin}\n")).expect("the part begins");
    let (there, after) = rest.split_once(&format!("\n{end}\n")).expect("the part ends");
    if there == made.trim_end() {
        return;
    }
    let update = std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always");
    assert!(update, "docs/{file}: after {begin:?} there must be (INSTA_UPDATE=always):\n{made}");
    let text = format!("{before}{begin}\n{}\n{end}\n{after}", made.trim_end());
    fs::write(&path, text).expect("the document can be written");
}

/// The schema of a figure; `of_group` if null is told of by what it is in.
fn figure_schema(figure: &Figure, of_group: Needs) -> Value {
    let maybe_null = !of_group.has(figure.needs);
    let mut schema = match figure.unit {
        Unit::Count if maybe_null => json!({ "$ref": "#/$defs/known" }),
        Unit::Count => json!({ "$ref": "#/$defs/count" }),
        Unit::Millis => json!({ "$ref": "#/$defs/millis" }),
        Unit::Flag => json!({ "type": ["boolean", "null"] }),
    };
    schema["description"] = figure.sentence.into();
    schema
}

/// Keys and their schemas, one a line.
fn properties(indent: &str, entries: impl Iterator<Item = (&'static str, Value)>) -> String {
    let (keys, lines): (Vec<_>, Vec<_>) =
        entries.map(|(key, schema)| (key, format!("{indent}  \"{key}\": {schema}"))).unzip();
    format!(
        "{indent}\"required\": {},\n{indent}\"properties\": {{\n{}\n{indent}}}\n",
        json!(keys),
        lines.join(",\n")
    )
}

#[test]
fn the_schema_of_rows_tells_of_every_figure() {
    let entry = |entry: &'static RowKey| match entry {
        RowKey::One(figure) => (figure.key, figure_schema(figure, Needs::NOTHING)),
        RowKey::Group(group) => {
            let of = |figure: &Figure| (figure.key, figure_schema(figure, group.needs));
            let keys: Vec<_> = group.figures.iter().map(|figure| figure.key).collect();
            let null = group.needs != Needs::NOTHING;
            let schema = json!({
                "type": if null { json!(["object", "null"]) } else { json!("object") },
                "description": group.sentence,
                "required": keys,
                "properties": group.figures.iter().map(|figure| {
                    let (key, schema) = of(figure);
                    (key.to_owned(), schema)
                }).collect::<serde_json::Map<_, _>>(),
            });
            (group.key, schema)
        }
    };
    let made = properties("      ", ROW.iter().map(entry));
    assert_documented(
        "schema/summary-2.schema.json",
        "    \"counts\": {",
        "    }",
        &format!("      \"type\": \"object\",\n{made}"),
    );
}

#[test]
fn the_schema_tells_of_everything_that_makes_counts_less_than_exact() {
    let doubts = |place| {
        let schema = |doubt: &Doubt| {
            let kind = if doubt.needs == Needs::NOTHING { "count" } else { "known" };
            json!({ "$ref": format!("#/$defs/{kind}"), "description": doubt.sentence })
        };
        let here = DOUBTS.iter().filter(move |doubt| doubt.place == place);
        here.map(move |doubt| (doubt.key, schema(doubt)))
    };
    let audit = [("audit", json!({ "$ref": "#/$defs/audit" }))];
    let totals = properties("      ", doubts(Section::Totals).chain(audit));
    let begin = "      \"allOf\": [{ \"$ref\": \"#/$defs/counts\" }],";
    assert_documented("schema/summary-2.schema.json", begin, "    },", &totals);
    let trust = properties("      ", doubts(Section::Trust));
    let begin = "      \"description\": \"Whatever makes the counts less than exact.\",\n      \"type\": \"object\",";
    assert_documented("schema/summary-2.schema.json", begin, "    },", &trust);
}
