//! One manifest file's text to objects. Pure; may not touch the file system.
//!
//! The errors never quote the text: a folder of manifests may hold Secrets too.

use gatewright_translate::{Object, ObjectError, objects_from_value};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;
use std::fmt;

/// Largest manifest file, in bytes. The apiserver takes objects of up to 1.5 MiB.
pub(super) const MAX_FILE: u64 = 4 << 20;

/// How a manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// Why a file is not a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: Option<u64>,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn new(line: impl Into<Option<u64>>, what: impl Into<String>) -> Self {
        let line = line.into();
        let what = what.into();
        Self { line, what }
    }
}

/// All objects of a file, each with the line its document begins at.
pub(super) fn parse(bytes: &[u8], format: Format) -> Result<Vec<(u64, Object)>, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        Fault::new(line_after(before), "not UTF-8 text")
    })?;
    // Windows editors write a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = match format {
        Format::Yaml => yaml(text)?,
        Format::Json => json(text)?,
    };
    let mut objects = Vec::new();
    for (line, value) in documents {
        let found = objects_from_value(value).map_err(|error| fault(line, &error))?;
        objects.extend(found.into_iter().map(|object| (line, object)));
    }
    Ok(objects)
}

/// What is wrong with an object, and in which value: the kinds that are read at all hold no secrets.
fn fault(line: u64, error: &ObjectError) -> Fault {
    let what = match std::error::Error::source(error) {
        Some(source) => format!("{error} ({source})"),
        None => error.to_string(),
    };
    Fault::new(line, what)
}

fn yaml(text: &str) -> Result<Vec<(u64, Value)>, Fault> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // As in Kubernetes' own YAML, `on` and `yes` in a map of strings are mistakes to be named,
        // not booleans.
        strict_booleans: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
        // A file is bounded; these bound what aliases make of it.
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 5_000,
        },
        budget: serde_saphyr::budget! {
            max_recorded_anchor_bytes: 16 << 10,
        },
    };
    let documents: Vec<Spanned<Value>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| {
            let line = error
                .location()
                .map(|at| at.line())
                .filter(|line| *line > 0);
            Fault::new(line, error.without_snippet().to_string())
        })?;
    let documents = documents.into_iter().map(|document| {
        let line = document.referenced.line().max(1);
        (line, document.value)
    });
    Ok(documents.collect())
}

fn json(text: &str) -> Result<Vec<(u64, Value)>, Fault> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Unique>();
    loop {
        let rest = &text[stream.byte_offset()..];
        let begin = text.len() - rest.trim_start().len();
        match stream.next() {
            None => return Ok(documents),
            Some(Ok(Unique(value))) => {
                let line = line_after(&text.as_bytes()[..begin]);
                documents.push((line, value));
            }
            Some(Err(error)) => {
                let line = u64::try_from(error.line()).ok().filter(|line| *line > 0);
                return Err(Fault::new(line, error.to_string()));
            }
        }
    }
}

/// The line that follows this text, from 1.
fn line_after(text: &[u8]) -> u64 {
    let breaks = text.iter().filter(|byte| **byte == b'\n').count();
    u64::try_from(breaks).unwrap_or(u64::MAX).saturating_add(1)
}

