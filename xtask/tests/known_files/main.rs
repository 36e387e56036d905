//! `.ci/known-files`, by which a fresh clone tells cargo what is new: runs the script in repositories that it
//! makes. It may not build anything.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

/// When the runs before are said to have seen their files, in seconds.
const LONG_AGO: u64 = 1_000_000_000;

/// A repository with two files, and a folder for what is built.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().expect("a folder"));
        let origin = place.path("origin");
        fs::create_dir_all(place.path("built/debug/.fingerprint/a")).expect("a folder");
        fs::create_dir(&origin).expect("a folder");
        place.git(&origin, &["init", "--quiet"]);
        place.commit(&[("same.rs", "1"), ("other.rs", "1")]);
        place
    }

    /// A run has ended, and its clone is gone.
    fn built_once() -> Self {
        let place = Self::new();
        let clone = place.clone("clone");
        place.run(&clone);
        place.remove(&clone);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn git(&self, folder: &Path, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.test"]);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null");
        succeed(git.current_dir(folder).args(arguments));
    }

    fn commit(&self, files: &[(&str, &str)]) {
        let origin = self.path("origin");
        for (name, text) in files {
            fs::write(origin.join(name), text).expect("write a file");
        }
        self.git(&origin, &["add", "--all"]);
        self.git(&origin, &["commit", "--quiet", "--message=a"]);
    }

    fn clone(&self, name: &str) -> PathBuf {
        let to = self.path(name);
        let to_text = to.to_str().expect("a path in UTF-8");
        self.git(self.0.path(), &["clone", "--quiet", "origin", to_text]);
        to
    }

    fn remove(&self, clone: &Path) {
        fs::remove_dir_all(clone).expect("remove a clone");
    }

    fn list(&self) -> PathBuf {
        self.path("built/known-files")
    }

    fn script(&self, verb: &str, clone: &Path) {
        let script = Path::new("../.ci/known-files").canonicalize();
        let mut script = Command::new(script.expect("the script"));
        script.env("GIT_CONFIG_GLOBAL", "/dev/null").arg(verb);
        succeed(script.arg(self.list()).current_dir(clone));
    }

    /// A whole run, which is made to lie long ago.
    fn run(&self, clone: &Path) {
        self.script("restore", clone);
        self.script("keep", clone);
        let list = fs::read_to_string(self.list()).expect("a list");
        let line = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            format!("{}\t{LONG_AGO}\t{}\n", fields[0], fields[2])
        };
        let list: String = list.lines().map(line).collect();
        fs::write(self.list(), list).expect("write the list");
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Whether the file has the time at which the run before has seen it.
fn is_known(file: &Path) -> bool {
    let time = fs::metadata(file).and_then(|file| file.modified());
    time.expect("a time") == SystemTime::UNIX_EPOCH + Duration::from_secs(LONG_AGO)
}

#[test]
fn only_what_differs_from_the_run_before_is_new_in_the_next_clone() {
    let place = Place::new();
    let first = place.clone("first");
    place.run(&first);
    assert!(!is_known(&first.join("same.rs")));
    place.commit(&[("other.rs", "2"), ("more.rs", "1")]);
    place.remove(&first);
    let second = place.clone("second");
    place.script("restore", &second);
    assert!(is_known(&second.join("same.rs")));
    assert!(!is_known(&second.join("other.rs")));
    assert!(!is_known(&second.join("more.rs")));
}

#[test]
fn content_that_comes_back_is_new() {
    let place = Place::new();
    for other in ["1", "2"] {
        place.commit(&[("other.rs", other), ("more.rs", other)]);
        let clone = place.clone("clone");
        place.run(&clone);
        place.remove(&clone);
    }
    place.commit(&[("other.rs", "1")]);
    let third = place.clone("clone");
    place.script("restore", &third);
    assert!(is_known(&third.join("same.rs")));
    assert!(!is_known(&third.join("other.rs")));
}

/// Cargo looks at files of the other one.
#[test]
fn beside_the_clone_that_was_built_before_files_are_known_if_its_data_is_the_same() {
    let place = Place::new();
    place.commit(&[("clippy.toml", "1")]);
    place.run(&place.clone("first"));
    place.commit(&[("other.rs", "2")]);
    let second = place.clone("second");
    place.run(&second);
    assert!(is_known(&second.join("same.rs")));
    place.commit(&[("clippy.toml", "2")]);
    let third = place.clone("third");
    place.script("restore", &third);
    assert!(!is_known(&third.join("same.rs")));
}

#[test]
fn nothing_is_known_beside_a_clone_with_changes_of_its_own() {
    let place = Place::new();
    place.commit(&[("clippy.toml", "1")]);
    let first = place.clone("first");
    place.run(&first);
    fs::write(first.join("clippy.toml"), "2").expect("write a file");
    let second = place.clone("second");
    place.script("restore", &second);
    assert!(!is_known(&second.join("same.rs")));
}

#[test]
fn nothing_is_known_after_somebody_else_has_built_there() {
    let place = Place::built_once();
    let fingerprint = place.path("built/debug/.fingerprint/a/dep-lib");
    let built = File::create(fingerprint).expect("write a file");
    let kept = fs::metadata(place.list()).and_then(|list| list.modified());
    let later = kept.expect("a time") + Duration::from_secs(60);
    built.set_modified(later).expect("set the time");
    let second = place.clone("second");
    place.script("restore", &second);
    assert!(!is_known(&second.join("same.rs")));
}

#[test]
fn nothing_is_known_after_a_run_that_did_not_end() {
    let place = Place::built_once();
    place.script("restore", &place.clone("killed"));
    let third = place.clone("third");
    place.script("restore", &third);
    assert!(!is_known(&third.join("same.rs")));
}

#[test]
fn nothing_is_known_after_a_run_that_was_killed_while_it_set_the_times() {
    let place = Place::built_once();
    let last = place.path("built/known-files.last");
    fs::rename(place.list(), last).expect("rename the list");
    let second = place.clone("second");
    place.script("restore", &second);
    assert!(!is_known(&second.join("same.rs")));
}

#[test]
fn nothing_is_known_in_a_clone_with_changes_of_its_own() {
    let place = Place::built_once();
    let second = place.clone("second");
    fs::write(second.join("other.rs"), "3").expect("write a file");
    place.script("restore", &second);
    assert!(!is_known(&second.join("same.rs")));
    assert!(!place.list().exists());
}
