//! Rules that a search through the text of a file can keep.

use crate::code::{code_of, has_word};

/// Past this a file is asking to be split by decision.
const MOST_LINES: usize = 800;

/// What stands for work that is not done, or for a look at it that was left behind.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// What is wrong with the Rust file `path`.
pub(crate) fn rust(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//! ") {
        complaints.push(format!(
            "{path}: its first line has to be `//!` and say what it does and may not do"
        ));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        complaints.push(format!(
            "{path}: {lines} lines, more than {MOST_LINES}: split it by decision"
        ));
    }
    for (number, line) in (1..).zip(code_of(text).lines()) {
        for word in UNFINISHED {
            if has_word(line, word) {
                complaints.push(format!("{path}:{number}: {word}"));
            }
        }
        let attribute = line.replace(' ', "");
        if attribute.contains("#[ignore") {
            complaints.push(format!(
                "{path}:{number}: an ignored test; skip it in a counted way or mend it"
            ));
        }
    }
    if is_test(path) {
        complaints.extend(sleeps(path, text));
    }
    complaints.extend(fixed_folder(path, text));
    complaints
}

/// The folder of a package as it was compiled. What is built is used by the next clone, too, which is elsewhere.
fn fixed_folder(path: &str, text: &str) -> Option<String> {
    let variable = concat!("env!(\"CARGO_MANI", "FEST_DIR\")");
    text.contains(variable).then(|| {
        format!("{path}: {variable} names the clone that was built first; cargo sets it, and a test's working folder, when it runs")
    })
}

/// Files of integration tests; what waits for a condition on everybody's behalf is the testkit's.
fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests") && !path.starts_with("crates/testkit/")
}

/// Sleeps in place of a condition. Where the clock is paused nothing waits: such a line says
/// `// virtual time`, in a file that pauses the clock or says that its callers do.
fn sleeps(path: &str, text: &str) -> Vec<String> {
    let paused = ["start_paused = true", "time::pause()", "paused clock"]
        .iter()
        .any(|sign| text.contains(sign));
    let mut complaints = Vec::new();
    for (number, (code, line)) in (1..).zip(code_of(text).lines().zip(text.lines())) {
        let sleeps = has_word(code, "sleep(") || has_word(code, "sleep_until(");
        let virtual_time = paused && line.contains("// virtual time");
        if sleeps && !virtual_time {
            complaints.push(format!(
                "{path}:{number}: a sleep in a test; wait for a condition"
            ));
        }
    }
    complaints
}

/// Folders at a machine's root that no other machine has to have.
const FOLDERS: [&str; 4] = ["work", "root", "farm", "home"];

/// Package mirrors by which a machine may be known. (In pieces: this file is checked too.)
const MIRRORS: [&str; 2] = [concat!("arti", "factory"), concat!("nexus", ".")];

/// The one source of crates that the lock file may name.
const CRATES: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Paths and hosts of one machine in the file `path`.
pub(crate) fn machine(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(folder) = FOLDERS.iter().find(|folder| names_folder(line, folder)) {
            complaints.push(format!(
                "{path}:{number}: a path of one machine (/{folder}...)"
            ));
        }
        if MIRRORS.iter().any(|mirror| line.contains(mirror)) {
            complaints.push(format!("{path}:{number}: the name of a package mirror"));
        }
        let source = line.strip_prefix("source = \"");
        if path.ends_with("Cargo.lock") && source.is_some_and(|s| s.trim_end_matches('"') != CRATES)
        {
            complaints.push(format!(
                "{path}:{number}: a crate from elsewhere than crates.io"
            ));
        }
    }
    complaints
}

/// Whether `line` has `/folder/x` as the beginning of a path.
fn names_folder(line: &str, folder: &str) -> bool {
    let path = format!("/{folder}/");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let begins = before.is_none_or(|c| !(c.is_alphanumeric() || "._-}~)".contains(c)));
        begins && after.is_some_and(|c| c.is_alphanumeric() || c == '.')
    })
}

