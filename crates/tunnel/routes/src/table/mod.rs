//! The routing table: host and raw path in, the winning entry out. May not know who owns a host; it is told the
//! routes of each host pattern and answers in time proportional to host and path, whatever their number.

mod rules;

use std::hash::Hasher;
use std::sync::Arc;

use gatewright_names::{HostPattern, Hostname, WildcardMode};

use crate::path::{self, Readings};
use crate::route::Route;
pub(crate) use rules::HostRules;

/// Groups of the table, and shards of a group. 4,096 shards hold about 250 hosts each at a million hosts, so that
/// a change copies 128 pointers and one shard of 512 slots.
const FANOUT: usize = 64;

/// Which entry serves a request. Cloning is cheap, and a clone is not touched by later changes of the original:
/// publish one clone and go on changing the other. A change copies the shard of its host and nothing else.
///
/// **Host**: the most specific pattern that has routes is consulted, and no other: the exact host, else the
/// one-label wildcard of its parent, else the many-label wildcard with the longest suffix. There is no second try
/// with a less specific pattern when no path matches, because that pattern may belong to somebody else.
///
/// **Path** (Kubernetes Ingress v1): `Exact` is equality, all else is prefix by elements, in which one final slash
/// of the route does not count. The longest match wins, `Exact` before prefix, then the oldest, then the least
/// source. Elements are compared percent-decoded, empty ones (`//`) are elements like others and never merged, and
/// the query is not part of the path. Where a backend could read a path in more than one way (dot segments,
/// encoded slashes, backslashes) and these ways do not all lead to the same entry, the answer is `BadPath`.
#[derive(Debug)]
pub struct RouteTable<P> {
    groups: Arc<Vec<Arc<Group<P>>>>,
    wildcards: Wildcards,
    routes: usize,
    heap: usize,
}

/// Why nothing serves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoMatch {
    /// No pattern with routes matches the host.
    #[error("no route is known for this host")]
    UnknownHost,
    /// The host is known; none of its paths matches.
    #[error("no route of this host matches this path")]
    UnknownPath,
    /// Backends could read the path in ways that lead to different routes, or not at all.
    #[error("{0}")]
    BadPath(&'static str),
}

#[derive(Debug)]
struct Group<P>(Vec<Arc<Shard<P>>>);

/// Hosts by their hashes, with linear probing. The number of slots follows from the number of hosts alone.
#[derive(Debug)]
struct Shard<P> {
    /// A power of two, at most three quarters full; or none at all.
    slots: Vec<Slot<P>>,
    hosts: usize,
}

#[derive(Debug)]
struct Slot<P> {
    hash: u64,
    rules: Option<Arc<HostRules<P>>>,
}

/// Which wildcards there are at all, so that a host of a hundred labels does not cost a hundred searches.
#[derive(Debug, Clone, Default)]
struct Wildcards {
    one_label: usize,
    /// Number of many-label wildcards by the number of labels of their suffix.
    many_labels: Vec<u32>,
}

