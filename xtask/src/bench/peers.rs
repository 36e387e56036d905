//! Starts each peer of the comparison from its configuration in bench/peers. It may not measure.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::process::Group;
use super::{gatewright, http};
use crate::{stopwatch, workspace};

/// What can stand between the load and the origin.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Peer {
    /// Nothing: a second origin, the ceiling
    Direct,
    /// nginx, a plain proxy
    NginxProxy,
    /// HAProxy, a plain proxy
    HaproxyProxy,
    /// Envoy, a plain proxy
    EnvoyProxy,
    /// Envoy's reverse tunnel, HTTP/2 with its defaults
    EnvoyTunnel,
    /// rathole, a TCP tunnel
    RatholeTcp,
    /// edge and agent over the WebSocket carrier, all defaults
    Gatewright,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Direct => "direct",
            Peer::NginxProxy => "nginx-proxy",
            Peer::HaproxyProxy => "haproxy-proxy",
            Peer::EnvoyProxy => "envoy-proxy",
            Peer::EnvoyTunnel => "envoy-tunnel",
            Peer::RatholeTcp => "rathole-tcp",
            Peer::Gatewright => "gatewright",
        }
    }

    /// The Host header of requests to it.
    pub(crate) fn host(self) -> &'static str {
        gatewright::HOST
    }

    /// What the legend under the table says of it.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Peer::Direct => "no proxy: a second nginx like the origin, 1 worker",
            Peer::NginxProxy => "plain HTTP proxy, no tunnel, 1 worker",
            Peer::HaproxyProxy => "plain HTTP proxy, no tunnel, 1 thread",
            Peer::EnvoyProxy => "plain HTTP proxy, no tunnel, concurrency 1",
            Peer::EnvoyTunnel => {
                "reverse tunnel over HTTP/2, no encryption, 1 connection, concurrency 1 at both ends"
            }
            Peer::RatholeTcp => {
                "reverse tunnel of TCP connections (it sees no HTTP), no encryption, all cores"
            }
            Peer::Gatewright => {
                "reverse tunnel over HTTP/2 in a WebSocket, no encryption, all cores, all defaults, \
                 access log to a file"
            }
        }
    }

    /// The program it needs, by name.
    fn program_name(self) -> &'static str {
        match self {
            Peer::Direct | Peer::NginxProxy => "nginx",
            Peer::HaproxyProxy => "haproxy",
            Peer::EnvoyProxy | Peer::EnvoyTunnel => "envoy",
            Peer::RatholeTcp => "rathole",
            Peer::Gatewright => "gatewright",
        }
    }

    /// The number that shifts its ports, so that no two peers meet on one.
    fn number(self) -> u16 {
        match self {
            Peer::Direct => 1,
            Peer::NginxProxy => 2,
            Peer::HaproxyProxy => 3,
            Peer::EnvoyProxy => 4,
            Peer::EnvoyTunnel => 5,
            Peer::RatholeTcp => 6,
            Peer::Gatewright => 7,
        }
    }
}

/// Where a run happens: the origin, the folders, the ports, the programs.
pub(crate) struct Ground {
    pub(crate) out: PathBuf,
    www: PathBuf,
    first_port: u16,
    user: String,
    gatewright: Option<PathBuf>,
    _origin: Group,
}

/// A peer that answers.
pub(crate) struct Started {
    pub(crate) group: Group,
    pub(crate) port: u16,
}

impl Ground {
    /// Writes the origin's documents under `out` and starts it on `first_port`.
    pub(crate) fn prepare(
        out: &Path,
        first_port: u16,
        gatewright: Option<PathBuf>,
    ) -> Result<Self> {
        let out = std::path::absolute(out)?;
        let www = out.join("www");
        fs::create_dir_all(&www).with_context(|| format!("cannot make {}", www.display()))?;
        fs::write(www.join("1k"), [b'x'; 1024])?;
        let large = www.join("1g");
        fs::File::create(&large)?.set_len(1 << 30)?;
        // Into the page cache, or the first download pays for it.
        std::io::copy(&mut fs::File::open(&large)?, &mut std::io::sink())?;
        let mut ground = Self {
            out,
            www,
            first_port,
            user: user_and_group()?,
            gatewright,
            _origin: Group::default(),
        };
        let mut origin = Group::default();
        ground.start_nginx(&mut origin, "origin", "origin", first_port)?;
        wait_until_served(&mut origin, first_port, "origin.test")?;
        ground._origin = origin;
        Ok(ground)
    }

