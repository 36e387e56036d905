//! One manifest document to typed objects, or a clear error. May not read files.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// An object of a kind that takes part in routing, or the name of one that does not.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `networking.k8s.io/v1`.
    Ingress(Box<Ingress>),
    /// `networking.k8s.io/v1`.
    IngressClass(Box<IngressClass>),
    /// `v1`.
    Service(Box<Service>),
    /// `discovery.k8s.io/v1`.
    EndpointSlice(Box<EndpointSlice>),
    /// Anything else, to be passed over.
    Other {
        /// `kind` as written.
        kind: String,
        /// `metadata.name`, empty if there is none.
        name: String,
    },
}

/// Why a document is not an object.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// Neither a mapping nor empty.
    #[error(
        "the document is {found}, not a Kubernetes object; it needs apiVersion, kind and metadata"
    )]
    NotAnObject {
        /// What it is instead.
        found: &'static str,
    },
    /// `apiVersion`, `kind` or `metadata.name` is missing, empty or not text.
    #[error("{what} has no {field}; every Kubernetes object needs one")]
    Missing {
        /// The object as far as it is known.
        what: String,
        /// Path of the field.
        field: &'static str,
    },
    /// A version of a known kind that Kubernetes no longer serves, or a misspelt one.
    #[error("{kind} {name} has apiVersion {found:?}, which is not supported; use {expected}")]
    Version {
        /// The kind.
        kind: &'static str,
        /// `metadata.name`.
        name: String,
        /// As written.
        found: String,
        /// The supported one.
        expected: &'static str,
    },
    /// A field of the wrong type.
    #[error("{kind} {name} does not have the shape of {api_version}; a field has the wrong type")]
    Shape {
        /// The kind.
        kind: &'static str,
        /// `metadata.name`.
        name: String,
        /// The version it claims.
        api_version: &'static str,
        /// Which type was found where another is due.
        #[source]
        source: serde_json::Error,
    },
    /// A List whose `items` is not a list, or a list within a list.
    #[error("{kind} cannot be read; its items must be a list of objects, without further lists")]
    List {
        /// The kind as written.
        kind: String,
    },
}

/// Reads one object. An absent namespace becomes `default`, as with `kubectl apply`.
pub fn object_from_value(value: Value) -> Result<Object, ObjectError> {
    let Value::Object(map) = &value else {
        return Err(ObjectError::NotAnObject {
            found: type_of(&value),
        });
    };
    let text = |field: Option<&Value>| field.and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = text(
        map.get("metadata")
            .and_then(|metadata| metadata.get("name")),
    );
    let kind = text(map.get("kind"));
    let version = text(map.get("apiVersion"));
    let missing = |what: String, field| Err(ObjectError::Missing { what, field });
    if kind.is_empty() {
        return missing(
            if name.is_empty() {
                "the document".to_owned()
            } else {
                format!("object {name}")
            },
            "kind",
        );
    }
    if version.is_empty() {
        return missing(format!("{kind} {name}").trim_end().to_owned(), "apiVersion");
    }
    // Other groups have kinds of the same names (Knative's Service), which are none of ours.
    let group = version.rsplit_once('/').map_or("", |(group, _)| group);
    Ok(match (kind.as_str(), group) {
        ("Ingress", "networking.k8s.io" | "extensions") => {
            Object::Ingress(typed(value, name, version)?)
        }
        ("IngressClass", "networking.k8s.io") => Object::IngressClass(typed(value, name, version)?),
        ("Service", "") => Object::Service(typed(value, name, version)?),
        ("EndpointSlice", "discovery.k8s.io") => {
            Object::EndpointSlice(typed(value, name, version)?)
        }
        _ => Object::Other { kind, name },
    })
}

/// Reads one document: nothing (an empty document), one object, or the items of a List such as `kubectl get -o yaml`
/// writes.
pub fn objects_from_value(value: Value) -> Result<Vec<Object>, ObjectError> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let kind = value
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let items = match kind.strip_suffix("List") {
        Some(item) if value.get("items").is_some() || item.is_empty() => item.to_owned(),
        Some(_) | None => return object_from_value(value).map(|object| vec![object]),
    };
    let malformed = || ObjectError::List {
        kind: kind.to_owned(),
    };
    let list = value
        .get("items")
        .and_then(Value::as_array)
        .ok_or_else(malformed)?;
    let version = value.get("apiVersion").cloned();
    let mut objects = Vec::with_capacity(list.len());
    for mut object in list.iter().cloned() {
        // A typed list (IngressList) says kind and version once, for all of its items.
        if !items.is_empty()
            && let Value::Object(map) = &mut object
        {
            map.entry("kind").or_insert_with(|| items.clone().into());
            if let Some(version) = &version {
                map.entry("apiVersion").or_insert_with(|| version.clone());
            }
        }
        match object_from_value(object)? {
            Object::Other { kind, .. } if kind == "List" => return Err(malformed()),
            object => objects.push(object),
        }
    }
    Ok(objects)
}

