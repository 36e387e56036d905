//! What an edge must not forget, in one file: clusters, tokens' hashes, routes, positions and claims.
//! A change is on the disk when `write` returns, or was not made at all. It may not judge what it keeps.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatewright_names::{HostPattern, Hostname, WildcardMode};
use gatewright_routes::message::{Position, WireRoute};
use gatewright_routes::{ClusterId, RouteId};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::StoreConfig;
use crate::error::Error;
use crate::token::{TokenId, hex, unhex};

const FILE: &str = "edge.redb";
const LOCK: &str = "edge.lock";
/// Format of the tables below. A later format raises it and reads the earlier ones.
const SCHEMA: u64 = 1;
/// The database's page cache. The whole state is in memory anyway; this only serves writing.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CLUSTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("clusters");
const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
const ROUTES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("routes");
const POSITIONS: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("positions");
/// Who claimed a host, in the order of the claims.
const CLAIMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("claims");

/// A cluster as an administrator made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Random; the cluster's UUID in messages, metrics and logs.
    pub id: ClusterId,
    /// Chosen by the administrator; unique.
    pub name: String,
    /// Whose cluster it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The cluster's own name, `<label>.<domain>`; what lies under it is the cluster's too.
    pub own_host: Hostname,
    /// Granted patterns; an asterisk stands for one label or more.
    #[serde(deserialize_with = "patterns")]
    pub hosts: Vec<HostPattern>,
    /// Unix seconds.
    pub created: i64,
}

/// What is kept of a token.
#[derive(Debug, Clone)]
pub(crate) struct KeptToken {
    pub(crate) id: TokenId,
    pub(crate) cluster: ClusterId,
    pub(crate) sha256: [u8; 32],
    /// Unix milliseconds; of two tokens of a cluster the later one has the greater.
    pub(crate) created_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct TokenEntry {
    cluster: ClusterId,
    sha256: String,
    created_ms: u64,
}

/// Everything in the store.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) clusters: Vec<ClusterRecord>,
    pub(crate) tokens: Vec<KeptToken>,
    pub(crate) routes: BTreeMap<ClusterId, Vec<WireRoute>>,
    pub(crate) positions: BTreeMap<ClusterId, Position>,
    pub(crate) claims: Vec<(HostPattern, Vec<ClusterId>)>,
}

/// One change of the store.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Adds or replaces a cluster.
    PutCluster(ClusterRecord),
    /// Removes a cluster with its routes and its position. Its tokens and claims go by ops of their own.
    DropCluster(ClusterId),
    /// Adds a token.
    PutToken(KeptToken),
    /// Removes a token.
    DropToken(TokenId),
    /// Adds or replaces a route.
    PutRoute(ClusterId, RouteId, WireRoute),
    /// Removes a route.
    DropRoute(ClusterId, RouteId),
    /// Notes how far a cluster's agent has come; `None`: nothing that could be continued.
    SetPosition(ClusterId, Option<Position>),
    /// Replaces the claims of a host; none removes them.
    SetClaims(HostPattern, Vec<ClusterId>),
}

/// Changes could not be written; none of them was made. May concern many callers, so it can be cloned.
#[derive(Debug, Clone)]
pub(crate) struct WriteFailure {
    path: PathBuf,
    source: Arc<redb::Error>,
}

impl From<WriteFailure> for Error {
    fn from(WriteFailure { path, source }: WriteFailure) -> Self {
        Self::StoreWrite { path, source }
    }
}

/// The open store. One process at a time has it.
pub(crate) struct Store {
    /// `None` after a failure of the disk: the database has to be opened anew then.
    database: Option<Database>,
    path: PathBuf,
    /// Locked as long as this exists.
    lock: File,
}

impl Drop for Store {
    /// Unlocks by word: closing the file alone would leave it locked while a process that is being
    /// started still has a copy of the descriptor.
    fn drop(&mut self) {
        self.database = None;
        // Closing the file is the second chance.
        let _ = self.lock.unlock();
    }
}

