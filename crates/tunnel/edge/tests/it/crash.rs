//! The store under `kill -9`: what was acknowledged is there afterwards, at whatever moment it came.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gatewright_edge::Clusters;
use gatewright_routes::message::Position;
use gatewright_routes::registry::Verdict;
use gatewright_routes::{Change, ClusterId};

use crate::support::{create, open, route};

/// Names the store's folder to the child, and thereby makes a process the child.
const CHILD: &str = "GATEWRIGHT_TEST_CRASHING_STORE";
const CLUSTERS: [&str; 3] = ["a", "b", "c"];
const ROUNDS: usize = 30;

/// Flaw: an acknowledged change is lost when the edge dies.
#[test]
fn kill_9_at_any_moment_loses_nothing_acknowledged() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut child = Writer::start(folder.path());
        // Another number of lines each time: between none, which is in the middle of opening or making
        // the store, and some dozens, which is between the parts of a commit.
        let patience = round * round * 7 % 61;
        for line in child.lines(patience) {
            let (name, number) = line.split_once(' ').unwrap();
            acknowledged.insert(name.to_owned(), number.parse().unwrap());
            total += 1;
        }
        for line in child.kill() {
            let (name, number) = line.split_once(' ').unwrap();
            acknowledged.insert(name.to_owned(), number.parse().unwrap());
            total += 1;
        }
        check(&open(folder.path()), &mut acknowledged);
    }
    assert!(
        total > ROUNDS,
        "the children acknowledged {total} changes only, which proves little"
    );
}

/// Everything up to the last acknowledged number is there; one more may be, since it may have been
/// written and not been told. What was seen once has to stay as well.
fn check(clusters: &Clusters, acknowledged: &mut BTreeMap<String, u64>) {
    for view in clusters.views() {
        let name = view.record.name;
        let last = acknowledged.entry(name.clone()).or_default();
        let routes = clusters.routes_of(&view.record.id);
        let served = routes
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Accepted)
            .count() as u64;
        assert_eq!(served, routes.len() as u64, "cluster {name}");
        assert!(
            (*last..=*last + 1).contains(&served),
            "cluster {name}: {last} acknowledged, {served} there"
        );
        *last = served;
        for number in 1..=served {
            let found = clusters.snapshot();
            let found = found
                .table
                .lookup(view.record.own_host.as_str(), &format!("/{number}"));
            assert_eq!(
                found.map(|found| found.route.id.0),
                Ok(number),
                "cluster {name}"
            );
        }
        let position = clusters.position(&view.record.id);
        assert_eq!(
            position,
            Some(Position {
                generation: 1,
                sequence: served
            }),
            "cluster {name}"
        );
    }
    let there: Vec<String> = clusters
        .list()
        .into_iter()
        .map(|record| record.name)
        .collect();
    let lost = acknowledged.keys().find(|name| !there.contains(name));
    assert_eq!(lost, None, "a cluster is gone");
}

/// The child: several clusters add routes at once, and each acknowledged one is printed.
fn write_until_killed(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let clusters = open(folder);
        let mut writers = tokio::task::JoinSet::new();
        for name in CLUSTERS {
            let clusters = clusters.clone();
            writers.spawn(async move {
                let id = match clusters.view(name) {
                    Ok(view) => view.record.id,
                    Err(_) => create(&clusters, name, &[]).await.0,
                };
                add_routes(&clusters, name, &id).await;
            });
        }
        writers.join_all().await;
    });
}

async fn add_routes(clusters: &Clusters, name: &str, id: &ClusterId) {
    let done = clusters
        .position(id)
        .map_or(0, |position| position.sequence);
    for number in done + 1.. {
        let change = Change::Upsert(vec![route(number, "", &format!("/{number}"))]);
        let position = Position {
            generation: 1,
            sequence: number,
        };
        clusters.apply(id, change, Some(position)).await.unwrap();
        // One write, so that a line is whole or not there.
        std::io::stdout()
            .write_all(format!("ack {name} {number}\n").as_bytes())
            .unwrap();
    }
}

/// A process that writes, and what it prints.
struct Writer {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Writer {
    fn start(folder: &Path) -> Self {
        let test = "crash::kill_9_at_any_moment_loses_nothing_acknowledged";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Waits for so many acknowledgements.
    fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            let mut line = String::new();
            assert!(
                self.output.read_line(&mut line).unwrap() > 0,
                "the child ended by itself"
            );
            lines.extend(acknowledgement(&line));
        }
        lines
    }

    /// Kills it; the acknowledgements that it had printed by then.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.output
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| acknowledgement(&line))
            .collect()
    }
}

/// The test harness prints lines of its own, and one of them has no end of its own.
fn acknowledgement(line: &str) -> Option<String> {
    let (_, acknowledged) = line.trim_end().split_once("ack ")?;
    Some(acknowledged.to_owned())
}

/// Names the store's folder to a child whose disk becomes full.
const FULL: &str = "GATEWRIGHT_TEST_FULL_STORE";

/// Flaw: after the disk was full once, the edge says "done" and forgets, or wants to be restarted.
#[test]
fn a_full_disk_fails_the_change_and_nothing_else() {
    if let Some(folder) = std::env::var_os(FULL) {
        return fill_the_disk(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    // A limit on the size of files stands for the size of a disk. Without the trap the kernel would end
    // the process instead of failing the write.
    let size = std::fs::metadata(folder.path().join("edge.redb"))
        .unwrap()
        .len();
    let status = Command::new("prlimit")
        .arg(format!("--fsize={}:unlimited", size + 64 * 1024))
        .args(["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "crash::a_full_disk_fails_the_change_and_nothing_else",
            "--exact",
            "--nocapture",
        ])
        .env(FULL, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let clusters = open(folder.path());
    let routes = clusters.routes_of(&clusters.view("demo").unwrap().record.id);
    let last = routes.iter().map(|(route, _)| route.id.0).max();
    assert_eq!(last, Some(routes.len() as u64), "there is a gap");
}

/// The child: adds routes until the disk is full, gets more disk, and goes on.
fn fill_the_disk(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let clusters = open(folder);
        let (id, token) = create(&clusters, "demo", &[]).await;
        let host = clusters.view("demo").unwrap().record.own_host;
        let served = |number: u64| {
            clusters
                .snapshot()
                .table
                .lookup(host.as_str(), &format!("/{number}"))
                .is_ok()
        };
        let add = async |number: u64| {
            let mut large = route(number, "", &format!("/{number}"));
            large.annotations = [("large".to_owned(), "x".repeat(16_000))].into();
            let position = Position {
                generation: 1,
                sequence: number,
            };
            clusters
                .apply(&id, Change::Upsert(vec![large]), Some(position))
                .await
        };
        let mut number = 1;
        let error = loop {
            match add(number).await {
                Ok(_) => number += 1,
                Err(error) => break error,
            }
            assert!(number < 10_000, "the disk is never full");
        };
        assert!(
            error.to_string().contains("the change was not made"),
            "{error}"
        );
        // It fails again, and what was there is there.
        assert!(add(number).await.is_err());
        assert!(served(number - 1) && !served(number));
        assert_eq!(
            clusters.position(&id).map(|at| at.sequence),
            Some(number - 1)
        );
        assert!(clusters.authenticate(token.reveal()).is_some());

        let me = std::process::id().to_string();
        let more = Command::new("prlimit")
            .args(["--pid", &me, "--fsize=unlimited:unlimited"])
            .status();
        assert!(more.unwrap().success());
        add(number).await.unwrap();
        assert!(served(number));
        assert_eq!(clusters.position(&id).map(|at| at.sequence), Some(number));
    });
}
