//! The process that holds the cluster's namespaces: starting, finding and killing it, and running commands inside.
//! It may not know what runs there.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Node;
use crate::stopwatch::poll;

const TICK: Duration = Duration::from_millis(20);
const INIT: &str = "conf/init.sh";

/// Process 1 of the namespaces, by its pid on the host and its start time (so that a pid used again is not it).
pub(super) struct Holder {
    pid: u32,
    started: u64,
}

impl Holder {
    /// Starts the namespaces. The configuration has to be in place.
    pub(super) fn start(node: &Node) -> Result<Self> {
        let state = node.state();
        let log = std::fs::File::create(node.log("holder")).context("cannot make the log")?;
        let errors = log.try_clone().context("cannot make the log")?;
        // `setsid`: a Ctrl-C in the terminal that brought the cluster up must not end it.
        let mut unshare = Command::new("setsid")
            .args(["unshare", "--pid", "--fork", "--mount", "--net", "--uts"])
            .args(["--ipc", "--propagation", "private", "sh"])
            .arg(state.join(INIT))
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .context("cannot start setsid unshare")?;
        let written = state.join("holder");
        let mut ended = None;
        poll(Duration::from_secs(10), TICK, || {
            ended = unshare.try_wait().ok().flatten();
            written.exists() || ended.is_some()
        });
        if !written.exists() {
            let log = std::fs::read_to_string(node.log("holder")).unwrap_or_default();
            bail!(
                "the namespaces do not start ({}): {}",
                ended.map_or_else(|| "timed out".to_owned(), |status| status.to_string()),
                log.trim()
            );
        }
        let text = std::fs::read_to_string(&written).context("cannot read the holder's pid")?;
        let pid = text
            .trim()
            .parse()
            .with_context(|| format!("{text:?} is no pid"))?;
        let started = start_time(pid).context("the holder ended at once")?;
        std::fs::write(state.join("holder.id"), format!("{pid} {started}"))
            .context("cannot note the holder's pid")?;
        Ok(Self { pid, started })
    }

    /// The holder of the running cluster, if there is one.
    pub(super) fn find(node: &Node) -> Option<Self> {
        let text = std::fs::read_to_string(node.state().join("holder.id")).ok()?;
        let (pid, started) = text.split_once(' ')?;
        let holder = Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        };
        holder.lives().then_some(holder)
    }

    fn lives(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// The pid on the host.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// A command that will run inside, with a clean environment.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "-t",
                &self.pid.to_string(),
                "-m",
                "-n",
                "-p",
                "-u",
                "-i",
                "--",
            ])
            .arg(program)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LANG", "C.UTF-8");
        command
    }

    /// The folder in /proc of the process that is `pid` inside.
    pub(super) fn process(&self, pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/proc/{pid}", self.pid))
    }

    /// Kills the holder and with it everything inside; returns when they are gone.
    pub(super) fn kill(self) -> Result<()> {
        // The start time was checked on the way here; the window for the pid to change hands is microseconds.
        let killed = Command::new("kill")
            .args(["-KILL", &self.pid.to_string()])
            .status();
        killed.context("cannot start kill")?;
        // Process 1 is gone only after the kernel has ended every other process of its namespace.
        if !poll(Duration::from_secs(30), TICK, || !self.lives()) {
            bail!("the holder (process {}) does not end", self.pid);
        }
        Ok(())
    }
}

/// When a process started, in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)). A zombie has ended.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may itself contain both.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_identifies_a_process_and_ends_with_it() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a child");
        let (ours, theirs) = (start_time(std::process::id()), start_time(child.id()));
        assert!(ours.is_some() && theirs >= ours, "{ours:?} {theirs:?}");
        child.kill().expect("it runs");
        assert!(poll(Duration::from_secs(5), TICK, || start_time(
            child.id()
        )
        .is_none()));
        child.wait().expect("it ended");
    }
}
