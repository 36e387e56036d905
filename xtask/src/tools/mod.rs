//! `cargo xtask tools`: gets every real part that tests and benchmarks run against. It may not start any of them.
//!
//! A part is built once, from its language's registry at a pinned and checksummed version, into
//! `${GATEWRIGHT_TOOLS:-~/.cache/gatewright/tools}/<name>-<version>/`, or is a distribution package.

mod apt;
mod build;
mod parts;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

pub(crate) use apt::is_root;

use crate::workspace;
use parts::{Group, How, PARTS, Part};

/// The arguments of `cargo xtask tools`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Parts or groups (test, node, bench); by default `test node`
    names: Vec<String>,
    /// Show what there is instead of getting it
    #[arg(long)]
    list: bool,
}

/// Runs `cargo xtask tools`.
pub(crate) fn run(args: Args) -> Result<()> {
    let root = workspace::tools_root()?;
    if args.list {
        print!("{}", list(&root)?);
        return Ok(());
    }
    let wanted = select(&args.names)?;
    if wanted.iter().any(|part| part.name == "cargo-deny") {
        fetch_crates()?;
    }
    let missing = missing(&wanted, &root)?;
    if missing.is_empty() {
        return Ok(());
    }
    let _lock = lock(&root)?;
    // Another run may have got them while we waited.
    let missing = self::missing(&missing, &root)?;
    let failed = get(&missing, &root)?;
    for (part, why) in &failed {
        eprintln!("missing: {}: {why}", part.name);
    }
    match failed.len() {
        0 => Ok(()),
        1 => bail!("one part is missing"),
        count => bail!("{count} parts are missing"),
    }
}

/// The parts of the given groups and names, each once, in the order of the table.
fn select(names: &[String]) -> Result<Vec<&'static Part>> {
    let default = [Group::Test, Group::Node].map(|group| group.name().to_owned());
    let names = if names.is_empty() { &default } else { names };
    for name in names {
        let known = Group::ALL.iter().any(|group| group.name() == name)
            || PARTS.iter().any(|part| part.name == name);
        if !known {
            let parts: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
            bail!(
                "no part or group is called {name}; groups: test, node, bench; parts: {}",
                parts.join(", ")
            );
        }
    }
    let chosen = |part: &&Part| {
        names
            .iter()
            .any(|name| part.name == name || part.groups.iter().any(|group| group.name() == name))
    };
    Ok(PARTS.iter().filter(chosen).collect())
}

fn missing(parts: &[&'static Part], root: &Path) -> Result<Vec<&'static Part>> {
    let mut missing = Vec::new();
    for part in parts {
        if part.present(root)?.is_none() {
            missing.push(*part);
        }
    }
    Ok(missing)
}

/// Gets what is missing; returns what could not be got, and why.
fn get(missing: &[&'static Part], root: &Path) -> Result<Vec<(&'static Part, String)>> {
    let mut failed = Vec::new();
    let packages: Vec<&'static Part> = missing
        .iter()
        .copied()
        .filter(|part| matches!(part.how, How::Package { .. }))
        .collect();
    if !packages.is_empty() {
        failed.extend(apt::install(&packages));
    }
    for part in missing {
        let Some(version) = part.version() else {
            continue;
        };
        eprintln!("{} {version}: {}", part.name, part.how.announcement());
        let started = crate::stopwatch::now();
        match build::build(part, root) {
            Ok(()) => eprintln!(
                "{} {version}: done in {:.0} s",
                part.name,
                started.elapsed().as_secs_f64()
            ),
            Err(error) => failed.push((*part, format!("{error:#}"))),
        }
    }
    Ok(failed)
}

/// The crates of all targets: cargo-deny looks at each of them and fetches none, and a build fetches those of its own
/// target alone. Where they are there already, nothing goes over the network.
fn fetch_crates() -> Result<()> {
    let mut fetch = workspace::cargo();
    fetch.args(["fetch", "--locked", "--quiet"]);
    let status = fetch
        .status()
        .with_context(|| format!("cannot start {fetch:?}"))?;
    anyhow::ensure!(status.success(), "{fetch:?} failed ({status})");
    Ok(())
}

fn list(root: &Path) -> Result<String> {
    let mut text = String::new();
    for part in PARTS {
        let groups: Vec<&str> = part.groups.iter().map(|group| group.name()).collect();
        let place = match part.present(root)? {
            Some(place) => place.display().to_string(),
            None => "missing".to_owned(),
        };
        text.push_str(&format!(
            "{:<26} {:<8} {:<10} {place}\n",
            part.name,
            part.version().unwrap_or("package"),
            groups.join(","),
        ));
    }
    Ok(text)
}

/// Held until dropped, so that two runs do not build the same part twice.
fn lock(root: &Path) -> Result<File> {
    std::fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    let path = root.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!(
            "waiting for another `cargo xtask tools` ({})",
            path.display()
        );
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// The built binary `binary` of the part `part`; the error says how to get it.
pub(crate) fn binary(part: &str, binary: &str) -> Result<PathBuf> {
    let root = workspace::tools_root()?;
    PARTS
        .iter()
        .find(|p| p.name == part)
        .map(|p| p.folder(&root).join(binary))
        .filter(|path| workspace::is_program(path))
        .with_context(|| format!("there is no {binary}: run `cargo xtask tools {part}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(selection: &[&str]) -> Vec<&'static str> {
        let selection: Vec<String> = selection.iter().map(|name| (*name).to_owned()).collect();
        let parts = select(&selection).expect("known names");
        parts.iter().map(|part| part.name).collect()
    }

    #[test]
    fn without_names_the_test_and_node_groups_are_chosen() {
        let chosen = names(&[]);
        assert!(chosen.contains(&"kubernetes") && chosen.contains(&"containerd"));
        assert!(!chosen.contains(&"rathole"));
        assert_eq!(chosen, names(&["node", "test"]));
    }

    #[test]
    fn a_part_named_twice_is_got_once() {
        assert_eq!(names(&["kubernetes", "kubernetes"]), ["kubernetes"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        let error = select(&["etcdd".to_owned()]).err().expect("an error");
        let text = error.to_string();
        assert!(text.contains("etcdd") && text.contains("groups: test, node, bench"));
        assert!(text.contains("kubernetes"));
    }
}
