//! Asks a real Garage and the played one the same, and compares the form of the answers. It may not
//! compare what only a real one knows: names, sizes, what moves.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::process::Group;
use super::garage::{Garage, Node};
use crate::{stopwatch, workspace};

/// Every field of a value: `nodes[].role.zone`. Ids in place of names are all the same.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let name = if name.len() == 64 { "ID" } else { name };
                fields(value, &format!("{at}.{name}"), found);
            }
        }
        Value::Array(all) => {
            for value in all {
                fields(value, &format!("{at}[]"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            // An account for people, and numbers of which the operator reads none.
            let ours = !at.contains(".statistics.zones") && !at.contains(".message[]");
            found.extend(ours.then(|| at.to_owned()));
        }
    }
}

/// A real Garage of one node.
struct Real {
    group: Group,
    dir: PathBuf,
    port: u16,
}

impl Drop for Real {
    fn drop(&mut self) {
        self.group.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Real {
    /// `None`, and a line that says so, where Garage is missing.
    fn start() -> Option<Self> {
        let Some(program) = workspace::program("garage") else {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "there is no garage"
            );
            eprintln!("SKIPPED: there is no garage; `cargo xtask tools` gets it");
            return None;
        };
        let dir = std::env::temp_dir().join(format!("xtask-garage-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let (rpc, s3, admin) = (free(), free(), free());
        let config = format!(
            "metadata_dir = \"meta\"\ndata_dir = \"data\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_secret = \"{}\"\n[s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{s3}\"\n\
             [admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\nadmin_token = \"t\"\n",
            "5".repeat(64)
        );
        fs::write(dir.join("garage.toml"), config).expect("written");
        let mut command = Command::new(program);
        command
            .args(["-c", "garage.toml", "server"])
            .current_dir(&dir);
        let mut group = Group::default();
        group
            .spawn("garage", &command, &dir.join("log"))
            .expect("garage starts");
        let real = Self {
            group,
            dir,
            port: admin,
        };
        let up = stopwatch::poll(Duration::from_secs(30), Duration::from_millis(20), || {
            TcpStream::connect(("127.0.0.1", admin)).is_ok()
        });
        let log = fs::read_to_string(real.dir.join("log"));
        assert!(up, "Garage does not listen: {log:?}");
        Some(real)
    }

    fn ask(&self, call: &str, body: &Value) -> (u16, Value) {
        let (method, body) = match body {
            Value::Null if !call.starts_with("Preview") && !call.starts_with("Revert") => {
                ("GET", String::new())
            }
            Value::Null => ("POST", String::new()),
            body => ("POST", body.to_string()),
        };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        write!(
            stream,
            "{method} /v2/{call} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer t\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let body = serde_json::from_str(body).unwrap_or_else(|e| panic!("{call}: {e}: {answer}"));
        (status.expect("a status"), body)
    }
}

#[test]
fn answers_have_the_form_of_a_real_garages() {
    let Some(real) = Real::start() else { return };
    let (_, status) = real.ask("GetClusterStatus", &Value::Null);
    let id = status["nodes"][0]["id"].as_str().expect("an id").to_owned();
    let mut played = Garage::default();
    let node = Node {
        addr: "127.0.0.1:1".to_owned(),
        hostname: "h".to_owned(),
    };
    played.join(&id, node);

    let other = "ab".repeat(32);
    let storing = json!({ "id": id, "zone": "z", "capacity": 1_u64 << 30, "tags": ["t"] });
    let gateway = json!({ "id": other, "zone": "z", "capacity": null, "tags": [] });
    let calls = [
        ("GetClusterStatus", Value::Null),
        ("GetClusterHealth", Value::Null),
        ("GetClusterLayout", Value::Null),
        ("GetClusterLayoutHistory", Value::Null),
        (
            "UpdateClusterLayout",
            json!({ "roles": [storing, gateway], "parameters": { "zoneRedundancy": "maximum" } }),
        ),
        ("PreviewClusterLayoutChanges", Value::Null),
        ("ApplyClusterLayout", json!({ "version": 1 })),
        ("ApplyClusterLayout", json!({ "version": 9 })),
        ("GetClusterLayout", Value::Null),
        ("GetClusterLayoutHistory", Value::Null),
        ("GetClusterStatus", Value::Null),
        ("GetClusterHealth", Value::Null),
        ("GetNodeStatistics?node=self", Value::Null),
        (
            "UpdateClusterLayout",
            json!({ "roles": [{ "id": other, "remove": true }], "parameters": { "zoneRedundancy": { "atLeast": 1 } } }),
        ),
        ("RevertClusterLayout", Value::Null),
        (
            "UpdateClusterLayout",
            json!({ "roles": [{ "id": "abc", "remove": true }] }),
        ),
    ];
    for (number, (call, body)) in calls.iter().enumerate() {
        let (expected, truth) = real.ask(call, body);
        let name = call.split('?').next().unwrap_or(call);
        let (status, answer) = played.answer(&id, name, body);
        let mut of_real = BTreeSet::new();
        let mut of_played = BTreeSet::new();
        fields(&truth, "", &mut of_real);
        fields(&answer, "", &mut of_played);
        assert_eq!(status, expected, "{number}: {call}: {truth}");
        assert_eq!(of_played, of_real, "{number}: {call}: {truth}");
    }
}
