// SPDX-License-Identifier: GPL-2.0-only
//! doc/events.schema.json, the Rust types and xenwarden-events(7) say the same: every kind
//! and every field of one is in the others, with its type.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod samples;

use boon::{Compiler, SchemaIndex, Schemas};
use samples::{events, kinds, samples};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use xenwarden::event::Coverage;
use xenwarden::event::kind::KINDS;
use xenwarden::event::{Action, Refused};
use xenwarden::event::{Cause, Closing, Confidence, Event, Gap, ResetCause, Severity, Timestamp};

fn in_repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

struct Schema {
    document: Value,
    compiled: Schemas,
    index: SchemaIndex,
}

impl Schema {
    fn load() -> Self {
        let document: Value =
            serde_json::from_str(&in_repository("doc/events.schema.json")).expect("JSON");
        let mut compiler = Compiler::new();
        let mut compiled = Schemas::new();
        let name = "events.schema.json";
        compiler
            .add_resource(name, document.clone())
            .expect("a schema");
        let index = compiler
            .compile(name, &mut compiled)
            .unwrap_or_else(|error| panic!("{error:#}"));
        Self {
            document,
            compiled,
            index,
        }
    }

    fn accepts(&self, event: &Value) -> bool {
        self.compiled.validate(event, self.index).is_ok()
    }

    fn of_kind(&self, kind: &str) -> &Value {
        &self.document["$defs"][kind]
    }

    /// The fields that the schema names for a kind, the common ones included.
    fn fields(&self, kind: &str) -> BTreeSet<String> {
        let common = self.document["properties"].as_object().expect("properties");
        let own = self.of_kind(kind)["properties"].as_object();
        let own = own.unwrap_or_else(|| panic!("{kind} is in the schema"));
        common.keys().chain(own.keys()).cloned().collect()
    }
}

fn json(event: &Event) -> Map<String, Value> {
    match serde_json::to_value(event) {
        Ok(Value::Object(fields)) => fields,
        other => panic!("{other:?}"),
    }
}

fn with(fields: &Map<String, Value>, name: &str, value: Value) -> Value {
    let mut fields = fields.clone();
    fields.insert(name.to_owned(), value);
    Value::Object(fields)
}

#[test]
fn every_event_is_of_the_schemas_form_and_comes_back_as_it_was() {
    let schema = Schema::load();
    for event in events() {
        let line = serde_json::to_string(&event).expect("JSON");
        assert!(!line.contains('\n'), "one line: {line}");
        let value: Value = serde_json::from_str(&line).expect("JSON");
        if let Err(error) = schema.compiled.validate(&value, schema.index) {
            panic!("{line}: {error:#}");
        }
        let back: Event = serde_json::from_str(&line).expect("an event");
        assert_eq!(back, event);
    }
}

#[test]
fn the_schema_and_the_types_name_the_same_kinds() {
    let schema = Schema::load();
    let branches = schema.document["oneOf"].as_array().expect("oneOf");
    let named: Vec<&str> = branches
        .iter()
        .map(|branch| {
            let reference = branch["$ref"].as_str().expect("a reference");
            let kind = reference.strip_prefix("#/$defs/").expect("of a definition");
            assert_eq!(schema.of_kind(kind)["properties"]["kind"]["const"], *kind);
            kind
        })
        .collect();
    assert_eq!(named, kinds());
    assert_eq!(named, KINDS);
    for kind in named {
        assert!(samples(kind).iter().all(|what| what.kind() == kind));
    }
}

#[test]
fn the_schema_and_the_types_name_the_same_fields() {
    let schema = Schema::load();
    for event in events() {
        let fields = json(&event);
        let named: BTreeSet<String> = fields.keys().cloned().collect();
        let kind = event.what.kind();
        assert_eq!(named, schema.fields(kind), "{kind}");
        if let Some(Value::Object(guest)) = fields.get("guest") {
            let of_schema = &schema.document["$defs"]["guest"]["properties"];
            let of_schema = of_schema.as_object().expect("properties");
            assert!(guest.keys().eq(of_schema.keys()), "{guest:?}");
        }
    }
}

