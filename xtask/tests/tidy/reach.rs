//! Finds Rust files that no target reaches through its `mod` lines: they were never compiled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::code::{code_of, is_word};
use crate::tree::{self, Package};

/// The orphans below the package's folder.
pub(crate) fn orphans(package: &Package) -> Vec<String> {
    let folder = package
        .manifest
        .parent()
        .expect("a manifest is in a folder");
    let mut reached = BTreeSet::new();
    for target in &package.targets {
        walk(&target.src_path, true, &mut reached);
    }
    let mut there = Vec::new();
    for part in ["src", "tests", "benches", "examples", "targets"] {
        rust_files(&folder.join(part), &mut there);
    }
    there
        .iter()
        .filter(|path| !reached.contains(*path))
        .map(|path| format!("{}: no `mod` line reaches this file", tree::shown(path)))
        .collect()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// Adds `file` and everything that its modules reach. A crate's root looks for them beside itself.
fn walk(file: &Path, is_root: bool, reached: &mut BTreeSet<PathBuf>) {
    let Ok(source) = fs::read_to_string(file) else {
        return;
    };
    if !reached.insert(file.to_path_buf()) {
        return;
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let own = match file.file_stem() {
        Some(stem) if !is_root && stem != "mod" => folder.join(stem),
        _ => folder.to_path_buf(),
    };
    for module in modules(&source) {
        for place in module.places(folder, &own) {
            walk(&place, false, reached);
        }
    }
}

/// A module whose text is in another file.
#[derive(Debug, PartialEq)]
struct Module {
    /// The inline modules around it, then itself.
    names: Vec<String>,
    /// What its `#[path]` says.
    path: Option<String>,
}

impl Module {
    /// Where its file may be: `folder` holds the file that names it, `own` that file's modules.
    fn places(&self, folder: &Path, own: &Path) -> Vec<PathBuf> {
        let around = &self.names[..self.names.len() - 1];
        if let Some(path) = &self.path {
            // Beside the file, but inside an inline module's folder when there is one around it.
            let base = if around.is_empty() { folder } else { own };
            let base = around
                .iter()
                .fold(base.to_path_buf(), |at, name| at.join(name));
            return vec![normal(&base.join(path))];
        }
        let place = self
            .names
            .iter()
            .fold(own.to_path_buf(), |at, name| at.join(name));
        vec![place.with_extension("rs"), place.join("mod.rs")]
    }
}

/// Without `..`, as the walk over the folders shows files.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts
}

/// Every `mod name;` of the source, also inside `mod name { ... }`.
fn modules(source: &str) -> Vec<Module> {
    let code = code_of(source);
    let mut modules = Vec::new();
    // The inline modules that are open, each with the depth of braces at which it closes.
    let mut open: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut path = None;
    let mut tokens = Tokens::of(&code).peekable();
    while let Some((_, token)) = tokens.next() {
        match token {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                open.retain(|(_, closes_at)| *closes_at < depth + 1);
                path = None;
            }
            ";" => path = None,
            "path" => {
                if let Some((equals, "=")) = tokens.peek().copied() {
                    path = source[equals..].split('"').nth(1).map(str::to_owned);
                }
            }
            "mod" => {
                let Some((_, name)) = tokens.next() else {
                    break;
                };
                let next = tokens.peek().map(|(_, token)| *token);
                if next == Some("{") {
                    open.push((name.to_owned(), depth + 1));
                } else if next == Some(";") {
                    let around = open.iter().map(|(name, _)| name.clone());
                    modules.push(Module {
                        names: around.chain([name.to_owned()]).collect(),
                        path: path.take(),
                    });
                }
            }
            _ => {}
        }
    }
    modules
}

/// Words and single other characters, with their offsets.
struct Tokens<'a> {
    code: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn of(code: &'a str) -> Self {
        Self { code, at: 0 }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.code[self.at..];
        let start = self.at + rest.find(|c: char| !c.is_whitespace())?;
        let rest = &self.code[start..];
        let word = rest.bytes().take_while(|byte| is_word(*byte)).count();
        let length = match word {
            0 => rest.chars().next()?.len_utf8(),
            length => length,
        };
        self.at = start + length;
        Some((start, &rest[..length]))
    }
}

mod tests {
    use super::*;
    use crate::tree::Target;

    fn names(source: &str) -> Vec<String> {
        modules(source)
            .into_iter()
            .map(|m| m.names.join("::"))
            .collect()
    }

    #[test]
    fn modules_are_found_in_code_alone() {
        let source =
            "mod a;\n// mod b;\n/* mod c; */ pub(crate) mod d ;\nconst S: &str = \"mod e;\";";
        assert_eq!(names(source), ["a", "d"]);
    }

    #[test]
    fn modules_inside_inline_modules_carry_their_names() {
        let source = "mod a { fn f() { if x { } } mod b; mod c { mod d; } } mod e; fn mod_x() {}";
        assert_eq!(names(source), ["a::b", "a::c::d", "e"]);
    }

    #[test]
    fn a_path_belongs_to_the_next_module_only() {
        let found = modules("#[path = \"../x/y.rs\"]\nmod a;\nmod b;");
        assert_eq!(found[0].path.as_deref(), Some("../x/y.rs"));
        assert_eq!(found[1].path, None);
        let places = found[0].places(Path::new("c/src"), Path::new("c/src/lib"));
        assert_eq!(places, [PathBuf::from("c/x/y.rs")]);
    }

    #[test]
    fn a_file_that_no_module_names_is_told_as_an_orphan() {
        let folder = std::env::temp_dir().join(format!("tidy-reach-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        write("src/lib.rs", "mod a;\nmod b;");
        write("src/a.rs", "mod c;");
        write("src/a/c.rs", "");
        write("src/b/mod.rs", "mod d;");
        write("src/b/d.rs", "");
        write("src/c.rs", "");
        write("tests/it/main.rs", "mod used;");
        write("tests/it/used.rs", "");
        write("tests/it/server.rs", "");
        let target = |path: &str| Target {
            src_path: folder.join(path),
        };
        let complaints = orphans(&Package {
            name: "x".to_owned(),
            dependencies: Vec::new(),
            targets: vec![target("src/lib.rs"), target("tests/it/main.rs")],
            manifest: folder.join("Cargo.toml"),
        });
        fs::remove_dir_all(&folder).expect("our folder");
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("src/c.rs:"), "{complaints:?}");
        assert!(
            complaints[1].contains("tests/it/server.rs:"),
            "{complaints:?}"
        );
    }
}
