//! A folder of manifests, watched by the real kernel.

use gatewright_agent::source::{self, Source, SourceConfig, SourceError};
use gatewright_testkit::await_condition;
use gatewright_translate::Key;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PATIENCE: Duration = Duration::from_secs(20);

/// A folder and the source that reads it.
struct Fixture {
    source: Source,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Fixture {
    async fn start(folder: &Path) -> Self {
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let config = SourceConfig::Directory(folder.to_owned());
        let source = source::start(&config, cancel.clone(), &tasks)
            .await
            .expect("starts");
        Self {
            source,
            cancel,
            tasks,
        }
    }

    fn services(&self) -> Vec<String> {
        let objects = self.source.objects.borrow().clone();
        objects.services.keys().map(ToString::to_string).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.source
            .problems
            .borrow()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    async fn serves(&self, expected: &[&str]) {
        let what = format!("the services are {expected:?}");
        await_condition(&what, PATIENCE, || async { self.services() == expected }).await;
    }
}

async fn start_error(folder: &Path) -> SourceError {
    let config = SourceConfig::Directory(folder.to_owned());
    let started = source::start(&config, CancellationToken::new(), &TaskTracker::new()).await;
    started.err().expect("does not start")
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
    )
}

fn folder_with(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in names {
        write(&folder.path().join(format!("{name}.yaml")), &service(name));
    }
    folder
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[tokio::test]
async fn an_edited_manifest_counts_within_one_second() {
    let folder = folder_with(&["a"]);
    let fixture = Fixture::start(folder.path()).await;
    assert_eq!(fixture.services(), ["default/a"]);
    let begun = Instant::now();
    write(
        &folder.path().join("a.yaml"),
        &(service("a") + &service("b")),
    );
    fixture.serves(&["default/a", "default/b"]).await;
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn files_and_folders_come_and_go() {
    let folder = folder_with(&["a"]);
    let fixture = Fixture::start(folder.path()).await;
    let nested = folder.path().join("team/shop");
    fs::create_dir_all(&nested).expect("a folder");
    write(&nested.join("b.yaml"), &service("b"));
    fixture.serves(&["default/a", "default/b"]).await;
    write(&nested.join("b.yaml"), &service("c"));
    fixture.serves(&["default/a", "default/c"]).await;
    fs::remove_dir_all(folder.path().join("team")).expect("is removed");
    fixture.serves(&["default/a"]).await;
    fs::remove_file(folder.path().join("a.yaml")).expect("is removed");
    fixture.serves(&[]).await;
}

#[tokio::test]
async fn a_file_replaced_by_rename_is_seen_every_time() {
    let folder = folder_with(&["a"]);
    let fixture = Fixture::start(folder.path()).await;
    for name in ["b", "c", "d"] {
        let temporary = folder.path().join(".a.yaml.tmp");
        write(&temporary, &service(name));
        fs::rename(&temporary, folder.path().join("a.yaml")).expect("is renamed");
        fixture.serves(&[&format!("default/{name}")]).await;
    }
}

#[tokio::test]
async fn a_configmap_volume_is_followed_through_its_swaps() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let publish = |version: &str, name: &str| {
        fs::create_dir(at(version)).expect("a folder");
        write(&at(version).join("web.yaml"), &service(name));
        symlink(version, at("..data_tmp")).expect("a link");
        fs::rename(at("..data_tmp"), at("..data")).expect("is renamed");
    };
    publish("..1", "a");
    symlink("..data/web.yaml", at("web.yaml")).expect("a link");
    let fixture = Fixture::start(folder.path()).await;
    assert_eq!(fixture.services(), ["default/a"]);
    for (version, name) in [("..2", "b"), ("..3", "c")] {
        publish(version, name);
        fixture.serves(&[&format!("default/{name}")]).await;
    }
}

#[tokio::test]
async fn a_link_swapped_in_another_folder_is_followed() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let at = |name: &str| elsewhere.path().join(name);
    for (version, name) in [("v1", "a"), ("v2", "b")] {
        fs::create_dir(at(version)).expect("a folder");
        write(&at(version).join("web.yaml"), &service(name));
    }
    symlink("v1", at("current")).expect("a link");
    let folder = tempfile::tempdir().expect("a folder");
    symlink(at("current/web.yaml"), folder.path().join("web.yaml")).expect("a link");
    let fixture = Fixture::start(folder.path()).await;
    assert_eq!(fixture.services(), ["default/a"]);
    symlink("v2", at("next")).expect("a link");
    fs::rename(at("next"), at("current")).expect("is renamed");
    fixture.serves(&["default/b"]).await;
}

#[tokio::test]
async fn a_folder_deleted_and_made_anew_is_followed_and_meanwhile_its_state_kept() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("deep/manifests");
    let make = |name: &str| {
        fs::create_dir_all(&folder).expect("a folder");
        write(&folder.join("web.yaml"), &service(name));
    };
    make("a");
    let fixture = Fixture::start(&folder).await;
    for name in ["b", "c"] {
        let before = fixture.services();
        fs::remove_dir_all(parent.path().join("deep")).expect("is removed");
        await_condition("the loss is told", PATIENCE, || async {
            !fixture.problems().is_empty()
        })
        .await;
        assert_eq!(fixture.services(), before);
        make(name);
        fixture.serves(&[&format!("default/{name}")]).await;
        await_condition("all is well", PATIENCE, || async {
            fixture.problems().is_empty()
        })
        .await;
    }
    write(&folder.join("web.yaml"), &service("d"));
    fixture.serves(&["default/d"]).await;
}

