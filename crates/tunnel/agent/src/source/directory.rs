//! A folder of manifests as a source: reads it, watches it, and keeps the last good state of a
//! file that stops parsing. May not interpret the objects.

use super::files::{self, Interest, Tree};
use super::manifest::{self, Fault};
use super::watching::Watching;
use super::{Problem, Source, SourceError, publish_objects, publish_problems};
use gatewright_translate::{Key, Object, Objects};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) async fn start(
    path: &Path,
    cancel: CancellationToken,
    tasks: &TaskTracker,
) -> Result<Source, SourceError> {
    let failed = |source| SourceError::Directory {
        path: path.to_owned(),
        source,
    };
    let root = std::path::absolute(path).map_err(failed)?;
    let (mut watching, folder) = blocking(Watching::new(), Folder::new(root)).await?;
    if let Some(error) = folder.root_error {
        return Err(failed(error));
    }
    if let Some(source) = watching.take_error() {
        let path = path.to_owned();
        return Err(SourceError::Watch { path, source });
    }
    if let Some(problem) = folder.faults().next() {
        return Err(SourceError::Manifest(problem));
    }
    let (objects, problems) = folder.assemble();
    let (objects_sender, objects) = watch::channel(Arc::new(objects));
    let (problems_sender, problems_receiver) = watch::channel(Vec::new());
    publish_problems(&problems_sender, problems);
    let follow = Follow {
        folder,
        watching,
        objects: objects_sender,
        problems: problems_sender,
    };
    tasks.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            result = follow.run() => if let Err(error) = result {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the manifest directory is no longer followed");
            }
        }
    });
    Ok(Source {
        objects,
        problems: problems_receiver,
        kubernetes_version: None,
        #[cfg(feature = "kubernetes")]
        client: None,
    })
}

/// Reads the folder and adjusts the watches to it, off the runtime's threads.
async fn blocking(
    mut watching: Watching,
    mut folder: Folder,
) -> Result<(Watching, Folder), SourceError> {
    let read = spawn_blocking(move || {
        settle(&mut watching, &mut folder);
        (watching, folder)
    });
    read.await.map_err(SourceError::Broken)
}

/// Reads until the watches fit what was read, so that no change falls between the two.
fn settle(watching: &mut Watching, folder: &mut Folder) {
    const ROUNDS: usize = 5;
    for _ in 0..ROUNDS {
        watching.begin();
        let interest = folder.read();
        if watching.fit(interest) {
            return;
        }
    }
    // A folder that changes faster than it is read: its next news brings us back.
    watching.again();
}

/// The task of a running source.
struct Follow {
    folder: Folder,
    watching: Watching,
    objects: watch::Sender<Arc<Objects>>,
    problems: watch::Sender<Vec<Problem>>,
}

impl Follow {
    async fn run(mut self) -> Result<(), SourceError> {
        loop {
            self.watching.changed().await;
            let (watching, folder) = blocking(self.watching, self.folder).await?;
            (self.watching, self.folder) = (watching, folder);
            let (objects, mut problems) = self.folder.assemble();
            if let Some(error) = self.watching.error() {
                problems.push(Problem {
                    place: self.folder.root.display().to_string(),
                    line: None,
                    message: format!("changes are seen only every second: {error}"),
                });
            }
            publish_objects(&self.objects, objects);
            publish_problems(&self.problems, problems);
        }
    }
}

/// The folder as it was last read.
struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Folders and links that could not be followed.
    unreadable: Vec<(PathBuf, String)>,
    root_error: Option<io::Error>,
}

/// One manifest file.
#[derive(Default)]
struct File {
    /// What `objects` or `fault` came from.
    bytes: Option<Vec<u8>>,
    /// The objects of the last version that was right.
    objects: Vec<(u64, Held)>,
    /// What is wrong with the present version.
    fault: Option<Fault>,
}

/// An object that takes part in routing.
#[derive(Clone, PartialEq)]
enum Held {
    Ingress(Arc<Ingress>),
    IngressClass(Arc<IngressClass>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
}

impl Held {
    fn of(object: Object) -> Option<Self> {
        match object {
            Object::Ingress(object) => Some(Self::Ingress(Arc::new(*object))),
            Object::IngressClass(object) => Some(Self::IngressClass(Arc::new(*object))),
            Object::Service(object) => Some(Self::Service(Arc::new(*object))),
            Object::EndpointSlice(object) => Some(Self::EndpointSlice(Arc::new(*object))),
            Object::Other { .. } => None,
        }
    }

