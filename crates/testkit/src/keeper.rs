//! Child processes that die with the test, however the test dies. It may not know what it runs.
//!
//! `PR_SET_PDEATHSIG` would follow the *thread* that spawned the child, and test threads end long before
//! the process does. So each child has a small shell beside it that reads a pipe whose only writer is this
//! process: when the pipe ends, by drop, panic, exit or SIGKILL, the shell kills the child.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

/// Runs "$@"; each line on stdin is the name of a signal to pass on; the end of stdin is SIGKILL.
const KEEP: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
child=$!
{ while read -r signal <&3; do kill -"$signal" "$child"; done; kill -KILL "$child"; } 2>/dev/null &
watcher=$!
exec 3<&-
wait "$child"; code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// A running child process. Dropping it kills the child and waits for its end.
#[derive(Debug)]
pub struct Keeper {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Keeper {
    /// Starts `program` with `arguments` in the folder `dir`; stdout and stderr go to the end of `log`.
    pub fn spawn(program: &Path, arguments: &[String], dir: &Path, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log);
        let out = out.unwrap_or_else(|e| panic!("cannot open the log {}: {e}", log.display()));
        let err = out.try_clone().expect("duplicate the log's descriptor");
        let mut shell = Command::new("sh")
            .args(["-c", KEEP, "keeper"])
            .arg(program)
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            // Ctrl-C in a terminal reaches the test alone; the pipe does the rest in the right order.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", program.display()));
        let pipe = shell.stdin.take();
        Self { shell, pipe }
    }

    /// Sends a signal by its name without `SIG`: `TERM`, `STOP`, `CONT`, ...
    pub fn signal(&mut self, name: &str) {
        if let Some(pipe) = &mut self.pipe {
            // The shell is gone when the child is: then there is nobody to signal, and `exited` tells so.
            let _ = writeln!(pipe, "{name}");
        }
    }

    /// How the child ended, or `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.shell.try_wait().expect("wait for a child process")
    }

    /// Kills the child and returns when it is gone.
    pub fn kill(&mut self) {
        self.pipe = None;
        self.shell.wait().expect("wait for a child process");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.pipe = None;
        // A failure to wait would hide the panic that may be unwinding here.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn keep(dir: &Scratch, script: &str) -> Keeper {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Keeper::spawn(
            Path::new("/bin/sh"),
            &arguments,
            dir.path(),
            &dir.path().join("log"),
        )
    }

    fn wait(keeper: &mut Keeper) -> ExitStatus {
        keeper.shell.wait().expect("wait for the keeper")
    }

    #[test]
    fn the_childs_exit_code_and_output_are_seen() {
        let dir = Scratch::new("keeper");
        let mut keeper = keep(&dir, "echo heard; exit 7");
        assert_eq!(wait(&mut keeper).code(), Some(7));
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(log, "heard\n");
    }

    #[test]
    fn a_signal_is_passed_on() {
        let dir = Scratch::new("keeper");
        // `read` on a fifo nobody writes waits without a clock; the trap runs when the signal arrives.
        let mut keeper = keep(
            &dir,
            "trap 'exit 3' TERM; mkfifo f; : > ready; while :; do read -r x <> f; done",
        );
        while !dir.path().join("ready").exists() {
            std::thread::yield_now();
        }
        keeper.signal("TERM");
        assert_eq!(wait(&mut keeper).code(), Some(3));
    }

    #[test]
    fn kill_ends_a_child_that_ignores_every_signal_it_can() {
        let dir = Scratch::new("keeper");
        let mut keeper = keep(
            &dir,
            "trap '' TERM INT HUP; echo $$ > pid.part; mv pid.part pid; exec sleep 1000",
        );
        let pid = dir.path().join("pid");
        while !pid.exists() {
            std::thread::yield_now();
        }
        let pid = std::fs::read_to_string(pid).unwrap();
        keeper.kill();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }
}
