//! What a real Garage makes of our file and of our key: every golden configuration must start, and the node must be
//! who the key says. Only folders and ports are moved out of the way of other tests.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gatewright_garage::api::GarageCluster;
use gatewright_garage::config::{Data, Inherited, Settings, from_cluster, render};
use gatewright_garage::identity::{NodeKey, SlotKeys, slot_entry, slot_public_entry};
use gatewright_testkit::ports::free_port;
use gatewright_testkit::scratch::Scratch;

/// Ends with the test, also with a failed one.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn golden(name: &str) -> Settings {
    let path = format!("tests/goldens/config/{name}.yaml");
    let manifest = fs::read_to_string(path).expect("the manifest");
    let cluster: GarageCluster = serde_saphyr::from_str(&manifest).expect("a GarageCluster");
    from_cluster(
        &cluster,
        &Inherited::external(3, "dxflrs/garage:v2.5.0"),
        &[],
    )
    .or_else(|_| {
        from_cluster(
            &cluster,
            &Inherited::of(&cluster, "dxflrs/garage:v2.5.0"),
            &[],
        )
    })
    .expect("settings")
}

/// The same settings below `folder` and on free loopback ports.
fn moved(mut settings: Settings, folder: &Path) -> Settings {
    let below = |path: &str| format!("{}{path}", folder.display());
    let loopback = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    settings.metadata_dir = below(&settings.metadata_dir);
    settings.metadata_snapshots_dir = settings.metadata_snapshots_dir.map(|path| below(&path));
    match &mut settings.data {
        Data::One(path) => *path = below(path),
        Data::Many(folders) => folders
            .iter_mut()
            .for_each(|folder| folder.path = below(&folder.path)),
    }
    settings.rpc_bind = loopback();
    settings.s3.bind = loopback();
    settings.admin.bind = loopback();
    settings.k2v = settings.k2v.map(|_| loopback());
    if let Some(web) = &mut settings.web {
        web.bind = loopback();
    }
    settings
}

#[test]
fn every_golden_starts_and_is_who_its_key_says() {
    let Some(garage) = gatewright_testkit::part("garage") else {
        return;
    };
    for (seed, name) in ["storage", "gateway", "external", "everything"]
        .into_iter()
        .enumerate()
    {
        let scratch = Scratch::new("garage-config");
        let settings = moved(golden(name), scratch.path());
        let key = NodeKey::from_seed([seed as u8 + 1; 32]);
        fs::create_dir_all(&settings.metadata_dir).expect("the metadata folder");
        let folders = match &settings.data {
            Data::One(path) => vec![path],
            Data::Many(folders) => folders.iter().map(|folder| &folder.path).collect(),
        };
        for folder in folders {
            fs::create_dir_all(folder).expect("a data folder");
        }
        let keys = SlotKeys {
            keys: [(0, key.clone())].into(),
            ..SlotKeys::default()
        };
        let entries = keys.data();
        for (file, entry) in [
            ("node_key", slot_entry(0)),
            ("node_key.pub", slot_public_entry(0)),
        ] {
            let path = Path::new(&settings.metadata_dir).join(file);
            fs::write(&path, &entries[&entry].0).expect("the key");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).expect("its mode");
        }
        let file = scratch.path().join("garage.toml");
        fs::write(&file, render(&settings)).expect("the file");

        let command = || {
            let mut command = Command::new(&garage);
            command
                .env("GARAGE_CONFIG_FILE", &file)
                .env("GARAGE_RPC_SECRET", "ab".repeat(32));
            command
                .env("GARAGE_ADMIN_TOKEN", "token")
                .env("RUST_LOG", "garage=info")
                .env("NO_COLOR", "1");
            command
        };
        let mut server = command();
        let server = server
            .arg("server")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut running = Running(server.expect("garage starts"));
        // Kept open to the end: Garage does not survive the loss of its log.
        let mut log = BufReader::new(running.0.stderr.take().expect("its log")).lines();
        let mut said = Vec::new();
        let listening = log.by_ref().map_while(Result::ok).any(|line| {
            said.push(line);
            said.last()
                .is_some_and(|line| line.contains("S3 API server listening on"))
        });
        assert!(listening, "{name} does not start:\n{}", said.join("\n"));
        let node = &key.id().to_string()[..16];
        assert!(
            said.iter().any(|line| line.contains(node)),
            "{name}: not {node}:\n{}",
            said.join("\n")
        );
        if name == "storage" {
            // What people type in a pod.
            let status = command().arg("status").output().expect("a status");
            let printed = String::from_utf8_lossy(&status.stdout);
            assert!(
                status.status.success() && printed.contains(node),
                "{status:?}"
            );
        }
    }
}

#[test]
fn a_key_of_garage_is_a_key_of_ours() {
    let Some(garage) = gatewright_testkit::part("garage") else {
        return;
    };
    let scratch = Scratch::new("garage-key");
    let settings = moved(golden("storage"), scratch.path());
    fs::create_dir_all(&settings.metadata_dir).expect("the metadata folder");
    let file = scratch.path().join("garage.toml");
    fs::write(&file, render(&settings)).expect("the file");
    let mut server = Command::new(&garage);
    server
        .arg("-c")
        .arg(&file)
        .arg("server")
        .env("GARAGE_RPC_SECRET", "ab".repeat(32))
        .env("RUST_LOG", "garage=info");
    let server = server.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut running = Running(server.expect("garage starts"));
    let log = BufReader::new(running.0.stderr.take().expect("its log"));
    let made = log
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("Node ID of this node"));
    assert!(made, "garage makes a key");

    let bytes = fs::read(Path::new(&settings.metadata_dir).join("node_key")).expect("the key");
    let key = NodeKey::from_bytes(&bytes).expect("a key");
    let printed = Command::new(&garage)
        .arg("-c")
        .arg(&file)
        .args(["node", "id", "-q"])
        .output()
        .expect("an id");
    assert!(
        String::from_utf8_lossy(&printed.stdout).starts_with(&key.id().to_string()),
        "{printed:?}"
    );
}