#[test]
fn every_field_of_the_schema_is_described() {
    let schema = Schema::load();
    let described = |value: &Value| -> bool {
        let target = value["$ref"].as_str().and_then(|r| r.rsplit('/').next());
        let target = target.map(|name| &schema.document["$defs"][name]);
        [Some(value), target]
            .into_iter()
            .flatten()
            .any(|v| v["description"].is_string())
    };
    let common = schema.document["properties"]
        .as_object()
        .expect("properties");
    for (name, value) in common {
        assert!(described(value), "{name}");
    }
    for kind in KINDS {
        assert!(schema.of_kind(kind)["description"].is_string(), "{kind}");
        let own = schema.of_kind(kind)["properties"]
            .as_object()
            .expect("properties");
        for (name, value) in own.iter().filter(|(name, _)| !common.contains_key(*name)) {
            assert!(described(value), "{kind}: {name}");
        }
    }
}

#[test]
fn an_event_without_one_of_its_fields_is_refused() {
    let schema = Schema::load();
    for event in events() {
        let whole = json(&event);
        for name in whole.keys() {
            let mut fields = whole.clone();
            fields.remove(name);
            assert!(
                !schema.accepts(&Value::Object(fields)),
                "{event:?} without {name}"
            );
        }
        if let Some(Value::Object(guest)) = whole.get("guest") {
            for name in guest.keys() {
                let mut guest = guest.clone();
                guest.remove(name);
                assert!(
                    !schema.accepts(&with(&whole, "guest", guest.into())),
                    "{name}"
                );
            }
        }
    }
}

/// Fields that may be null, besides `guest`.
const NULLABLE: [&str; 14] = [
    "since_seen_ms",
    "gap_ms",
    "unguarded_ms",
    "ran_on_ms",
    "within_ms",
    "ended_by",
    "last_kick",
    "booted",
    "uptime_ms",
    "watchdog_fired",
    "record",
    "kept_as",
    "uuid",
    "name",
];

#[test]
fn a_field_of_another_type_is_refused_and_null_is_only_where_it_may_be() {
    let schema = Schema::load();
    let strange = [
        json!({"a": 1}),
        json!([]),
        json!(-1),
        json!(1.5),
        json!("\u{0}strange"),
        json!(true),
    ];
    for event in events() {
        let fields = json(&event);
        for (name, value) in &fields {
            let nullable = NULLABLE.contains(&name.as_str()) || value.is_null();
            assert_eq!(
                schema.accepts(&with(&fields, name, Value::Null)),
                nullable,
                "{name}"
            );
            if nullable {
                continue; // Of what type they are else is told by the samples that are not null.
            }
            for other in strange.iter().filter(|other| !same_type(value, other)) {
                assert!(
                    !schema.accepts(&with(&fields, name, other.clone())),
                    "{name}: {other}"
                );
            }
        }
    }
}

#[test]
fn a_nullable_field_of_another_type_is_refused() {
    let schema = Schema::load();
    for event in events() {
        let fields = json(&event);
        let nullable = fields
            .iter()
            .filter(|(name, _)| NULLABLE.contains(&name.as_str()));
        for (name, value) in nullable.filter(|(_, value)| !value.is_null()) {
            for other in [json!({}), json!("x"), json!(-1), json!(1.5), json!(false)] {
                let fits = same_type(value, &other);
                assert_eq!(schema.accepts(&with(&fields, name, other)), fits, "{name}");
            }
        }
        if let Some(Value::Object(guest)) = fields.get("guest") {
            for (name, value) in guest {
                let mut guest = guest.clone();
                guest.insert(name.clone(), json!([value]));
                assert!(
                    !schema.accepts(&with(&fields, "guest", guest.into())),
                    "{name}"
                );
            }
        }
    }
}

/// Whether `other` is one of the values that a field like `value` takes. Only free text takes
/// any text.
fn same_type(value: &Value, other: &Value) -> bool {
    match (value, other) {
        (Value::String(text), Value::String(_)) => {
            text.parse::<Timestamp>().is_err() && !is_word(text)
        }
        (Value::Bool(_), Value::Bool(_)) => true,
        _ => false,
    }
}