    /// The peer's program, or `None` when this machine does not have it.
    pub(crate) fn program(&self, peer: Peer) -> Option<PathBuf> {
        match peer {
            Peer::Gatewright => self.gatewright.clone(),
            Peer::Direct
            | Peer::NginxProxy
            | Peer::HaproxyProxy
            | Peer::EnvoyProxy
            | Peer::EnvoyTunnel
            | Peer::RatholeTcp => workspace::program(peer.program_name()),
        }
    }

    /// The program's version as it prints it itself.
    pub(crate) fn version(&self, peer: Peer) -> Result<String> {
        let program = self.required(peer)?;
        let flag = match peer {
            Peer::Direct | Peer::NginxProxy | Peer::HaproxyProxy => "-v",
            Peer::EnvoyProxy | Peer::EnvoyTunnel | Peer::RatholeTcp | Peer::Gatewright => {
                "--version"
            }
        };
        let output = Command::new(&program).arg(flag).output()?;
        // nginx tells its version on stderr.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let number = said
            .split(|c: char| c.is_whitespace() || c == '/')
            .find(|word| is_version(word))
            .with_context(|| format!("{} {flag} tells no version", program.display()))?;
        Ok(format!("{} {number}", peer.program_name()))
    }

    /// Starts the peer with an empty folder of its own and waits until requests pass.
    pub(crate) fn start(&self, peer: Peer) -> Result<Started> {
        let port = self.first_port + 10 * peer.number();
        let mut group = Group::default();
        match peer {
            Peer::Direct => self.start_nginx(&mut group, peer.name(), "origin", port)?,
            Peer::NginxProxy => self.start_nginx(&mut group, peer.name(), peer.name(), port)?,
            Peer::HaproxyProxy => {
                let work = self.fresh_work(peer.name())?;
                let config = self.render(peer, "haproxy.cfg", port)?;
                let mut command = Command::new(self.required(peer)?);
                command.arg("-db").arg("-f").arg(config);
                group.spawn(peer.name(), &command, &work.join("log"))?;
            }
            Peer::EnvoyProxy => {
                self.fresh_work(peer.name())?;
                self.start_envoy(&mut group, peer, "envoy.yaml", port)?;
            }
            Peer::EnvoyTunnel => {
                self.fresh_work(peer.name())?;
                self.start_envoy(&mut group, peer, "edge.yaml", port)?;
                // The first dial must not fail: the next comes only seconds later.
                wait_until_open(&mut group, port + 1)?;
                self.start_envoy(&mut group, peer, "agent.yaml", port)?;
            }
            Peer::RatholeTcp => {
                let work = self.fresh_work(peer.name())?;
                let config = self.render(peer, "rathole.toml", port)?;
                for side in ["--server", "--client"] {
                    let mut command = Command::new(self.required(peer)?);
                    command.arg(side).arg(&config).env("RUST_LOG", "warn");
                    group.spawn(side, &command, &work.join(format!("log{side}")))?;
                    wait_until_open(&mut group, port + 1)?;
                }
            }
            Peer::Gatewright => {
                let work = self.fresh_work(peer.name())?;
                gatewright::write_manifests(self, &work, &[gatewright::small_site()])?;
                gatewright::start(self, &mut group, &work, port)?;
            }
        }
        wait_until_served(&mut group, port, peer.host())?;
        Ok(Started { group, port })
    }

    pub(crate) fn required(&self, peer: Peer) -> Result<PathBuf> {
        self.program(peer)
            .with_context(|| format!("the program {} is missing", peer.program_name()))
    }

    /// An empty folder for one peer's files.
    pub(crate) fn fresh_work(&self, name: &str) -> Result<PathBuf> {
        let work = self.out.join("work").join(name);
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
        Ok(work)
    }

    fn start_nginx(&self, group: &mut Group, name: &str, config: &str, port: u16) -> Result<()> {
        let work = self.fresh_work(name)?;
        let text = fill(&template(config, "nginx.conf")?, &self.values(&work, port))?;
        let path = work.join("nginx.conf");
        fs::write(&path, text)?;
        let mut command = Command::new(self.required(Peer::NginxProxy)?);
        command
            .arg("-p")
            .arg(&work)
            .arg("-e")
            .arg(work.join("error.log"));
        command.arg("-c").arg(path);
        group.spawn(name, &command, &work.join("log"))
    }

    fn start_envoy(&self, group: &mut Group, peer: Peer, config: &str, port: u16) -> Result<()> {
        let path = self.render(peer, config, port)?;
        let mut command = Command::new(self.required(peer)?);
        command.arg("-c").arg(&path);
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warn"]);
        group.spawn(config, &command, &path.with_extension("log"))
    }

