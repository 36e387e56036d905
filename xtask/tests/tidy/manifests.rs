//! What every Cargo.toml of a member has to say: the workspace's lints, the workspace's versions.

/// What is wrong with the manifest `text`, called `path`.
pub(crate) fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let entries = entries(text);
    let inherits_lints = entries
        .iter()
        .any(|e| e.section == "lints" && e.key == "workspace" && e.value == "true");
    if !inherits_lints {
        complaints.push(format!("{path}: has to say `[lints] workspace = true`"));
    }
    for entry in entries.iter().filter(|e| is_dependencies(&e.section)) {
        let inherited = match entry.key.split_once('.') {
            Some((_, rest)) => rest == "workspace" && entry.value == "true",
            None => entry.value.contains("workspace = true"),
        };
        if !inherited {
            complaints.push(format!(
                "{path}: `{}` has to take its version from the workspace (`workspace = true`)",
                entry.key
            ));
        }
    }
    complaints
}

/// `[dependencies]`, `[dev-dependencies]`, `[target.'cfg(unix)'.dependencies]`, ...
fn is_dependencies(section: &str) -> bool {
    section.ends_with("dependencies")
}

#[derive(Debug)]
struct Entry {
    section: String,
    key: String,
    value: String,
}

/// The keys and values of the manifest; a value that spans lines is one. `[dependencies.x]` is read as
/// the entry `x` of `[dependencies]`.
fn entries(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut section = String::new();
    let mut open = 0;
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if open > 0 {
            if let Some(entry) = entries.last_mut() {
                entry.value.push_str(line);
            }
        } else if let Some(name) = line.strip_prefix('[') {
            section = name
                .trim_end_matches(']')
                .trim_start_matches('[')
                .to_owned();
            continue;
        } else if let Some((key, value)) = line.split_once('=') {
            entries.push(entry(&section, key.trim(), value.trim()));
        }
        open += line.matches(['[', '{']).count();
        open -= line.matches([']', '}']).count().min(open);
    }
    entries
}

fn entry(section: &str, key: &str, value: &str) -> Entry {
    let table = ["dependencies.", "dev-dependencies.", "build-dependencies."]
        .iter()
        .find_map(|kind| Some((kind, section.strip_prefix(kind)?)));
    match table {
        // Of such a table only one line matters: the others repeat neither name nor version.
        Some((kind, name)) => Entry {
            section: match key {
                "workspace" | "version" | "path" | "git" => kind.trim_end_matches('.').to_owned(),
                _ => section.to_owned(),
            },
            key: format!("{name}.{key}"),
            value: value.to_owned(),
        },
        None => Entry {
            section: section.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
        },
    }
}

mod tests {
    use super::*;

    const GOOD: &str = r#"
[package]
name = "x"
version.workspace = true

[lints]
workspace = true

[dependencies]
a.workspace = true
b = { workspace = true, features = [
  "one", # why
  "two",
] }

[target.'cfg(unix)'.dependencies]
c.workspace = true

[dev-dependencies.d]
workspace = true
features = ["x"]

[[test]]
name = "it"
"#;

    #[test]
    fn a_manifest_that_inherits_everything_is_good() {
        assert_eq!(complaints("x", GOOD), Vec::<String>::new());
    }

    #[test]
    fn a_version_or_a_lint_of_its_own_is_told() {
        for (from, to, want) in [
            ("[lints]\nworkspace = true", "", "[lints]"),
            (
                "[lints]\nworkspace = true",
                "[lints.rust]\nx = \"allow\"",
                "[lints]",
            ),
            ("a.workspace = true", "a = \"1\"", "`a`"),
            ("b = { workspace = true,", "b = { version = \"1\",", "`b`"),
            ("c.workspace = true", "c = { path = \"../c\" }", "`c`"),
            (
                "[dev-dependencies.d]\nworkspace = true",
                "[dev-dependencies.d]\nversion = \"1\"",
                "`d.version`",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let found = complaints("x", &GOOD.replace(from, to));
            assert_eq!(found.len(), 1, "{to}: {found:?}");
            assert!(found[0].contains(want), "{found:?}");
        }
    }
}