impl Store {
    /// Opens the store in the configured folder; makes folder and file if need be.
    pub(crate) fn open(config: &StoreConfig) -> Result<Self, Error> {
        let folder = &config.path;
        let path = folder.join(FILE);
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::StoreFolder { path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(unusable(folder))?;
        let lock = private_file(&folder.join(LOCK)).map_err(unusable(folder))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::StoreInUse { path }),
            Err(TryLockError::Error(source)) => return Err(unusable(folder)(source)),
        }
        let mut store = if path.try_exists().map_err(unusable(&path))? {
            Self {
                database: Some(database(&path)?),
                path,
                lock,
            }
        } else {
            // The file gets its name when it is whole, so that a crash while it is made leaves nothing
            // that could be taken for a damaged store.
            let draft = folder.join(format!("{FILE}.new"));
            private_file(&draft)
                .and_then(|file| file.set_len(0))
                .map_err(unusable(&draft))?;
            let mut store = Self {
                database: Some(database(&draft)?),
                path,
                lock,
            };
            store.initialise()?;
            std::fs::rename(&draft, &store.path).map_err(unusable(&store.path))?;
            let folder_entry = File::open(folder).and_then(|folder| folder.sync_all());
            folder_entry.map_err(unusable(folder))?;
            store
        };
        store.check_schema()?;
        Ok(store)
    }

    fn initialise(&mut self) -> Result<(), WriteFailure> {
        self.transact(|transaction| {
            transaction.open_table(META)?.insert("schema", SCHEMA)?;
            transaction.open_table(CLUSTERS)?;
            transaction.open_table(TOKENS)?;
            transaction.open_table(ROUTES)?;
            transaction.open_table(POSITIONS)?;
            transaction.open_table(CLAIMS)?;
            Ok(())
        })
    }

    fn check_schema(&mut self) -> Result<(), Error> {
        let found = (|| -> Result<Option<u64>, redb::Error> {
            let transaction = self.database()?.begin_read()?;
            Ok(transaction
                .open_table(META)?
                .get("schema")?
                .map(|found| found.value()))
        })();
        match found {
            Ok(Some(found)) if found > SCHEMA => Err(Error::StoreNewer {
                path: self.path.clone(),
                found,
                known: SCHEMA,
            }),
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(self.bad_entry("meta", "schema", None)),
            Err(source) => Err(self.damaged(source)),
        }
    }

    /// Everything that is in the store.
    pub(crate) fn load(&mut self) -> Result<Contents, Error> {
        let mut contents = Contents::default();
        let begun = self
            .database()
            .and_then(|database| Ok(database.begin_read()?));
        let transaction = begun.map_err(|source| self.damaged(source))?;
        macro_rules! entries {
            ($table:expr, |$key:ident, $value:ident| $body:block) => {
                let table = transaction
                    .open_table($table)
                    .map_err(|source| self.damaged(source.into()))?;
                for entry in table.iter().map_err(|source| self.damaged(source.into()))? {
                    let (key, value) = entry.map_err(|source| self.damaged(source.into()))?;
                    let ($key, $value) = (key.value(), value.value());
                    $body
                }
            };
        }
        entries!(CLUSTERS, |key, value| {
            contents.clusters.push(self.parse("clusters", key, value)?);
        });
        entries!(TOKENS, |key, value| {
            let entry: TokenEntry = self.parse("tokens", key, value)?;
            let sha256 = unhex(&entry.sha256).ok_or_else(|| self.bad_entry("tokens", key, None))?;
            contents.tokens.push(KeptToken {
                id: TokenId::kept(key),
                cluster: entry.cluster,
                sha256,
                created_ms: entry.created_ms,
            });
        });
        entries!(ROUTES, |key, value| {
            let (cluster, id) = key;
            let cluster = self.cluster_id("routes", cluster)?;
            let mut route: WireRoute = self.parse("routes", &RouteId(id).to_string(), value)?;
            route.id = Some(RouteId(id));
            contents.routes.entry(cluster).or_default().push(route);
        });
        entries!(POSITIONS, |key, value| {
            let (generation, sequence) = value;
            let cluster = self.cluster_id("positions", key)?;
            contents.positions.insert(
                cluster,
                Position {
                    generation,
                    sequence,
                },
            );
        });
        entries!(CLAIMS, |key, value| {
            let host = pattern_of(key).ok_or_else(|| self.bad_entry("claims", key, None))?;
            contents
                .claims
                .push((host, self.parse("claims", key, value)?));
        });
        Ok(contents)
    }

    /// Makes all the changes, or none; when it returns without an error they are on the disk.
    pub(crate) fn write(&mut self, ops: &[Op]) -> Result<(), WriteFailure> {
        self.transact(|transaction| {
            let mut clusters = transaction.open_table(CLUSTERS)?;
            let mut tokens = transaction.open_table(TOKENS)?;
            let mut routes = transaction.open_table(ROUTES)?;
            let mut positions = transaction.open_table(POSITIONS)?;
            let mut claims = transaction.open_table(CLAIMS)?;
            for op in ops {
                match op {
                    Op::PutCluster(record) => {
                        clusters.insert(record.id.as_str(), json(record).as_slice())?;
                    }
                    Op::DropCluster(cluster) => {
                        clusters.remove(cluster.as_str())?;
                        positions.remove(cluster.as_str())?;
                        let all = (cluster.as_str(), 0)..=(cluster.as_str(), u64::MAX);
                        routes.retain_in(all, |_, _| false)?;
                    }
                    Op::PutToken(token) => {
                        let entry = TokenEntry {
                            cluster: token.cluster.clone(),
                            sha256: hex(&token.sha256),
                            created_ms: token.created_ms,
                        };
                        tokens.insert(token.id.as_str(), json(&entry).as_slice())?;
                    }
                    Op::DropToken(token) => {
                        tokens.remove(token.as_str())?;
                    }
                    Op::PutRoute(cluster, id, route) => {
                        routes.insert((cluster.as_str(), id.0), json(route).as_slice())?;
                    }
                    Op::DropRoute(cluster, id) => {
                        routes.remove((cluster.as_str(), id.0))?;
                    }
                    Op::SetPosition(cluster, Some(at)) => {
                        positions.insert(cluster.as_str(), (at.generation, at.sequence))?;
                    }
                    Op::SetPosition(cluster, None) => {
                        positions.remove(cluster.as_str())?;
                    }
                    Op::SetClaims(host, claimants) if claimants.is_empty() => {
                        claims.remove(key_of(host).as_str())?;
                    }
                    Op::SetClaims(host, claimants) => {
                        claims.insert(key_of(host).as_str(), json(claimants).as_slice())?;
                    }
                }
            }
            Ok(())
        })
    }

    fn transact(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), WriteFailure> {
        let committed = (|| -> Result<(), redb::Error> {
            let mut transaction = self.database()?.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            change(&transaction)?;
            Ok(transaction.commit()?)
        })();
        committed.map_err(|source| {
            // After a failure of the disk the database answers nothing any more.
            self.database = None;
            WriteFailure {
                path: self.path.clone(),
                source: Arc::new(source),
            }
        })
    }

    /// The database, opened anew if need be.
    fn database(&mut self) -> Result<&Database, redb::Error> {
        match &mut self.database {
            Some(database) => Ok(database),
            closed => Ok(closed.insert(open_database(&self.path)?)),
        }
    }

    fn parse<T: DeserializeOwned>(
        &self,
        table: &'static str,
        key: &str,
        value: &[u8],
    ) -> Result<T, Error> {
        serde_json::from_slice(value)
            .map_err(|source| self.bad_entry(table, key, Some(Box::new(source))))
    }

    fn cluster_id(&self, table: &'static str, key: &str) -> Result<ClusterId, Error> {
        ClusterId::parse(key).map_err(|_| self.bad_entry(table, key, None))
    }

    fn bad_entry(
        &self,
        table: &'static str,
        key: &str,
        source: Option<Box<serde_json::Error>>,
    ) -> Error {
        Error::StoreEntry {
            path: self.path.clone(),
            table,
            key: key.to_owned(),
            source,
        }
    }

    fn damaged(&self, source: redb::Error) -> Error {
        Error::StoreDamaged {
            path: self.path.clone(),
            source: Box::new(source),
        }
    }
}

