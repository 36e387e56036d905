//! A file tree and its tar archive (POSIX.1-1988 "ustar"), the same bytes for the same tree. It may not read files.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

const BLOCK: usize = 512;

enum Entry {
    Folder,
    File(Vec<u8>),
    /// Its target.
    Link(String),
}

/// Files, folders and symbolic links by relative path; owned by root, dated 1970.
#[derive(Default)]
pub(super) struct Tree {
    /// With the mode's permission bits.
    entries: BTreeMap<String, (u32, Entry)>,
}

impl Tree {
    /// Adds a folder.
    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        self.add(path, mode, Entry::Folder);
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.add(path, mode, Entry::File(content));
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.add(path, 0o777, Entry::Link(target.to_owned()));
    }

    fn add(&mut self, path: &str, mode: u32, entry: Entry) {
        for (end, _) in path.match_indices('/') {
            let parent = path[..end].to_owned();
            self.entries.entry(parent).or_insert((0o755, Entry::Folder));
        }
        self.entries.insert(path.to_owned(), (mode, entry));
    }

    /// The archive's bytes. Parents come before their children, because paths are sorted.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (path, (mode, entry)) in &self.entries {
            match entry {
                Entry::Folder => {
                    out.extend(header(&format!("{path}/"), *mode, 0, b'5', "")?);
                }
                Entry::File(content) => {
                    out.extend(header(path, *mode, content.len(), b'0', "")?);
                    out.extend_from_slice(content);
                    out.resize(out.len().next_multiple_of(BLOCK), 0);
                }
                Entry::Link(target) => out.extend(header(path, *mode, 0, b'2', target)?),
            }
        }
        out.resize(out.len() + 2 * BLOCK, 0);
        Ok(out)
    }
}

fn header(path: &str, mode: u32, size: usize, kind: u8, target: &str) -> Result<[u8; BLOCK]> {
    ensure!(
        path.len() <= 100,
        "the path {path} is too long for a tar archive"
    );
    ensure!(
        target.len() <= 100,
        "the link {target} is too long for a tar archive"
    );
    ensure!(size < 1 << 33, "{path} is too big for a tar archive");
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, path.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    // The checksum counts itself as eight spaces.
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn tar_itself_reads_it() {
        let mut tree = Tree::default();
        tree.folder("tmp", 0o1777);
        tree.file("usr/bin/tool", 0o755, vec![7; 1000]);
        tree.file("etc/empty", 0o600, Vec::new());
        tree.link("bin", "usr/bin");
        let mut tar = Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--utc"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        let archive = tree.archive().expect("an archive");
        let mut stdin = tar.stdin.take().expect("a pipe");
        stdin.write_all(&archive).expect("tar reads");
        drop(stdin);
        let output = tar.wait_with_output().expect("tar ends");
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).expect("text");
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = listing.lines().map(words).collect();
        assert_eq!(
            lines,
            [
                "lrwxrwxrwx 0/0 0 1970-01-01 00:00 bin -> usr/bin",
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 etc/",
                "-rw------- 0/0 0 1970-01-01 00:00 etc/empty",
                "drwxrwxrwt 0/0 0 1970-01-01 00:00 tmp/",
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 usr/",
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 usr/bin/",
                "-rwxr-xr-x 0/0 1000 1970-01-01 00:00 usr/bin/tool",
            ]
        );
    }

    #[test]
    fn a_path_that_does_not_fit_is_an_error() {
        let mut tree = Tree::default();
        tree.file(&"x".repeat(101), 0o644, Vec::new());
        assert!(tree.archive().is_err());
    }
}
