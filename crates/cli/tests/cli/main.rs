//! The binary as a person uses it: what it prints, what it exits with, and that the minimal files of the
//! documentation work as they stand.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use gatewright_testkit::backend::Backend;
use gatewright_testkit::ports::free_port;
use gatewright_testkit::scratch::Scratch;
use gatewright_testkit::{await_condition, http};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Bound of every wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(30);
const MANIFEST: &str = include_str!("../../../../examples/demo/hello.yaml");
const HELLO: &str = "hello.demo.gateway.localhost";

/// The binary, with nothing of this process's environment that could be a setting.
fn gatewright(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
    command
        .args(arguments)
        .env_clear()
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// How a command ended, and what it said.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn finish(command: &mut Command) -> Ended {
    let output = tokio::time::timeout(SOON, command.output()).await;
    let output = output
        .expect("it ends by itself")
        .expect("it can be started");
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A command that runs until it is told to stop.
struct Running {
    process: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Option<ChildStderr>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut process = command.spawn().expect("it can be started");
        let out = process.stdout.take().expect("its standard output");
        let err = process.stderr.take();
        Self {
            process,
            out: BufReader::new(out).lines(),
            err,
        }
    }

    /// Lines of standard output up to the one that contains `text`.
    async fn say_until(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let reading = async {
            while let Some(line) = self.out.next_line().await.expect("read its output") {
                lines.push(line);
                if lines.last().is_some_and(|line| line.contains(text)) {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(SOON, reading).await;
        assert!(found == Ok(true), "{text:?} in vain in {lines:?}");
        lines
    }

    /// Sends a signal and waits for the end.
    async fn stop(mut self, signal: &str) -> Ended {
        let id = self.process.id().expect("it runs").to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status()
            .await;
        assert!(sent.expect("kill can be started").success());
        let mut err = String::new();
        let ended = async {
            let mut out = String::new();
            while let Some(line) = self.out.next_line().await.expect("read its output") {
                out.push_str(&line);
                out.push('\n');
            }
            if let Some(mut stream) = self.err.take() {
                stream.read_to_string(&mut err).await.expect("text");
            }
            let status = self.process.wait().await.expect("its end");
            (status.code(), out)
        };
        let (code, out) = tokio::time::timeout(SOON, ended)
            .await
            .expect("it ends when told");
        Ended { code, out, err }
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// The demo's command with ports of its own, and where users and the status page are.
fn demo(folder: &Path) -> (Command, SocketAddr, SocketAddr) {
    let (users, admin, backend) = (address(), address(), address());
    let manifests = folder.join("manifests");
    std::fs::create_dir_all(&manifests).expect("make a folder");
    let manifest = MANIFEST.replace("8081", &backend.port().to_string());
    std::fs::write(manifests.join("hello.yaml"), manifest).expect("write a manifest");
    let [listen, status, sample] = [users, admin, backend].map(|address| address.to_string());
    let arguments = [
        "demo",
        "--listen",
        &listen,
        "--admin",
        &status,
        "--backend",
        &sample,
        "--manifests",
        "manifests",
    ];
    (gatewright(folder, &arguments), users, admin)
}

async fn answers(users: SocketAddr, host: &str) -> bool {
    http::get(users, host, "/").await.status() == 200
}

#[tokio::test]
async fn the_demo_prints_its_urls_follows_its_manifests_and_stops_when_told() {
    let folder = Scratch::new("demo");
    let (mut command, users, admin) = demo(folder.path());
    let mut demo = Running::start(&mut command);
    let said = demo.say_until("Ctrl-C").await.join("\n");
    assert!(
        said.contains(&format!(
            "http://{HELLO}:{}/  ->  default/hello:80",
            users.port()
        )),
        "{said}"
    );
    assert!(said.contains(&format!("http://{admin}/")), "{said}");
    let response = http::get(users, HELLO, "/a?b").await;
    assert_eq!(response.status(), 200);
    assert!(
        response
            .text()
            .starts_with("Hello from behind the tunnel.\n\nGET /a?b\n"),
        "{}",
        response.text()
    );
    let page = http::get(admin, &admin.to_string(), "/").await;
    assert_eq!(page.status(), 200);

    let manifest = folder.path().join("manifests/hello.yaml");
    let text = std::fs::read_to_string(&manifest).expect("the manifest");
    // Within a second; a machine that is busy with other tests gets three chances.
    let mut before = HELLO.to_owned();
    let mut quick = false;
    for number in 0..3 {
        let moved = format!("moved-{number}.demo.gateway.localhost");
        let written = tokio::time::Instant::now();
        std::fs::write(&manifest, text.replace(HELLO, &moved)).expect("write the manifest");
        await_condition(
            "the new host is served and the old one is not",
            SOON,
            || async { answers(users, &moved).await && !answers(users, &before).await },
        )
        .await;
        quick |= written.elapsed() < Duration::from_secs(1);
        before = moved;
        let said = demo.say_until(&before).await.join("\n");
        assert!(said.contains("The manifests changed."), "{said}");
        if quick {
            break;
        }
    }
    assert!(quick, "three changes took longer than a second each");
    let ended = demo.stop("INT").await;
    assert_eq!(
        (ended.code, ended.out.contains("Draining.")),
        (Some(0), true),
        "{}",
        ended.err
    );
}

#[track_caller]
fn assert_one_line(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{} {}", ended.out, ended.err);
    let lines: Vec<&str> = ended
        .err
        .lines()
        .filter(|line| !line.starts_with('{'))
        .collect();
    assert_eq!(lines.len(), 1, "{}", ended.err);
    for part in parts {
        assert!(lines[0].contains(part), "{part:?} in {:?}", lines[0]);
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_line_and_2() {
    let folder = Scratch::new("demo");
    let (mut command, users, _) = demo(folder.path());
    let _taken = TcpListener::bind(users).expect("take the port");
    let ended = finish(&mut command).await;
    assert_one_line(&ended, 2, &[&users.to_string(), "taken"]);
}

#[tokio::test]
async fn manifests_that_cannot_be_read_are_one_line_and_2() {
    let folder = Scratch::new("demo");
    let (mut command, ..) = demo(folder.path());
    std::fs::remove_dir_all(folder.path().join("manifests")).expect("remove the folder");
    assert_one_line(&finish(&mut command).await, 2, &["manifests"]);
    let (mut command, ..) = demo(folder.path());
    std::fs::write(folder.path().join("manifests/hello.yaml"), "a: [").expect("write");
    assert_one_line(&finish(&mut command).await, 2, &["hello.yaml"]);
}

#[tokio::test]
async fn an_unknown_key_is_2_and_the_nearest_known_one() {
    let folder = Scratch::new("config");
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("write");
    write(
        "edge.yaml",
        "listen: { htpp: 127.0.0.1:0, admin: 127.0.0.1:0 }\n",
    );
    let ended = finish(&mut gatewright(
        folder.path(),
        &["edge", "--config", "edge.yaml"],
    ))
    .await;
    assert_one_line(&ended, 2, &["edge.yaml", "htpp", "did you mean `http`?"]);
    write("agent.yaml", "edgs: [\"ws://127.0.0.1:1\"]\n");
    let ended = finish(&mut gatewright(
        folder.path(),
        &["agent", "--config", "agent.yaml"],
    ))
    .await;
    assert_one_line(&ended, 2, &["agent.yaml", "edgs", "did you mean `edges`?"]);
    let ended = finish(&mut gatewright(
        folder.path(),
        &["agent", "--config", "none.yaml"],
    ))
    .await;
    assert_one_line(&ended, 2, &["none.yaml"]);
    let ended = finish(&mut gatewright(folder.path(), &["edg"])).await;
    assert_eq!(ended.code, Some(2));
}

/// The minimal files as documented, but for the ports.
#[tokio::test]
async fn edge_cluster_and_agent_run_from_the_minimal_files() {
    let folder = Scratch::new("minimal");
    let path = folder.path();
    let (users, admin) = (address(), address());
    let write = |name: &str, text: String| std::fs::write(path.join(name), text).expect("write");
    write(
        "edge.yaml",
        format!(
            "listen: {{ http: {users}, admin: {admin} }}\ndomain: gateway.localhost\nstore: {{ path: ./edge-data }}\n"
        ),
    );
    write(
        "agent.yaml",
        format!(
            "edges: [\"ws://{users}\"]\ntoken_file: ./token\nsource: {{ directory: ./manifests }}\n"
        ),
    );
    let backend = Backend::start().await;
    std::fs::create_dir(path.join("manifests")).expect("make a folder");
    let manifest = MANIFEST
        .replace("8081", &backend.address().port().to_string())
        .replace(HELLO, "app.example.test");
    write("manifests/app.yaml", manifest);

    let mut edge = Running::start(&mut gatewright(path, &["edge", "--config", "edge.yaml"]));
    await_condition("an edge that is ready", SOON, || async {
        tokio::net::TcpStream::connect(admin).await.is_ok()
    })
    .await;
    let url = format!("http://{admin}");
    let create = [
        "clusters",
        "--admin",
        &url,
        "create",
        "demo",
        "--hosts",
        "*.example.test",
    ];
    let made = finish(&mut gatewright(path, &create)).await;
    assert_eq!(made.code, Some(0), "{}", made.err);
    assert!(
        made.out.starts_with("gwt_") && made.out.lines().count() == 1,
        "the token alone: {:?}",
        made.out
    );
    let token = made.out.trim().to_owned();
    assert!(!made.err.contains(&token));
    write("token", made.out);
    let agent = Running::start(&mut gatewright(path, &["agent", "--config", "agent.yaml"]));
    await_condition("an answer through the tunnel", SOON, || async {
        http::get(users, "app.example.test", "/status/200")
            .await
            .status()
            == 200
    })
    .await;

    let again = finish(&mut gatewright(path, &create)).await;
    assert_one_line(&again, 1, &["demo", "exists already"]);
    let routes = ["routes", "--admin", &url, "-o", "json"];
    let routes = finish(&mut gatewright(path, &routes)).await;
    assert_eq!(routes.code, Some(0), "{}", routes.err);
    let json: serde_json::Value = serde_json::from_str(&routes.out).expect("JSON");
    assert!(json.to_string().contains("app.example.test"), "{json}");
    let stopped = agent.stop("TERM").await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(!stopped.err.contains(&token), "no log line holds the token");

    let line = edge.say_until("\"path\":\"/status/200\"").await;
    let line: serde_json::Value = serde_json::from_str(line.last().expect("a line")).expect("JSON");
    assert_eq!(
        (&line["host"], &line["method"]),
        (&"app.example.test".into(), &"GET".into())
    );
    let stopped = edge.stop("TERM").await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(!stopped.err.contains(&token) && !stopped.out.contains(&token));
    let ended = finish(&mut gatewright(path, &create)).await;
    assert_one_line(&ended, 1, &["cannot reach the edge's admin API"]);
}