impl<P: Clone> RouteTable<P> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        let shard = Arc::new(Shard { slots: Vec::new(), hosts: 0 });
        let group = Arc::new(Group(vec![shard; FANOUT]));
        Self { groups: Arc::new(vec![group; FANOUT]), wildcards: Wildcards::default(), routes: 0, heap: 0 }
    }

    /// Replaces all routes of one host pattern by `routes`; none removes the pattern. Of each route only its path,
    /// path type, age, source and id are looked at.
    pub fn set_host<R: AsRef<Route>>(&mut self, host: &HostPattern, routes: Vec<(R, P)>) {
        let rules = HostRules::new(host, routes).map(Arc::new);
        let kind = Kind::of(host);
        let hash = hash_of(kind, host.name().as_str());
        let (group, shard) = address(hash);
        let group = &mut Arc::make_mut(&mut self.groups)[group];
        let shard = Arc::make_mut(&mut Arc::make_mut(group).0[shard]);
        let (added, heap) = rules.as_ref().map_or((0, 0), |rules| (rules.len(), rules.memory_bytes()));
        let is_new = rules.is_some();
        let slots_before = shard.slots.len();
        let before = shard.put(hash, kind, host.name().as_str(), rules);
        let (removed, freed) = before.as_ref().map_or((0, 0), |rules| (rules.len(), rules.memory_bytes()));
        self.routes = self.routes + added - removed;
        let slots = |count: usize| count * size_of::<Slot<P>>();
        self.heap = self.heap + heap + slots(shard.slots.len()) - freed - slots(slots_before);
        match (before.is_some(), is_new) {
            (false, true) => self.wildcards.add(host),
            (true, false) => self.wildcards.remove(host),
            (true, true) | (false, false) => {}
        }
    }

    /// The entry that serves `raw_path` (without query, as it came) on `host` (in normal form).
    ///
    /// # Errors
    /// [`NoMatch`].
    pub fn lookup(&self, host: &str, raw_path: &str) -> Result<&P, NoMatch> {
        let rules = self.host(host).ok_or(NoMatch::UnknownHost)?;
        rules.lookup(raw_path)
    }

    /// The number of routes that can win: of two with equal host, path and type only one counts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes
    }

    /// Whether there are no routes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes == 0
    }

    /// Bytes of memory that the table takes, but for what its entries point to and the allocator's own.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let shard = size_of::<Arc<Shard<P>>>() + size_of::<Shard<P>>() + 2 * size_of::<usize>();
        self.heap + FANOUT * FANOUT * shard
    }

    fn host(&self, host: &str) -> Option<&HostRules<P>> {
        if let Some(rules) = self.get(Kind::Exact, host) {
            return Some(rules);
        }
        if self.wildcards.one_label == 0 && self.wildcards.many_labels.is_empty() {
            return None;
        }
        let mut labels = host.bytes().filter(|&byte| byte == b'.').count();
        let mut name = host;
        let mut first = true;
        while let Some((_, suffix)) = name.split_once('.') {
            if first
                && self.wildcards.one_label > 0
                && let Some(rules) = self.get(Kind::OneLabel, suffix)
            {
                return Some(rules);
            }
            if self.wildcards.many_labels.get(labels).is_some_and(|&count| count > 0)
                && let Some(rules) = self.get(Kind::ManyLabels, suffix)
            {
                return Some(rules);
            }
            (name, first, labels) = (suffix, false, labels - 1);
        }
        None
    }

    fn get(&self, kind: Kind, name: &str) -> Option<&HostRules<P>> {
        let hash = hash_of(kind, name);
        let (group, shard) = address(hash);
        let shard = &self.groups[group].0[shard];
        shard.find(hash, kind, name).and_then(|at| shard.slots[at].rules.as_deref())
    }
}

impl<P> HostRules<P> {
    /// The entry that serves a raw path.
    pub(crate) fn lookup(&self, raw_path: &str) -> Result<&P, NoMatch> {
        let found = match path::readings(raw_path).map_err(NoMatch::BadPath)? {
            Readings::One(path) => self.find(&path),
            Readings::Several(readings) => {
                let mut found = readings.iter().map(|reading| self.find(reading));
                let first = found.next().flatten();
                if found.any(|other| other != first) {
                    return Err(NoMatch::BadPath(
                        "dot segments, encoded slashes or backslashes in the path make it ambiguous which route serves it",
                    ));
                }
                first
            }
        };
        found.and_then(|rule| self.entry(rule)).ok_or(NoMatch::UnknownPath)
    }
}

/// The kind of pattern is part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exact,
    OneLabel,
    ManyLabels,
}

impl Kind {
    fn of(pattern: &HostPattern) -> Self {
        match pattern {
            HostPattern::Exact(_) => Self::Exact,
            HostPattern::Wildcard { mode: WildcardMode::OneLabel, .. } => Self::OneLabel,
            HostPattern::Wildcard { mode: WildcardMode::ManyLabels, .. } => Self::ManyLabels,
        }
    }
}

/// Without a secret key: whoever asks for a host adds nothing to the table, and whoever owns hosts would have to find
/// names of equal hashes by the hundred, by search, to slow down one shard of 4,096.
fn hash_of(kind: Kind, name: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.write_u8(kind as u8);
    hasher.finish()
}