mod tests {
    use super::*;

    const HEAD: &str = "//! It does this.\n";

    fn complaints(path: &str, body: &str) -> usize {
        rust(path, &format!("{HEAD}{body}")).len()
    }

    #[test]
    fn a_file_without_its_first_line_is_told() {
        assert_eq!(rust("a.rs", HEAD), Vec::<String>::new());
        for text in ["", "\n//! Late.\n", "// Only a remark.\n", "//!\n"] {
            assert_eq!(rust("a.rs", text).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn a_long_file_is_told() {
        assert_eq!(complaints("a.rs", &"\n".repeat(MOST_LINES - 1)), 0);
        assert_eq!(complaints("a.rs", &"\n".repeat(MOST_LINES)), 1);
    }

    #[test]
    fn unfinished_work_is_told_in_code_and_not_in_words() {
        for word in UNFINISHED {
            assert_eq!(complaints("a.rs", &format!("fn f() {{ {word}() }}")), 1);
            assert_eq!(complaints("a.rs", &format!("// no {word}() here\n")), 0);
            assert_eq!(
                complaints("a.rs", &format!("const S: &str = \"{word}\";")),
                0
            );
        }
        assert_eq!(complaints("a.rs", "my_todo!()"), 0);
    }

    #[test]
    fn an_ignored_test_is_told() {
        assert_eq!(complaints("a.rs", "#[ignore]\nfn f() {}"), 1);
        assert_eq!(complaints("a.rs", "# [ ignore = \"slow\" ]\nfn f() {}"), 1);
    }

    #[test]
    fn the_folder_of_the_clone_that_was_built_is_told() {
        let at = |time: &str| format!("Path::new({time}!({:?}))", "CARGO_MANIFEST_DIR");
        assert_eq!(complaints("a.rs", &at("env")), 1);
        assert_eq!(complaints("a.rs", &at("std::env::var_os")), 0);
    }

    #[test]
    fn a_sleep_in_a_test_is_told() {
        let sleep = "async fn f() { tokio::time::sleep(d).await }\n";
        assert_eq!(complaints("crates/a/tests/it/main.rs", sleep), 1);
        assert_eq!(
            complaints("crates/a/tests/x.rs", "fn f() { std::thread::sleep(d) }"),
            1
        );
        assert_eq!(complaints("crates/a/src/x.rs", sleep), 0);
        assert_eq!(complaints("crates/testkit/tests/it/main.rs", sleep), 0);
    }

    #[test]
    fn a_sleep_is_virtual_only_where_the_clock_is_paused() {
        let sleep = "sleep(d).await; // virtual time\n";
        let paused = format!("#[tokio::test(start_paused = true)]\n{sleep}");
        assert_eq!(complaints("crates/a/tests/x.rs", &paused), 0);
        assert_eq!(complaints("crates/a/tests/x.rs", sleep), 1);
    }

    #[test]
    fn paths_and_mirrors_of_a_machine_are_told() {
        let home = FOLDERS[3];
        for (line, want) in [
            (format!("see /{home}/me/x"), 1),
            (format!("\"/{home}/.cargo\""), 1),
            (format!("~/{home}/x"), 0),
            (format!("example.test/{home}/x"), 0),
            (format!("path: /{home}"), 0),
            (format!("{{{{work}}}}/{home}/x"), 0),
            (format!("https://crates.test/{}/api", MIRRORS[0]), 1),
        ] {
            assert_eq!(machine("a.md", &line).len(), want, "{line}");
        }
    }

    #[test]
    fn a_crate_from_elsewhere_is_told() {
        let good = format!("source = \"{CRATES}\"\n");
        assert_eq!(machine("Cargo.lock", &good), Vec::<String>::new());
        let bad = "source = \"registry+https://mirror.test/index\"\n";
        assert_eq!(machine("Cargo.lock", bad).len(), 1);
    }
}