    /// Fills one of the peer's templates in and writes it into its folder.
    pub(crate) fn render(&self, peer: Peer, name: &str, port: u16) -> Result<PathBuf> {
        let work = self.out.join("work").join(peer.name());
        let text = fill(&template(peer.name(), name)?, &self.values(&work, port))?;
        let path = work.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// What the templates may name. `tunnel_port` is for whatever else a peer has to listen on.
    pub(crate) fn values(&self, work: &Path, port: u16) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("listen_port", port.to_string()),
            ("tunnel_port", (port + 1).to_string()),
            ("origin_port", self.first_port.to_string()),
            ("user", self.user.clone()),
            ("work", work.display().to_string()),
            ("www", self.www.display().to_string()),
        ])
    }
}

/// Numbers with dots between them to begin with; not a time of day.
fn is_version(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.') && !word.contains(':')
}

/// The template `name` of `peer`.
pub(crate) fn template(peer: &str, name: &str) -> Result<String> {
    let path = workspace::root().join("bench/peers").join(peer).join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// `template` with each `{{name}}` replaced; an error if one is not among `values`.
pub(crate) fn fill(template: &str, values: &BTreeMap<&'static str, String>) -> Result<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    // YAML itself closes two braces together, but never opens two before a letter.
    if let Some((_, rest)) = text.split_once("{{") {
        let name: String = rest.chars().take_while(|c| *c != '}').collect();
        anyhow::bail!("the template asks for {{{{{name}}}}}, which has no value");
    }
    Ok(text)
}

fn user_and_group() -> Result<String> {
    let user = workspace::output_of(Command::new("id").arg("-un"))?;
    let group = workspace::output_of(Command::new("id").arg("-gn"))?;
    Ok(format!("{user} {group}"))
}

/// Waits until something accepts connections on the loopback port; 10 s at most.
pub(crate) fn wait_until_open(group: &mut Group, port: u16) -> Result<()> {
    wait(group, &format!("nothing listens on port {port}"), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
}

/// Waits until the small document has come through the port three times running; 20 s at most.
fn wait_until_served(group: &mut Group, port: u16, host: &str) -> Result<()> {
    let mut last = "no answer".to_owned();
    let mut good = 0;
    let served = wait(group, "", || {
        match http::get(port, host, "/1k", Duration::from_secs(2)) {
            Ok(answer) if answer.status == 200 && answer.body == [b'x'; 1024] => good += 1,
            Ok(answer) => {
                good = 0;
                last = format!("status {}", answer.status);
            }
            Err(error) => {
                good = 0;
                last = format!("{error:#}");
            }
        }
        good == 3
    });
    served.with_context(|| format!("no good answer through port {port} ({last})"))
}

fn wait(group: &mut Group, failure: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let mut ended = Ok(());
    let done = stopwatch::poll(Duration::from_secs(20), Duration::from_millis(50), || {
        ended = group.check();
        ended.is_err() || ready()
    });
    ended?;
    anyhow::ensure!(done, "{failure} after 20 s");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_and_what_is_missing_is_named() {
        let values = BTreeMap::from([("port", "80".to_owned())]);
        let filled = fill("a: { b: {{port}} }}", &values).expect("all known");
        assert_eq!(filled, "a: { b: 80 }}");
        let error = fill("{{port}} {{other}}", &values).expect_err("one unknown");
        assert!(error.to_string().contains("{{other}}"), "{error}");
    }

    #[test]
    fn every_template_can_be_filled() {
        let names = ["listen_port", "tunnel_port", "origin_port", "user", "work"];
        let more = ["www", "name", "host", "path"];
        let values = names
            .into_iter()
            .chain(more)
            .map(|name| (name, "1".to_owned()))
            .collect();
        let folder = workspace::root().join("bench/peers");
        let mut filled = 0;
        for peer in fs::read_dir(folder).expect("the peers") {
            let peer = peer.expect("a peer").path();
            for file in fs::read_dir(peer).expect("its files") {
                let path = file.expect("a file").path();
                let text = fs::read_to_string(&path).expect("text");
                fill(&text, &values).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                filled += 1;
            }
        }
        assert!(filled >= 10, "{filled} templates");
    }

    #[test]
    fn a_version_is_told_from_a_date() {
        assert!(is_version("1.40.0") && is_version("2.6.12-1+deb12u4"));
        assert!(!is_version("2026-11-21T09:32:41.82Z") && !is_version("v2"));
    }

    #[test]
    fn no_two_peers_share_ports() {
        let numbers: std::collections::BTreeSet<u16> =
            Peer::value_variants().iter().map(|p| p.number()).collect();
        assert_eq!(numbers.len(), Peer::value_variants().len());
    }
}
