//! Distribution packages: installed when we are root on a Debian, named with the way to get them otherwise.

use std::process::Command;

use super::parts::{How, Part};
use crate::workspace;

/// Installs the packages of `parts` in one go; returns the parts that are still missing, and why.
pub(super) fn install(parts: &[&'static Part]) -> Vec<(&'static Part, String)> {
    let names: Vec<&str> = parts.iter().filter_map(|part| package(part)).collect();
    let by_hand = |part: &Part| {
        format!(
            "apt-get install {}, or the like of your system",
            package(part).unwrap_or(part.name)
        )
    };
    if !is_root() || workspace::program("apt-get").is_none() {
        return parts.iter().map(|part| (*part, by_hand(part))).collect();
    }
    eprintln!("installing packages: {}", names.join(" "));
    let outcome = apt(&["update", "--quiet"]).and_then(|()| {
        let install = ["install", "--quiet", "--yes", "--no-install-recommends"];
        apt(&[&install[..], &names].concat())
    });
    let root = std::path::Path::new("/");
    parts
        .iter()
        .filter(|part| !matches!(part.present(root), Ok(Some(_))))
        .map(|part| match &outcome {
            Ok(()) => (
                *part,
                format!("{} did not bring it", package(part).unwrap_or_default()),
            ),
            Err(why) => (*part, why.clone()),
        })
        .collect()
}

fn package(part: &Part) -> Option<&'static str> {
    match part.how {
        How::Package { package, .. } => Some(package),
        How::Go { .. } | How::Wheel { .. } | How::Python { .. } | How::Crate { .. } => None,
    }
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .map_err(|error| format!("cannot start apt-get: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let why = text.lines().rev().find(|line| !line.trim().is_empty());
    Err(format!(
        "apt-get {} failed: {}",
        arguments[0],
        why.unwrap_or("without a word")
    ))
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