    fn identity(&self) -> Identity {
        match self {
            Self::Ingress(o) => Identity::namespaced("Ingress", &o.metadata),
            Self::IngressClass(o) => Identity {
                kind: "IngressClass",
                namespace: None,
                name: o.metadata.name.clone().unwrap_or_default(),
            },
            Self::Service(o) => Identity::namespaced("Service", &o.metadata),
            Self::EndpointSlice(o) => Identity::namespaced("EndpointSlice", &o.metadata),
        }
    }
}

/// What makes two objects the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    kind: &'static str,
    namespace: Option<String>,
    name: String,
}

impl Identity {
    fn namespaced(
        kind: &'static str,
        metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    ) -> Self {
        let Key { namespace, name } = Key::of(metadata);
        let namespace = Some(namespace);
        Self {
            kind,
            namespace,
            name,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl Folder {
    fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: BTreeMap::new(),
            unreadable: Vec::new(),
            root_error: None,
        }
    }

    /// Looks at everything; returns what has to be watched.
    fn read(&mut self) -> Interest {
        let (tree, result) = files::walk(&self.root);
        let Tree {
            files,
            unreadable,
            interest,
        } = tree;
        self.root_error = result.err();
        self.unreadable = unreadable;
        let hidden = |path: &Path| {
            self.root_error.is_some()
                || self
                    .unreadable
                    .iter()
                    .any(|(folder, _)| path.starts_with(folder))
        };
        // A file that is gone is gone; one that cannot be seen just now keeps its state.
        self.files
            .retain(|path, _| files.contains(path) || hidden(path));
        for path in files {
            let read = read_file(&path);
            self.files
                .entry(path.clone())
                .or_default()
                .update(&path, read);
        }
        interest
    }

    /// What is wrong with single files and folders.
    fn faults(&self) -> impl Iterator<Item = Problem> {
        let files = self.files.iter().filter_map(|(path, file)| {
            let fault = file.fault.as_ref()?;
            Some(Problem {
                place: path.display().to_string(),
                line: fault.line,
                message: fault.what.clone(),
            })
        });
        let folders = self.unreadable.iter().map(|(path, why)| Problem {
            place: path.display().to_string(),
            line: None,
            message: format!("cannot be read: {why}"),
        });
        files.chain(folders)
    }

    /// The objects of all files, and all that is wrong with them.
    fn assemble(&self) -> (Objects, Vec<Problem>) {
        let mut objects = Objects::default();
        let mut places: BTreeMap<Identity, (&Path, u64)> = BTreeMap::new();
        let mut problems: Vec<_> = self
            .faults()
            .map(|mut problem| {
                problem.message += "; its last good state stays in use";
                problem
            })
            .collect();
        if let Some(error) = &self.root_error {
            problems.push(Problem {
                place: self.root.display().to_string(),
                line: None,
                message: format!("cannot be read: {error}; its last good state stays in use"),
            });
        }
        for (path, file) in &self.files {
            for (line, held) in &file.objects {
                let identity = held.identity();
                if let Some((first, first_line)) = places.get(&identity) {
                    let first = first.display();
                    problems.push(Problem {
                        place: path.display().to_string(),
                        line: Some(*line),
                        message: format!(
                            "{identity} is already defined at {first}:{first_line}, which stays in use; remove one of the two"
                        ),
                    });
                    continue;
                }
                places.insert(identity, (path, *line));
                match held {
                    Held::Ingress(o) => {
                        objects.ingresses.insert(Key::of(&o.metadata), o.clone());
                    }
                    Held::IngressClass(o) => {
                        let name = o.metadata.name.clone().unwrap_or_default();
                        objects.classes.insert(name, o.clone());
                    }
                    Held::Service(o) => {
                        objects.services.insert(Key::of(&o.metadata), o.clone());
                    }
                    Held::EndpointSlice(o) => {
                        objects.slices.insert(Key::of(&o.metadata), o.clone());
                    }
                }
            }
        }
        (objects, problems)
    }
}

impl File {
    fn update(&mut self, path: &Path, read: Result<Vec<u8>, Fault>) {
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(fault) => {
                self.bytes = None;
                self.fault = Some(fault);
                return;
            }
        };
        if self.bytes.as_ref() == Some(&bytes) {
            return;
        }
        let Some(format) = files::format(path) else {
            return;
        };
        match manifest::parse(&bytes, format) {
            Ok(objects) => {
                let old = std::mem::take(&mut self.objects);
                let objects = objects.into_iter().filter_map(|(line, object)| {
                    let held = Held::of(object)?;
                    // An unchanged object stays the same one.
                    let before = old.iter().find(|(_, before)| *before == held);
                    Some((line, before.map_or(held, |(_, before)| before.clone())))
                });
                self.objects = objects.collect();
                self.fault = None;
            }
            Err(fault) => self.fault = Some(fault),
        }
        self.bytes = Some(bytes);
    }
}