/// Group and shard of a hash.
fn address(hash: u64) -> (usize, usize) {
    let low = |bits: u64| (bits % FANOUT as u64) as usize;
    (low(hash >> 58), low(hash >> 52))
}

impl<P> Shard<P> {
    fn find(&self, hash: u64, kind: Kind, name: &str) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = (hash as usize) & mask;
        loop {
            let slot = &self.slots[at];
            let rules = slot.rules.as_ref()?;
            if slot.hash == hash && rules.is_for(kind, name) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Sets or removes a host; returns what was there.
    fn put(
        &mut self,
        hash: u64,
        kind: Kind,
        name: &str,
        rules: Option<Arc<HostRules<P>>>,
    ) -> Option<Arc<HostRules<P>>> {
        match (self.find(hash, kind, name), rules) {
            (Some(at), Some(rules)) => self.slots[at].rules.replace(rules),
            (Some(at), None) => {
                let before = self.slots[at].rules.take();
                self.hosts -= 1;
                // A gap would end a search too early.
                self.rebuild();
                before
            }
            (None, Some(rules)) => {
                self.hosts += 1;
                if self.slots.len() != capacity(self.hosts) {
                    self.rebuild();
                }
                self.insert(Slot { hash, rules: Some(rules) });
                None
            }
            (None, None) => None,
        }
    }

    fn rebuild(&mut self) {
        let free = || Slot { hash: 0, rules: None };
        let slots = std::iter::repeat_with(free).take(capacity(self.hosts)).collect();
        for slot in std::mem::replace(&mut self.slots, slots) {
            if slot.rules.is_some() {
                self.insert(slot);
            }
        }
    }

    /// Puts a host that is not there into the first free slot, of which there is one.
    fn insert(&mut self, slot: Slot<P>) {
        let mask = self.slots.len() - 1;
        let mut at = (slot.hash as usize) & mask;
        while self.slots[at].rules.is_some() {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}

/// Slots for so many hosts.
fn capacity(hosts: usize) -> usize {
    if hosts == 0 { 0 } else { (hosts + hosts / 3 + 1).next_power_of_two() }
}

impl Wildcards {
    fn add(&mut self, pattern: &HostPattern) {
        match pattern {
            HostPattern::Exact(_) => {}
            HostPattern::Wildcard { mode: WildcardMode::OneLabel, .. } => self.one_label += 1,
            HostPattern::Wildcard { suffix, mode: WildcardMode::ManyLabels } => {
                let labels = label_count(suffix);
                if self.many_labels.len() <= labels {
                    self.many_labels.resize(labels + 1, 0);
                }
                self.many_labels[labels] += 1;
            }
        }
    }

    fn remove(&mut self, pattern: &HostPattern) {
        match pattern {
            HostPattern::Exact(_) => {}
            HostPattern::Wildcard { mode: WildcardMode::OneLabel, .. } => self.one_label -= 1,
            HostPattern::Wildcard { suffix, mode: WildcardMode::ManyLabels } => {
                self.many_labels[label_count(suffix)] -= 1;
                while self.many_labels.last() == Some(&0) {
                    self.many_labels.pop();
                }
            }
        }
    }
}

fn label_count(name: &Hostname) -> usize {
    name.labels().count()
}

// Derived clones would ask for `P: Clone`, which sharing does not need.
impl<P> Clone for RouteTable<P> {
    fn clone(&self) -> Self {
        Self {
            groups: self.groups.clone(),
            wildcards: self.wildcards.clone(),
            routes: self.routes,
            heap: self.heap,
        }
    }
}

impl<P> Clone for Group<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P> Clone for Shard<P> {
    fn clone(&self) -> Self {
        let slot = |slot: &Slot<P>| Slot { hash: slot.hash, rules: slot.rules.clone() };
        Self { slots: self.slots.iter().map(slot).collect(), hosts: self.hosts }
    }
}

impl<P: Clone> Default for RouteTable<P> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