fn typed<T>(value: Value, name: String, version: String) -> Result<Box<T>, ObjectError>
where
    T: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned,
{
    if version != T::API_VERSION {
        return Err(ObjectError::Version {
            kind: T::KIND,
            name,
            found: version,
            expected: T::API_VERSION,
        });
    }
    if name.is_empty() {
        return Err(ObjectError::Missing {
            what: T::KIND.to_owned(),
            field: "metadata.name",
        });
    }
    let mut object: T = serde_json::from_value(value).map_err(|source| ObjectError::Shape {
        kind: T::KIND,
        name,
        api_version: T::API_VERSION,
        source,
    })?;
    let namespaced = T::KIND != IngressClass::KIND;
    let metadata = object.metadata_mut();
    if namespaced && metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        metadata.namespace = Some("default".to_owned());
    }
    Ok(Box::new(object))
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::error::Error as _;

    fn service(name: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name } })
    }

    #[test]
    fn known_kinds_are_typed_and_get_the_default_namespace() {
        for (version, kind) in [
            ("networking.k8s.io/v1", "Ingress"),
            ("v1", "Service"),
            ("discovery.k8s.io/v1", "EndpointSlice"),
        ] {
            let value =
                json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "app" } });
            let metadata = match object_from_value(value).unwrap() {
                Object::Ingress(object) => object.metadata,
                Object::Service(object) => object.metadata,
                Object::EndpointSlice(object) => object.metadata,
                other => panic!("{kind} became {other:?}"),
            };
            assert_eq!(metadata.namespace.as_deref(), Some("default"), "{kind}");
        }
        let class = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": "c" } });
        let Object::IngressClass(class) = object_from_value(class).unwrap() else {
            panic!("not a class")
        };
        assert_eq!(class.metadata.namespace, None);
    }

    #[test]
    fn other_kinds_are_named_and_passed_over() {
        for (version, kind) in [
            ("apps/v1", "Deployment"),
            ("serving.knative.dev/v1", "Service"),
            ("v1", "Secret"),
        ] {
            let value = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "app" }, "data": 3 });
            let other = Object::Other {
                kind: kind.to_owned(),
                name: "app".to_owned(),
            };
            assert_eq!(object_from_value(value).unwrap(), other);
        }
    }

    #[test]
    fn lists_are_opened() {
        let names = |value| -> Vec<String> {
            let objects = objects_from_value(value).unwrap();
            let name = |object| match object {
                Object::Service(service) => service.metadata.name.unwrap(),
                other => panic!("{other:?} is no Service"),
            };
            objects.into_iter().map(name).collect()
        };
        let list =
            json!({ "apiVersion": "v1", "kind": "List", "items": [service("a"), service("b")] });
        assert_eq!(names(list), ["a", "b"]);
        let typed = json!({ "apiVersion": "v1", "kind": "ServiceList", "items": [{ "metadata": { "name": "c" } }] });
        assert_eq!(names(typed), ["c"]);
        assert_eq!(names(service("d")), ["d"]);
        assert_eq!(names(Value::Null), [""; 0]);
        // A kind that only ends like a list.
        let allow = json!({ "apiVersion": "example.test/v1", "kind": "AllowList", "metadata": { "name": "x" } });
        assert_eq!(objects_from_value(allow).unwrap().len(), 1);
    }

    #[test]
    fn faults_say_what_failed_and_what_to_do() {
        let list = |items: Value| json!({ "apiVersion": "v1", "kind": "List", "items": items });
        for (value, message) in [
            (
                json!([1]),
                "the document is a list, not a Kubernetes object; it needs apiVersion, kind and metadata",
            ),
            (
                json!("x"),
                "the document is text, not a Kubernetes object; it needs apiVersion, kind and metadata",
            ),
            (
                json!({}),
                "the document has no kind; every Kubernetes object needs one",
            ),
            (
                json!({ "metadata": { "name": "a" } }),
                "object a has no kind; every Kubernetes object needs one",
            ),
            (
                json!({ "kind": "Service" }),
                "Service has no apiVersion; every Kubernetes object needs one",
            ),
            (
                json!({ "kind": "Service", "apiVersion": "v1" }),
                "Service has no metadata.name; every Kubernetes object needs one",
            ),
            (
                json!({ "kind": "Ingress", "apiVersion": "extensions/v1beta1", "metadata": { "name": "a" } }),
                "Ingress a has apiVersion \"extensions/v1beta1\", which is not supported; use networking.k8s.io/v1",
            ),
            (
                json!({ "kind": "Service", "apiVersion": "v1", "metadata": { "name": "a" }, "spec": { "ports": 3 } }),
                "Service a does not have the shape of v1; a field has the wrong type",
            ),
            (
                list(json!(3)),
                "List cannot be read; its items must be a list of objects, without further lists",
            ),
            (
                list(json!([list(json!([]))])),
                "List cannot be read; its items must be a list of objects, without further lists",
            ),
        ] {
            let error = objects_from_value(value.clone()).unwrap_err();
            assert_eq!(error.to_string(), message, "{value}");
        }
    }

    #[test]
    fn the_parser_s_own_words_are_the_source_and_said_once() {
        let value = json!({ "kind": "Service", "apiVersion": "v1", "metadata": { "name": "a" }, "spec": "text" });
        let error = object_from_value(value).unwrap_err();
        let source = error
            .source()
            .expect("a shape error has a source")
            .to_string();
        assert!(source.contains("invalid type"), "{source}");
        assert!(!error.to_string().contains(&source));
    }
}