/// A whole file, unless it is too large.
fn read_file(path: &Path) -> Result<Vec<u8>, Fault> {
    let fault = |error: io::Error| Fault::new(None, format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(fault)?;
    let mut bytes = Vec::new();
    let most = manifest::MAX_FILE;
    file.take(most + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > most {
        let what = format!("larger than {most} bytes; split it into several files");
        return Err(Fault::new(None, what));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::same;
    use super::*;
    use std::fs;

    fn service(name: &str, port: u16) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: {port} }}] }}\n"
        )
    }

    fn read(folder: &mut Folder) -> (Objects, Vec<String>) {
        folder.read();
        let (objects, problems) = folder.assemble();
        let problems = problems.iter().map(ToString::to_string);
        (objects, problems.collect())
    }

    fn names(objects: &Objects) -> Vec<String> {
        objects.services.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_that_stops_parsing_keeps_its_last_good_state_and_says_so() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("web.yaml");
        fs::write(&file, service("web", 80)).expect("a file");
        let mut folder = Folder::new(root.path().to_owned());
        read(&mut folder);
        fs::write(&file, "kind: [").expect("a file");
        let (objects, problems) = read(&mut folder);
        assert_eq!(names(&objects), ["default/web"]);
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].starts_with(&format!("{}:", file.display())),
            "{problems:?}"
        );
        assert!(problems[0].contains("last good state"), "{problems:?}");
        fs::write(&file, service("new", 80)).expect("a file");
        let (objects, problems) = read(&mut folder);
        assert_eq!(names(&objects), ["default/new"]);
        assert_eq!(problems, [] as [&str; 0]);
    }

    #[test]
    fn a_removed_file_takes_its_objects_along() {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["a", "b"] {
            fs::write(root.path().join(format!("{name}.yaml")), service(name, 80)).expect(name);
        }
        let mut folder = Folder::new(root.path().to_owned());
        assert_eq!(names(&read(&mut folder).0), ["default/a", "default/b"]);
        fs::remove_file(root.path().join("a.yaml")).expect("is removed");
        assert_eq!(names(&read(&mut folder).0), ["default/b"]);
    }

    #[test]
    fn an_object_in_two_files_is_taken_from_the_first_and_both_are_named() {
        let root = tempfile::tempdir().expect("a folder");
        fs::write(root.path().join("a.yaml"), service("web", 1)).expect("a file");
        fs::write(root.path().join("b.yaml"), service("web", 2)).expect("a file");
        let (objects, problems) = read(&mut Folder::new(root.path().to_owned()));
        let web = &objects.services[&Key::new("default", "web")];
        let ports = web.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        assert_eq!(ports.map(|ports| ports[0].port), Some(1));
        assert_eq!(problems.len(), 1);
        for part in ["a.yaml:2", "b.yaml:2", "Service default/web"] {
            assert!(problems[0].contains(part), "{problems:?}");
        }
    }

    #[test]
    fn an_object_that_did_not_change_is_shared_with_the_set_before() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("web.yaml");
        fs::write(&file, service("a", 1) + &service("b", 1)).expect("a file");
        let mut folder = Folder::new(root.path().to_owned());
        let before = read(&mut folder).0;
        fs::write(
            &file,
            format!("# comment\n{}{}", service("a", 1), service("b", 2)),
        )
        .expect("a file");
        let after = read(&mut folder).0;
        let shared = |name: &str| {
            let key = Key::new("default", name);
            Arc::ptr_eq(&before.services[&key], &after.services[&key])
        };
        assert!(shared("a"));
        assert!(!shared("b"));
        assert!(!same(&before, &after));
        assert!(same(&after, &read(&mut folder).0));
    }

    #[test]
    fn a_folder_that_is_gone_keeps_its_last_good_state() {
        let parent = tempfile::tempdir().expect("a folder");
        let root = parent.path().join("manifests");
        fs::create_dir(&root).expect("a folder");
        fs::write(root.join("web.yaml"), service("web", 80)).expect("a file");
        let mut folder = Folder::new(root.clone());
        read(&mut folder);
        fs::remove_dir_all(&root).expect("is removed");
        let (objects, problems) = read(&mut folder);
        assert_eq!(names(&objects), ["default/web"]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        fs::create_dir(&root).expect("a folder");
        let (objects, problems) = read(&mut folder);
        assert_eq!(names(&objects), [] as [&str; 0]);
        assert_eq!(problems, [] as [&str; 0]);
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let root = tempfile::tempdir().expect("a folder");
        let large = " ".repeat(usize::try_from(manifest::MAX_FILE).expect("fits") + 1);
        fs::write(root.path().join("web.yaml"), large).expect("a file");
        let (_, problems) = read(&mut Folder::new(root.path().to_owned()));
        assert!(problems[0].contains("larger than"), "{problems:?}");
    }
}