/// Opens or makes a file that nobody else may read.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn database(path: &Path) -> Result<Database, Error> {
    open_database(path).map_err(|error| match error {
        redb::Error::DatabaseAlreadyOpen => Error::StoreInUse {
            path: path.to_owned(),
        },
        other => Error::StoreDamaged {
            path: path.to_owned(),
            source: Box::new(other),
        },
    })
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    let file = private_file(path)?;
    Ok(Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_file(file)?)
}

/// Writing to memory fails only for maps without text keys, and there are none here.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A pattern as the key of a table; unlike its display form it tells the wildcard modes apart.
fn key_of(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.to_string(),
        HostPattern::Wildcard {
            suffix,
            mode: WildcardMode::OneLabel,
        } => format!("*.{suffix}"),
        HostPattern::Wildcard {
            suffix,
            mode: WildcardMode::ManyLabels,
        } => format!("**.{suffix}"),
    }
}

fn pattern_of(key: &str) -> Option<HostPattern> {
    match key.strip_prefix("**.") {
        Some(suffix) => Some(HostPattern::Wildcard {
            suffix: Hostname::parse(suffix).ok()?,
            mode: WildcardMode::ManyLabels,
        }),
        None => HostPattern::parse(key, WildcardMode::OneLabel).ok(),
    }
}