#[tokio::test]
async fn a_manifest_that_stops_parsing_is_told_and_its_last_good_state_kept() {
    let folder = folder_with(&["a", "b"]);
    let fixture = Fixture::start(folder.path()).await;
    let file = folder.path().join("a.yaml");
    write(&file, &(service("a") + "kind: Service\n"));
    await_condition("the problem is told", PATIENCE, || async {
        !fixture.problems().is_empty()
    })
    .await;
    let problems = fixture.problems();
    assert!(
        problems[0].starts_with(&format!("{}:6: ", file.display())),
        "{problems:?}"
    );
    assert_eq!(fixture.services(), ["default/a", "default/b"]);
    // The others are not held up.
    write(&folder.path().join("b.yaml"), &service("c"));
    fixture.serves(&["default/a", "default/c"]).await;
    write(&file, &service("d"));
    fixture.serves(&["default/c", "default/d"]).await;
    await_condition("all is well", PATIENCE, || async {
        fixture.problems().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_touched_file_changes_nothing() {
    let folder = folder_with(&["a", "b"]);
    let mut fixture = Fixture::start(folder.path()).await;
    let before = fixture.source.objects.borrow_and_update().clone();
    write(
        &folder.path().join("a.yaml"),
        &format!("# comment\n{}", service("a")),
    );
    write(&folder.path().join("c.yaml"), "kind: Service\n");
    // Once the second file's fault is told, the first was read, too.
    await_condition("the problem is told", PATIENCE, || async {
        !fixture.problems().is_empty()
    })
    .await;
    assert!(
        !fixture.source.objects.has_changed().expect("runs"),
        "a comment made a new set"
    );
    write(
        &folder.path().join("b.yaml"),
        &(service("b") + &service("c")),
    );
    fixture
        .serves(&["default/a", "default/b", "default/c"])
        .await;
    let after = fixture.source.objects.borrow().clone();
    for name in ["a", "b"] {
        let key = Key::new("default", name);
        assert!(
            Arc::ptr_eq(&before.services[&key], &after.services[&key]),
            "{name}"
        );
    }
}

#[tokio::test]
async fn many_writes_in_a_row_make_few_sets() {
    let folder = folder_with(&["a"]);
    let mut fixture = Fixture::start(folder.path()).await;
    fixture.source.objects.mark_unchanged();
    for number in 0..200 {
        write(
            &folder.path().join(format!("s{number}.yaml")),
            &service(&format!("s{number}")),
        );
    }
    let mut sets = 0;
    let all = async {
        while fixture.source.objects.borrow_and_update().services.len() < 201 {
            fixture.source.objects.changed().await.expect("runs");
            sets += 1;
        }
    };
    timeout(PATIENCE, all).await.expect("all are read");
    assert!(sets <= 10, "{sets}");
}

#[tokio::test]
async fn a_missing_folder_or_a_broken_manifest_is_an_error_at_the_start() {
    let folder = folder_with(&["a"]);
    let missing = folder.path().join("missing");
    let error = start_error(&missing).await;
    assert!(matches!(error, SourceError::Directory { .. }), "{error:?}");
    assert!(
        error.to_string().contains(&missing.display().to_string()),
        "{error}"
    );

    let file = folder.path().join("a.yaml");
    assert!(matches!(
        start_error(&file).await,
        SourceError::Directory { .. }
    ));

    write(&file, &(service("a") + "kind: Service\n"));
    let error = start_error(folder.path()).await.to_string();
    assert!(
        error.starts_with(&format!("{}:6: ", file.display())),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[tokio::test]
async fn an_object_in_two_files_is_a_problem_that_names_both() {
    let folder = folder_with(&["a"]);
    write(&folder.path().join("b.yaml"), &service("a"));
    let fixture = Fixture::start(folder.path()).await;
    let problems = fixture.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    for part in ["a.yaml:2", "b.yaml:2", "Service default/a"] {
        assert!(problems[0].contains(part), "{problems:?}");
    }
}

#[tokio::test]
async fn the_tasks_end_with_the_token() {
    let folder = folder_with(&["a"]);
    let Fixture {
        cancel,
        tasks,
        source: _source,
    } = Fixture::start(folder.path()).await;
    cancel.cancel();
    tasks.close();
    timeout(PATIENCE, tasks.wait())
        .await
        .expect("the tasks end");
}

#[tokio::test]
async fn a_relative_folder_is_followed() {
    let folder = tempfile::Builder::new().tempdir_in(".").expect("a folder");
    let relative = PathBuf::from(folder.path().file_name().expect("has a name"));
    let fixture = Fixture::start(&relative).await;
    write(
        &folder.path().join("a.json"),
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}}"#,
    );
    fixture.serves(&["default/a"]).await;
}
