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
/// a change copies 128 pointers and one shard of about 350 slots.
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
    groups: Arc<[Group<P>]>,
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

/// A group of shards. Slices and no vectors: each pointer on the way is a wait for memory.
type Group<P> = Arc<[Shard<P>]>;

/// Hosts by their hashes, with linear probing. The number of slots follows from the number of hosts alone: at most three
/// quarters of them are taken; or there are none at all. A host's rules lie in its slot, for a pointer to them would be
/// one more wait for memory.
type Shard<P> = Arc<[Slot<P>]>;

#[derive(Debug, Clone)]
struct Slot<P> {
    hash: u64,
    rules: Option<HostRules<P>>,
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
        let shard: Shard<P> = Arc::new([]);
        let group: Group<P> = vec![shard; FANOUT].into();
        Self {
            groups: vec![group; FANOUT].into(),
            wildcards: Wildcards::default(),
            routes: 0,
            heap: 0,
        }
    }

    /// Replaces all routes of one host pattern by `routes`; none removes the pattern. Of each route only its path,
    /// path type, age, source and id are looked at.
    pub fn set_host<R: AsRef<Route>>(&mut self, host: &HostPattern, routes: Vec<(R, P)>) {
        let rules = HostRules::new(host, routes);
        let kind = Kind::of(host);
        let hash = hash_of(kind, host.name().as_str());
        let (group, shard) = address(hash);
        let group = &mut Arc::make_mut(&mut self.groups)[group];
        let shard = &mut Arc::make_mut(group)[shard];
        let (added, heap) = rules
            .as_ref()
            .map_or((0, 0), |rules| (rules.len(), rules.heap_bytes()));
        let is_new = rules.is_some();
        let slots_before = shard.len();
        let before = put(shard, hash, kind, host.name().as_str(), rules);
        let (removed, freed) = before
            .as_ref()
            .map_or((0, 0), |rules| (rules.len(), rules.heap_bytes()));
        self.routes = self.routes + added - removed;
        let slots = |count: usize| count * size_of::<Slot<P>>();
        self.heap = self.heap + heap + slots(shard.len()) - freed - slots(slots_before);
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
        // A pointer with its length, and the counters behind it.
        let shard = size_of::<Shard<P>>() + 2 * size_of::<usize>();
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
            if self
                .wildcards
                .many_labels
                .get(labels)
                .is_some_and(|&count| count > 0)
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
        let shard = &self.groups[group][shard];
        find(shard, hash, kind, name).and_then(|at| shard[at].rules.as_ref())
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
        found
            .and_then(|rule| self.entry(rule))
            .ok_or(NoMatch::UnknownPath)
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
            HostPattern::Wildcard {
                mode: WildcardMode::OneLabel,
                ..
            } => Self::OneLabel,
            HostPattern::Wildcard {
                mode: WildcardMode::ManyLabels,
                ..
            } => Self::ManyLabels,
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

/// The place of a host in a shard.
fn find<P>(shard: &[Slot<P>], hash: u64, kind: Kind, name: &str) -> Option<usize> {
    if shard.is_empty() {
        return None;
    }
    let mut at = home(hash, shard.len());
    loop {
        let slot = &shard[at];
        let rules = slot.rules.as_ref()?;
        if slot.hash == hash && rules.is_for(kind, name) {
            return Some(at);
        }
        at = after(at, shard.len());
    }
}

/// Where the search for a hash begins in so many slots. The bits are others than those of [`address`].
fn home(hash: u64, slots: usize) -> usize {
    let low = u64::from(hash as u32);
    // The product's upper half is less than the number of slots.
    ((low * slots as u64) >> 32) as usize
}

fn after(at: usize, slots: usize) -> usize {
    if at + 1 == slots { 0 } else { at + 1 }
}

/// Sets or removes a host; returns what was there.
fn put<P: Clone>(
    shard: &mut Shard<P>,
    hash: u64,
    kind: Kind,
    name: &str,
    rules: Option<HostRules<P>>,
) -> Option<HostRules<P>> {
    match (find(shard, hash, kind, name), rules) {
        (Some(at), Some(rules)) => Arc::make_mut(shard)[at].rules.replace(rules),
        (Some(at), None) => {
            let before = shard[at].rules.clone();
            // A gap would end a search too early.
            let hosts = hosts(shard) - 1;
            *shard = rebuilt(shard, hosts, Some(at));
            before
        }
        (None, Some(rules)) => {
            let hosts = hosts(shard) + 1;
            if shard.len() != capacity(hosts) {
                *shard = rebuilt(shard, hosts, None);
            }
            insert(
                Arc::make_mut(shard),
                Slot {
                    hash,
                    rules: Some(rules),
                },
            );
            None
        }
        (None, None) => None,
    }
}

fn hosts<P>(shard: &[Slot<P>]) -> usize {
    shard.iter().filter(|slot| slot.rules.is_some()).count()
}

/// The same hosts, but for the one at `without`, in as many slots as `hosts` of them have.
fn rebuilt<P: Clone>(shard: &mut Shard<P>, hosts: usize, without: Option<usize>) -> Shard<P> {
    let free = || Slot {
        hash: 0,
        rules: None,
    };
    let mut slots: Vec<Slot<P>> = std::iter::repeat_with(free).take(capacity(hosts)).collect();
    let mut keep = |at: usize, hash: u64, rules: Option<HostRules<P>>| {
        if rules.is_some() && Some(at) != without {
            insert(&mut slots, Slot { hash, rules });
        }
    };
    match Arc::get_mut(shard) {
        // Nobody else has this shard: nothing needs to be copied.
        Some(own) => own
            .iter_mut()
            .enumerate()
            .for_each(|(at, slot)| keep(at, slot.hash, slot.rules.take())),
        None => shard
            .iter()
            .enumerate()
            .for_each(|(at, slot)| keep(at, slot.hash, slot.rules.clone())),
    }
    slots.into()
}

/// Puts a host that is not there into the first free slot, of which there is one.
fn insert<P>(slots: &mut [Slot<P>], slot: Slot<P>) {
    let mut at = home(slot.hash, slots.len());
    while slots[at].rules.is_some() {
        at = after(at, slots.len());
    }
    slots[at] = slot;
}

/// Slots for so many hosts. It grows by an eighth at most, for slots are large, and not with each host, for growing
/// copies all of them.
fn capacity(hosts: usize) -> usize {
    if hosts == 0 {
        return 0;
    }
    let least = hosts + hosts / 3 + 1;
    let step = (least.next_power_of_two() / 16).max(1);
    least.next_multiple_of(step)
}

impl Wildcards {
    fn add(&mut self, pattern: &HostPattern) {
        match pattern {
            HostPattern::Exact(_) => {}
            HostPattern::Wildcard {
                mode: WildcardMode::OneLabel,
                ..
            } => self.one_label += 1,
            HostPattern::Wildcard {
                suffix,
                mode: WildcardMode::ManyLabels,
            } => {
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
            HostPattern::Wildcard {
                mode: WildcardMode::OneLabel,
                ..
            } => self.one_label -= 1,
            HostPattern::Wildcard {
                suffix,
                mode: WildcardMode::ManyLabels,
            } => {
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

impl<P: Clone> Default for RouteTable<P> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
