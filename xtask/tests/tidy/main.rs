//! Keeps the house as ARCHITECTURE.md says it is; plain `cargo test` runs it. It may not change a file.
//!
//! Every check is a function from text to complaints, with tests of its own that make it complain.

mod code;
mod manifests;
mod reach;
mod text;
mod tree;
mod walls;

/// Fails with every complaint at once.
#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}

#[test]
fn crates_keep_to_the_allowed_edges() {
    none(walls::edges(&tree::packages()));
}

#[test]
fn pure_crates_and_the_edge_link_nothing_forbidden() {
    let packages = tree::packages();
    let complaints = walls::CLOSURES.iter().flat_map(|wall| {
        wall.crates
            .iter()
            .filter(|name| packages.iter().any(|package| package.name == **name))
            .flat_map(|name| walls::closure(wall, name, &tree::closure_of(name)))
    });
    none(complaints.collect());
}

#[test]
fn every_rust_file_is_compiled_by_a_target() {
    let packages = tree::packages().into_iter().chain(tree::fuzz_packages());
    none(
        packages
            .flat_map(|package| reach::orphans(&package))
            .collect(),
    );
}

#[test]
fn manifests_take_lints_and_versions_from_the_workspace() {
    let complaints = tree::packages().into_iter().flat_map(|package| {
        let text = std::fs::read_to_string(&package.manifest).expect("a manifest");
        manifests::complaints(&tree::shown(&package.manifest), &text)
    });
    none(complaints.collect());
}

#[test]
fn rust_files_keep_to_the_rules() {
    let complaints = tree::files().into_iter().filter(|file| file.is_rust());
    none(
        complaints
            .flat_map(|file| text::rust(&file.path, &file.text))
            .collect(),
    );
}

#[test]
fn no_file_speaks_of_one_machine() {
    let files = tree::files();
    assert!(files.len() > 20, "only {} files seen", files.len());
    none(
        files
            .iter()
            .flat_map(|f| text::machine(&f.path, &f.text))
            .collect(),
    );
}
