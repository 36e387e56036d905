//! Which manifest files a folder holds, and which folders must be watched to learn of a change.
//! Reads names and links only; may not open a file.

use super::manifest::Format;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Deepest folder below the root, most files, and most links on the way to one of them.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 10_000;
const MAX_LINKS: usize = 40;

/// One look at the folder.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Manifests, in the order in which they count.
    pub(super) files: BTreeSet<PathBuf>,
    /// Folders and links that could not be followed, and why.
    pub(super) unreadable: Vec<(PathBuf, String)>,
    /// What to watch.
    pub(super) interest: Interest,
}

/// What has to be watched, and which of the news matters. All paths are free of links, but for
/// their last part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interest {
    /// Folders whose every entry matters.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Single names that matter: the root, and each link on the way to a file. Their parents are
    /// watched, in which other things may happen.
    pub(super) names: BTreeSet<PathBuf>,
}

impl Interest {
    /// The folders to watch, each without what is below it.
    pub(super) fn watched(&self) -> BTreeSet<PathBuf> {
        let parents = self.names.iter().filter_map(|name| name.parent());
        let parents = parents.filter_map(existing).map(Path::to_owned);
        let folders = self.folders.iter().cloned();
        folders.chain(parents).collect()
    }

    /// Whether something that happened at `path` may change what we read.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        let inside = path
            .parent()
            .is_some_and(|parent| self.folders.contains(parent));
        // When a folder above the root is gone, its return counts, too.
        let on_the_way = || self.names.iter().any(|name| name.starts_with(path));
        inside || self.folders.contains(path) || on_the_way()
    }
}

/// The nearest folder above (or at) `path` that exists.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.is_dir())
}

/// Whether a file is a manifest, by its name. Hidden files and what editors leave beside a file
/// (`.web.yaml.swp`, `web.yaml~`, `#web.yaml#`) are none.
pub(super) fn format(path: &Path) -> Option<Format> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    if name.starts_with(['.', '#']) {
        return None;
    }
    match path.extension().and_then(OsStr::to_str)? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

/// Walks the folder and the folders in it; links are followed, hidden entries are not.
///
/// # Errors
/// The root itself cannot be read. `interest` says what to watch for its return.
pub(super) fn walk(root: &Path) -> (Tree, io::Result<()>) {
    let mut tree = Tree::default();
    tree.interest.names.insert(place(root));
    follow(root, &mut tree.interest.names, 0);
    let mut seen = BTreeSet::new();
    let result = tree.enter(root, 0, &mut seen);
    (tree, result)
}

impl Tree {
    fn enter(
        &mut self,
        folder: &Path,
        depth: usize,
        seen: &mut BTreeSet<PathBuf>,
    ) -> io::Result<()> {
        let place = std::fs::canonicalize(folder)?;
        // A link to a folder above would otherwise be walked for ever.
        if !seen.insert(place.clone()) {
            return Ok(());
        }
        self.interest.folders.insert(place);
        let mut entries = std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        for path in entries {
            self.look_at(path, depth, seen);
        }
        Ok(())
    }

    fn look_at(&mut self, path: PathBuf, depth: usize, seen: &mut BTreeSet<PathBuf>) {
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            return;
        }
        if path.is_symlink() {
            follow(&path, &mut self.interest.names, 0);
        }
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            // Gone since it was listed; whoever removed it causes the next look.
            Err(_) if std::fs::symlink_metadata(&path).is_err() => return,
            Err(_) if format(&path).is_none() => return,
            Err(error) => {
                self.unreadable.push((path, error.to_string()));
                return;
            }
        };
        if metadata.is_dir() {
            if depth == MAX_DEPTH {
                let what = format!("more than {MAX_DEPTH} folders deep; it is not read");
                self.unreadable.push((path, what));
            } else if let Err(error) = self.enter(&path, depth + 1, seen) {
                self.unreadable.push((path, error.to_string()));
            }
        } else if metadata.is_file() && format(&path).is_some() {
            if self.files.len() == MAX_FILES {
                let what = format!("more than {MAX_FILES} manifests; this one is not read");
                self.unreadable.push((path, what));
            } else {
                self.files.insert(path);
            }
        }
    }
}

