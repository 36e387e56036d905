//! Processes that a measurement starts, and what /proc says of them. It may not know what they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{stopwatch, workspace};

/// Clock ticks per second in /proc: Linux fixes what it shows to user space at 100.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a process has between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);

/// Processes that belong together, such as both ends of a tunnel. They end when this is dropped.
#[derive(Default)]
pub(crate) struct Group {
    running: Vec<Running>,
}

struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Group {
    /// Starts `command` with both outputs in `log`.
    pub(crate) fn spawn(&mut self, name: &str, command: &Command, log: &Path) -> Result<()> {
        let output =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = dying_with_us(command)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.running.push(Running {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        });
        Ok(())
    }

    /// An error, with the end of its log, if one of the processes has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        for running in &mut self.running {
            if let Some(status) = running.child.try_wait()? {
                let log = fs::read_to_string(&running.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
                anyhow::bail!("{} ended ({status}):\n  {tail}", running.name);
            }
        }
        Ok(())
    }

    /// User and system CPU seconds of the processes and everything below them.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let ticks: u64 = self.tree().values().map(|stat| stat.ticks).sum();
        ticks as f64 / TICKS_PER_SECOND
    }

    /// Resident memory now, in MiB, summed (shared pages count once per process).
    pub(crate) fn rss_mib(&self) -> f64 {
        self.status_sum("VmRSS:")
    }

    /// The most memory that was resident since [`Group::reset_peak`], in MiB, summed per process.
    pub(crate) fn peak_mib(&self) -> f64 {
        self.status_sum("VmHWM:")
    }

    /// Starts a new peak. Where the kernel refuses, the peak stays that of the whole life.
    pub(crate) fn reset_peak(&self) {
        for pid in self.tree().keys() {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    fn status_sum(&self, field: &str) -> f64 {
        let kib: u64 = self
            .tree()
            .keys()
            .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
            .filter_map(|status| kib_of(&status, field))
            .sum();
        kib as f64 / 1024.0
    }

    fn tree(&self) -> BTreeMap<u32, Stat> {
        let roots: Vec<u32> = self.running.iter().map(|r| r.child.id()).collect();
        below(&roots, all_processes())
    }

    /// Ends the processes: TERM, and KILL for what is left after 5 s.
    pub(crate) fn stop(&mut self) {
        let tree = self.tree();
        signal("TERM", self.running.iter().map(|r| r.child.id()));
        let all_ended = stopwatch::poll(GRACE, Duration::from_millis(20), || {
            self.running
                .iter_mut()
                .all(|r| !matches!(r.child.try_wait(), Ok(None)))
        });
        if !all_ended {
            signal("KILL", tree.into_keys());
        }
        for mut running in self.running.drain(..) {
            let _ = running.child.wait();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `command` wrapped so that the kernel ends it when this process dies. The signal is tied to the
/// thread that spawns, which here is always the main one. Without setpriv it is started as it is.
fn dying_with_us(command: &Command) -> Command {
    let Some(setpriv) = workspace::program("setpriv") else {
        return copy_of(command, Command::new(command.get_program()));
    };
    let mut wrapped = Command::new(setpriv);
    wrapped
        .args(["--pdeathsig", "TERM", "--"])
        .arg(command.get_program());
    copy_of(command, wrapped)
}

fn copy_of(command: &Command, mut copy: Command) -> Command {
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        copy.current_dir(folder);
    }
    copy
}

fn signal(name: &str, pids: impl Iterator<Item = u32>) {
    for pid in pids {
        // An error means that the process is gone already.
        let _ = Command::new("kill")
            .args([format!("-{name}"), pid.to_string()])
            .stderr(Stdio::null())
            .status();
    }
}

/// What /proc/PID/stat says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

fn all_processes() -> BTreeMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse_stat(&stat)?))
        })
        .collect()
}

/// The parent and the user + system ticks (fields 4, 14 and 15 of proc_pid_stat(5)).
fn parse_stat(stat: &str) -> Option<Stat> {
    // The command's name is in parentheses and may hold spaces and parentheses itself.
    let (_, rest) = stat.rsplit_once(") ")?;
    let field = |number: usize| rest.split(' ').nth(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(field(4)?).ok()?,
        ticks: field(14)? + field(15)?,
    })
}

/// Those of `all` that are one of `roots` or below one.
fn below(roots: &[u32], all: BTreeMap<u32, Stat>) -> BTreeMap<u32, Stat> {
    let belongs = |pid: u32| {
        let mut pid = pid;
        // Bounded, because a pid that was used again could close a circle.
        for _ in 0..64 {
            if roots.contains(&pid) {
                return true;
            }
            match all.get(&pid) {
                Some(stat) => pid = stat.parent,
                None => return false,
            }
        }
        false
    };
    let mine: Vec<u32> = all.keys().copied().filter(|pid| belongs(*pid)).collect();
    mine.into_iter()
        .filter_map(|pid| Some((pid, *all.get(&pid)?)))
        .collect()
}

fn kib_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a b) c) S 7 42 42 0 -1 4194560 1 2 3 4 150 25 9 9 20 0 1 0";
        assert_eq!(
            parse_stat(stat),
            Some(Stat {
                parent: 7,
                ticks: 175
            })
        );
        assert_eq!(parse_stat("42 (half"), None);
    }

    #[test]
    fn the_tree_holds_grandchildren_and_nobody_else() {
        let parents = [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1)];
        let all = parents
            .map(|(pid, parent)| (pid, Stat { parent, ticks: 0 }))
            .into();
        let pids: Vec<u32> = below(&[10], all).into_keys().collect();
        assert_eq!(pids, [10, 11, 12]);
    }

    #[test]
    fn a_group_is_measured_and_stopped_with_its_children() {
        let log = std::env::temp_dir().join(format!("xtask-process-{}", std::process::id()));
        let mut group = Group::default();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 1000 & wait"]);
        group.spawn("shell", &shell, &log).expect("a shell");
        let second = Duration::from_secs(10);
        let grown = stopwatch::poll(second, Duration::from_millis(5), || group.tree().len() == 2);
        assert!(grown, "the shell and its child are seen");
        assert!(group.rss_mib() > 0.0 && group.peak_mib() >= group.rss_mib());
        group.check().expect("it runs");
        let pid = group.running[0].child.id();
        group.stop();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let _ = fs::remove_file(log);
    }

    #[test]
    fn a_process_that_ended_is_named_with_its_last_words() {
        let log = std::env::temp_dir().join(format!("xtask-ended-{}", std::process::id()));
        let mut group = Group::default();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo the port is taken; exit 3"]);
        group.spawn("edge", &shell, &log).expect("a shell");
        let mut said = String::new();
        stopwatch::poll(
            Duration::from_secs(10),
            Duration::from_millis(5),
            || match group.check() {
                Ok(()) => false,
                Err(error) => {
                    said = error.to_string();
                    true
                }
            },
        );
        assert!(
            said.contains("edge ended") && said.contains("the port is taken"),
            "{said}"
        );
        let _ = fs::remove_file(log);
    }
}