/// Granted patterns: an asterisk in a grant stands for any number of labels.
fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HostPattern>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parsed = texts
        .iter()
        .map(|text| HostPattern::parse(text, WildcardMode::ManyLabels));
    parsed
        .collect::<Result<_, _>>()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_later_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            path: folder.path().to_owned(),
        };
        let mut store = Store::open(&config).unwrap();
        store
            .transact(|transaction| {
                transaction.open_table(META)?.insert("schema", SCHEMA + 1)?;
                Ok(())
            })
            .unwrap();
        drop(store);
        let error = Store::open(&config).err().unwrap();
        assert!(
            matches!(error, Error::StoreNewer { found, known: SCHEMA, .. } if found == SCHEMA + 1),
            "{error}"
        );
        assert!(error.is_configuration());
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&StoreConfig {
            path: folder.path().to_owned(),
        })
        .unwrap();
        store
            .transact(|transaction| {
                transaction
                    .open_table(CLUSTERS)?
                    .insert("abc", b"{\"name\": 1}".as_slice())?;
                Ok(())
            })
            .unwrap();
        let error = store.load().err().unwrap();
        assert!(
            error
                .to_string()
                .ends_with("entry abc of its table clusters cannot be read"),
            "{error}"
        );
    }

    /// A crash may come while the file is being made.
    #[test]
    fn a_file_that_was_never_finished_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(format!("{FILE}.new")),
            b"half a database",
        )
        .unwrap();
        let mut store = Store::open(&StoreConfig {
            path: folder.path().to_owned(),
        })
        .unwrap();
        assert!(store.load().unwrap().clusters.is_empty());
        assert!(!folder.path().join(format!("{FILE}.new")).exists());
    }

    #[test]
    fn wildcards_of_both_kinds_have_keys_of_their_own() {
        for (text, mode, key) in [
            ("a.test", WildcardMode::OneLabel, "a.test"),
            ("*.a.test", WildcardMode::OneLabel, "*.a.test"),
            ("*.a.test", WildcardMode::ManyLabels, "**.a.test"),
        ] {
            let pattern = HostPattern::parse(text, mode).unwrap();
            assert_eq!(key_of(&pattern), key);
            assert_eq!(pattern_of(key), Some(pattern));
        }
        assert_eq!(
            (pattern_of(""), pattern_of("**."), pattern_of("a..b")),
            (None, None, None)
        );
    }
}