/// Collects every link on the way to `path`, and the links those lead to. Kubernetes swaps the link
/// `..data` of a ConfigMap volume, never the files, so it is the link that has to be watched.
fn follow(path: &Path, names: &mut BTreeSet<PathBuf>, links: usize) {
    let mut way = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                way.pop();
                continue;
            }
            Component::CurDir => continue,
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => way.push(component),
        }
        let Ok(target) = std::fs::read_link(&way) else {
            continue;
        };
        if names.insert(place(&way)) && links < MAX_LINKS {
            let parent = way.parent().unwrap_or(Path::new("/"));
            let target = parent.join(target);
            names.insert(place(&target));
            follow(&target, names, links + 1);
        }
    }
}

/// A name in a folder without links on the way: one folder must have one name only, because the
/// kernel tells of it under the name it was last watched by.
fn place(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        (None, _) | (_, None) => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
    }
}

fn resolved(folder: &Path) -> PathBuf {
    std::fs::canonicalize(folder).unwrap_or_else(|_| place(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn found(root: &Path) -> Vec<String> {
        let (tree, result) = walk(root);
        result.expect("is readable");
        let relative = |path: &PathBuf| {
            path.strip_prefix(root)
                .map(|path| path.display().to_string())
        };
        tree.files
            .iter()
            .map(|path| relative(path).expect("is below the root"))
            .collect()
    }

    #[test]
    fn only_manifests_are_found_in_a_stable_order() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |name: &str| fs::write(root.path().join(name), "").expect(name);
        fs::create_dir_all(root.path().join("b/c")).expect("a folder");
        fs::create_dir(root.path().join(".git")).expect("a folder");
        for name in [
            "z.yaml",
            "a.yml",
            "c.json",
            "b/c/d.yaml",
            ".hidden.yaml",
            ".git/e.yaml",
            "notes.txt",
            "web.yaml~",
            ".web.yaml.swp",
            "#web.yaml#",
            ".#web.yaml",
            "4913",
        ] {
            write(name);
        }
        assert_eq!(
            found(root.path()),
            ["a.yml", "b/c/d.yaml", "c.json", "z.yaml"]
        );
    }

    #[test]
    fn the_link_of_a_configmap_volume_is_of_interest() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("..1")).expect("a folder");
        fs::write(at("..1/web.yaml"), "").expect("a file");
        symlink("..1", at("..data")).expect("a link");
        symlink("..data/web.yaml", at("web.yaml")).expect("a link");
        assert_eq!(found(root.path()), ["web.yaml"]);
        let (tree, _) = walk(root.path());
        assert!(tree.interest.concerns(&at("..data")));
        assert!(
            tree.interest.concerns(&at("..1/web.yaml")),
            "{:?}",
            tree.interest
        );
    }

    #[test]
    fn folders_that_link_to_each_other_are_walked_once() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("a")).expect("a folder");
        fs::write(root.path().join("a/web.yaml"), "").expect("a file");
        symlink("..", root.path().join("a/up")).expect("a link");
        assert_eq!(found(root.path()), ["a/web.yaml"]);
    }

    #[test]
    fn a_missing_root_is_an_error_and_its_return_of_interest() {
        let parent = tempfile::tempdir().expect("a folder");
        let root = parent.path().join("gone/manifests");
        let (tree, result) = walk(&root);
        assert_eq!(
            result.expect_err("is missing").kind(),
            io::ErrorKind::NotFound
        );
        assert!(tree.interest.watched().contains(parent.path()));
        assert!(tree.interest.concerns(&parent.path().join("gone")));
        assert!(!tree.interest.concerns(&parent.path().join("other")));
    }

    #[test]
    fn a_dangling_link_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        symlink("nowhere", root.path().join("web.yaml")).expect("a link");
        let (tree, _) = walk(root.path());
        assert_eq!(tree.unreadable.len(), 1);
        assert_eq!(tree.unreadable[0].0, root.path().join("web.yaml"));
    }
}