/// A word of one of the enumerations, or a kind.
fn is_word(text: &str) -> bool {
    let value = || Value::from(text);
    serde_json::from_value::<Severity>(value()).is_ok()
        || serde_json::from_value::<Cause>(value()).is_ok()
        || serde_json::from_value::<Closing>(value()).is_ok()
        || serde_json::from_value::<Gap>(value()).is_ok()
        || serde_json::from_value::<ResetCause>(value()).is_ok()
        || serde_json::from_value::<Confidence>(value()).is_ok()
        || serde_json::from_value::<Coverage>(value()).is_ok()
        || serde_json::from_value::<Action>(value()).is_ok()
        || serde_json::from_value::<Refused>(value()).is_ok()
        || KINDS.contains(&text)
}

#[test]
fn another_kind_version_or_severity_is_refused_and_more_fields_are_not() {
    let schema = Schema::load();
    for event in events() {
        let fields = json(&event);
        assert!(schema.accepts(&with(&fields, "added_later_ms", json!(1))));
        assert!(!schema.accepts(&with(&fields, "kind", json!("guest.eaten"))));
        assert!(!schema.accepts(&with(&fields, "version", json!(2))));
        for severity in ["info", "warning", "error", "emergency"] {
            let same = fields["severity"] == severity;
            assert_eq!(
                schema.accepts(&with(&fields, "severity", json!(severity))),
                same
            );
        }
    }
}

#[test]
fn a_guests_event_has_its_guest_and_the_hosts_has_none() {
    let schema = Schema::load();
    let guest = json!({"uuid": null, "domid": 1, "name": null});
    for event in events() {
        let fields = json(&event);
        let of_guest = !fields["guest"].is_null();
        assert_eq!(
            schema.accepts(&with(&fields, "guest", Value::Null)),
            !of_guest
        );
        assert_eq!(
            schema.accepts(&with(&fields, "guest", guest.clone())),
            of_guest
        );
    }
}

#[test]
fn the_manual_names_the_same_kinds_and_fields() {
    let schema = Schema::load();
    let manual = in_repository("man/xenwarden-events.7");
    let kinds: Vec<&str> = manual
        .lines()
        .filter_map(|line| line.strip_prefix(".Ss "))
        .filter(|heading| heading.contains('.'))
        .collect();
    assert_eq!(kinds, KINDS);
    let common: BTreeSet<String> = {
        let properties = schema.document["properties"].as_object();
        properties.expect("properties").keys().cloned().collect()
    };
    for kind in kinds {
        let section = section(&manual, kind);
        let told: BTreeSet<String> = fields_told(section);
        let own: BTreeSet<String> = schema.fields(kind).difference(&common).cloned().collect();
        assert_eq!(told, own, "{kind}");
        let severity = schema.of_kind(kind)["properties"]["severity"]["const"].as_str();
        let severity = severity.expect("a severity");
        assert!(
            section.contains(&format!("\n.Em {severity}")),
            "{kind}: {severity}"
        );
    }
    let mut told = fields_told(manual.split(".Sh KINDS").next().expect("a beginning"));
    // What a guest is made of is told there as well.
    for name in ["uuid", "domid", "name"] {
        assert!(told.remove(name), "{name}");
    }
    assert_eq!(told, common);
}

/// The part of the manual about a kind.
fn section<'a>(manual: &'a str, kind: &str) -> &'a str {
    let start = manual.find(&format!(".Ss {kind}\n")).expect("a section");
    let rest = &manual[start + 3..];
    let ends = ["\n.Ss ", "\n.Sh "].map(|head| rest.find(head).unwrap_or(rest.len()));
    &rest[..ends[0].min(ends[1])]
}

/// The fields that are the heads of lists there.
fn fields_told(text: &str) -> BTreeSet<String> {
    let items = text.lines().filter_map(|line| line.strip_prefix(".It Va "));
    items.map(|name| name.trim().to_owned()).collect()
}