/// A JSON value that refuses duplicate keys, of which `serde_json` would silently take the last.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
            let Unique(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { ports: [{ port: 80 }] }
";

    fn names(objects: &[(u64, Object)]) -> Vec<(u64, String)> {
        objects
            .iter()
            .map(|(line, object)| match object {
                Object::Ingress(o) => (*line, format!("Ingress {:?}", o.metadata.name)),
                Object::IngressClass(o) => (*line, format!("IngressClass {:?}", o.metadata.name)),
                Object::Service(o) => (*line, format!("Service {:?}", o.metadata.name)),
                Object::EndpointSlice(o) => (*line, format!("EndpointSlice {:?}", o.metadata.name)),
                Object::Other { kind, .. } => (*line, format!("other {kind}")),
            })
            .collect()
    }

    fn rejected(text: &str, format: Format) -> Fault {
        parse(text.as_bytes(), format).expect_err("is a fault")
    }

    #[test]
    fn a_file_holds_many_documents_and_each_knows_its_line() {
        let text = format!(
            "# comment\n---\n{SERVICE}---\n---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: s }}\n"
        );
        let objects = parse(text.as_bytes(), Format::Yaml).expect("parses");
        let expected = [
            (3, "Service Some(\"web\")".to_owned()),
            (9, "other Secret".to_owned()),
        ];
        assert_eq!(names(&objects), expected);
    }

    #[test]
    fn an_empty_file_holds_nothing() {
        for text in ["", "---\n", "# only a comment\n", "---\n---\n"] {
            let objects = parse(text.as_bytes(), Format::Yaml).expect(text);
            assert!(objects.is_empty(), "{text:?}");
        }
        assert!(parse(b"  \n", Format::Json).expect("parses").is_empty());
    }

    #[test]
    fn a_list_is_its_items() {
        let text = r#"{ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" } },
            { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "b" } } ] }"#;
        for format in [Format::Json, Format::Yaml] {
            let objects = parse(text.as_bytes(), format).expect("parses");
            let expected = [(1, "Service Some(\"a\")"), (1, "Service Some(\"b\")")];
            assert_eq!(
                names(&objects),
                expected.map(|(line, name)| (line, name.to_owned()))
            );
        }
    }

    #[test]
    fn json_documents_follow_each_other() {
        let one = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}}"#;
        let objects = parse(format!("{one}\n\n{one}").as_bytes(), Format::Json).expect("parses");
        assert_eq!(
            objects.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [1, 3]
        );
    }

    #[test]
    fn duplicate_keys_are_errors_with_a_line() {
        let yaml = rejected(&format!("{SERVICE}kind: Ingress\n"), Format::Yaml);
        assert_eq!(yaml.line, Some(5), "{yaml:?}");
        assert!(yaml.what.contains("kind"), "{yaml:?}");
        let json = rejected("{\n \"kind\": 1,\n \"kind\": 2\n}", Format::Json);
        assert_eq!(json.line, Some(3), "{json:?}");
        assert!(json.what.contains("duplicate key \"kind\""), "{json:?}");
    }

    #[test]
    fn a_broken_document_is_named_by_its_line() {
        let yaml = rejected(&format!("{SERVICE}---\nkind: [unclosed\n"), Format::Yaml);
        assert!(yaml.line.is_some_and(|line| line >= 6), "{yaml:?}");
        let json = rejected("{\n  \"kind\": }", Format::Json);
        assert_eq!(json.line, Some(2), "{json:?}");
    }

    #[test]
    fn an_object_of_the_wrong_shape_is_named_by_its_documents_line() {
        let text = format!(
            "{SERVICE}---\napiVersion: v1\nkind: Service\nmetadata: {{ name: b }}\nspec: {{ ports: 7 }}\n"
        );
        let fault = rejected(&text, Format::Yaml);
        assert_eq!(fault.line, Some(6));
        assert!(fault.what.contains("Service b"), "{fault:?}");
        assert!(
            fault.what.contains("invalid type: integer `7`"),
            "{fault:?}"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let fault = parse(b"kind: a\nname: \xff", Format::Yaml).expect_err("is a fault");
        assert_eq!(fault, Fault::new(2, "not UTF-8 text"));
    }

    #[test]
    fn a_secret_in_a_broken_file_is_not_quoted() {
        let text =
            "apiVersion: v1\nkind: Secret\nstringData:\n  password: hunter2\n  password: hunter3\n";
        let fault = rejected(text, Format::Yaml);
        assert!(!fault.what.contains("hunter"), "{fault:?}");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            text += &format!("a{level}: &a{level} [{before}]\n");
        }
        assert!(!rejected(&text, Format::Yaml).what.is_empty());
        let large = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(1 << 20),
            "*a, ".repeat(1000)
        );
        assert!(!rejected(&large, Format::Yaml).what.is_empty());
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = "[".repeat(100_000);
        assert!(!rejected(&deep, Format::Yaml).what.is_empty());
        assert!(!rejected(&deep, Format::Json).what.is_empty());
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let text = format!("\u{feff}{SERVICE}");
        assert_eq!(
            parse(text.as_bytes(), Format::Yaml).expect("parses").len(),
            1
        );
    }
}
