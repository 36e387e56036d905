//! The paths of one host, packed. May not decode: it compares the bytes that it is given.

use std::sync::Arc;

use gatewright_names::HostPattern;

use super::Kind;
use crate::path;
use crate::route::{PathType, Route};

/// Up to this many rules are compared one after the other; more are found by hashing.
const LINEAR: usize = 8;

/// The routes of one host pattern, at least one, of which no two have the same key.
///
/// A lookup among a million routes waits for memory, not for the processor: what a host with one short path needs lies
/// in one piece, and of a host with many paths only that piece of the text is read where the path must be. Cloning
/// shares everything but that one piece.
#[derive(Debug, Clone)]
pub(crate) struct HostRules<P> {
    kind: Kind,
    name_length: u8,
    /// The name; then, unless there are many, a record per rule: exact ones first, then the longer ones, so that the
    /// first match wins.
    text: Text,
    entries: Entries<P>,
}

/// Entries are in the order in which rules win.
#[derive(Debug, Clone)]
enum Entries<P> {
    One(P),
    // The vectors cost one step more than slices would, and make the slots of all hosts smaller.
    Few(Arc<Vec<P>>),
    Many(Arc<Many<P>>),
}

#[derive(Debug)]
struct Many<P> {
    entries: Box<[P]>,
    index: Index,
}

/// Bytes that are in place if they are few.
#[derive(Debug, Clone)]
enum Text {
    Short(u8, [u8; SHORT]),
    Long(Arc<[u8]>),
}

/// As many as make a `Text` of 64 bytes, and a slot of the table of 96.
const SHORT: usize = 62;

/// A rule as it stands in the text.
struct Record<'a> {
    number: usize,
    exact: bool,
    key: &'a [u8],
    /// All of it.
    bytes: &'a [u8],
}

/// Number of the rule (4 bytes), and length of its key with the top bit for exact (2 bytes).
const RECORD_HEAD: usize = 6;
const EXACT_BIT: u16 = 1 << 15;

/// Finds a rule by the hash of its key: the hashes of all prefixes of a path come out of one pass over it.
///
/// Records with hashes that are alike lie side by side. Where they begin is a short list, which mostly stays in the
/// processor's cache, so that only the records themselves are waited for.
#[derive(Debug)]
struct Index {
    text: Box<[u8]>,
    /// Where each bucket begins, and where the last one ends. The number of buckets is a power of two.
    begins: Box<[u32]>,
    /// Bit n: there is a prefix of n elements; bit 63: of 63 or more.
    depths: u64,
    has_exact: bool,
}

/// Rules in a bucket, on average at most; half as many at least.
const BUCKET: usize = 4;

impl<P> HostRules<P> {
    /// `None` if no route is left. A path that no request can have is left out.
    pub(crate) fn new<R: AsRef<Route>>(pattern: &HostPattern, routes: Vec<(R, P)>) -> Option<Self> {
        let mut keyed: Vec<(Vec<u8>, bool, R, P)> = Vec::with_capacity(routes.len());
        for (route, entry) in routes {
            let parsed = route.as_ref();
            let exact = match parsed.path_type {
                PathType::Exact => true,
                PathType::Prefix | PathType::ImplementationSpecific => false,
            };
            if let Some(key) = path::of_route(&parsed.path) {
                let key = if exact {
                    &key
                } else {
                    key.strip_suffix(b"/").unwrap_or(&key)
                };
                keyed.push((key.to_vec(), exact, route, entry));
            }
        }
        keyed.sort_by(|(a, a_exact, a_route, _), (b, b_exact, b_route, _)| {
            let (a_route, b_route) = (a_route.as_ref(), b_route.as_ref());
            (b_exact.cmp(a_exact))
                .then(b.len().cmp(&a.len()))
                .then_with(|| a.cmp(b))
                .then(a_route.created.cmp(&b_route.created))
                .then_with(|| a_route.source.cmp(&b_route.source))
                .then(a_route.id.cmp(&b_route.id))
        });
        keyed.dedup_by(|(a, a_exact, ..), (b, b_exact, ..)| a == b && a_exact == b_exact);

        let name = pattern.name().as_str().as_bytes();
        let mut text = name.to_vec();
        let mut entries = Vec::with_capacity(keyed.len());
        for (key, exact, _, entry) in keyed {
            // A path has at most 4,096 bytes, and a host would need a million of them to run out of 32 bits.
            let (Ok(number), Ok(length)) = (u32::try_from(entries.len()), u16::try_from(key.len()))
            else {
                continue;
            };
            if u32::try_from(text.len() + RECORD_HEAD + key.len()).is_err() {
                break;
            }
            text.extend_from_slice(&number.to_le_bytes());
            text.extend_from_slice(&(length | if exact { EXACT_BIT } else { 0 }).to_le_bytes());
            text.extend_from_slice(&key);
            entries.push(entry);
        }
        // A name has at most 253 characters.
        let name_length = u8::try_from(name.len()).ok()?;
        let entries = match entries.len() {
            0 | 1 => Entries::One(entries.pop()?),
            2..=LINEAR => Entries::Few(Arc::new(entries)),
            rules => {
                let index = Index::new(&text[name.len()..], rules);
                text.truncate(name.len());
                let entries = entries.into();
                Entries::Many(Arc::new(Many { entries, index }))
            }
        };
        Some(Self {
            kind: Kind::of(pattern),
            name_length,
            text: Text::new(text),
            entries,
        })
    }

    /// Whether these are the rules of this pattern.
    pub(super) fn is_for(&self, kind: Kind, name: &str) -> bool {
        self.kind == kind && self.name() == name.as_bytes()
    }

    /// The suffix of a wildcard, or the host.
    fn name(&self) -> &[u8] {
        &self.text.bytes()[..usize::from(self.name_length)]
    }

    pub(crate) fn len(&self) -> usize {
        match &self.entries {
            Entries::One(_) => 1,
            Entries::Few(entries) => entries.len(),
            Entries::Many(many) => many.entries.len(),
        }
    }

    /// The entry of a rule that `find` returned.
    pub(crate) fn entry(&self, rule: usize) -> Option<&P> {
        match &self.entries {
            Entries::One(entry) => Some(entry),
            Entries::Few(entries) => entries.get(rule),
            Entries::Many(many) => many.entries.get(rule),
        }
    }

    /// The number of the rule that wins for one reading of a path, which starts with a slash.
    pub(crate) fn find(&self, path: &[u8]) -> Option<usize> {
        match &self.entries {
            Entries::One(_) | Entries::Few(_) => {
                let mut records = records(&self.text.bytes()[usize::from(self.name_length)..]);
                records
                    .find(|record| record.matches(path))
                    .map(|record| record.number)
            }
            Entries::Many(many) => many.index.find(path),
        }
    }

    /// Bytes that belong to this and lie elsewhere, but for what the entries point to.
    pub(crate) fn heap_bytes(&self) -> usize {
        let entries = match &self.entries {
            Entries::One(_) => 0,
            Entries::Few(entries) => COUNTERS + size_of_val(&**entries) + size_of_val(&entries[..]),
            Entries::Many(many) => {
                let Many { entries, index } = &**many;
                let Index { text, begins, .. } = index;
                COUNTERS
                    + size_of_val(&**many)
                    + size_of_val(&**entries)
                    + text.len()
                    + size_of_val(&**begins)
            }
        };
        self.text.heap() + entries
    }
}

/// What an `Arc` counts with.
const COUNTERS: usize = 2 * size_of::<usize>();

/// The record at the beginning of a text.
fn record(text: &[u8]) -> Option<Record<'_>> {
    let (head, rest) = text.split_first_chunk::<RECORD_HEAD>()?;
    let &[a, b, c, d, low, high] = head;
    let length = u16::from_le_bytes([low, high]);
    let key_length = usize::from(length & !EXACT_BIT);
    Some(Record {
        number: u32::from_le_bytes([a, b, c, d]) as usize,
        exact: length & EXACT_BIT != 0,
        key: rest.get(..key_length)?,
        bytes: &text[..RECORD_HEAD + key_length],
    })
}

/// The records of a text.
fn records(mut text: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let record = record(text)?;
        text = &text[record.bytes.len()..];
        Some(record)
    })
}

impl Text {
    fn new(bytes: Vec<u8>) -> Self {
        let mut short = [0; SHORT];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(&bytes);
                Self::Short(length, short)
            }
            (_, _) => Self::Long(bytes.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }

    fn heap(&self) -> usize {
        match self {
            Self::Short(..) => 0,
            Self::Long(bytes) => COUNTERS + bytes.len(),
        }
    }
}

impl Record<'_> {
    fn matches(&self, path: &[u8]) -> bool {
        if self.exact {
            self.key == path
        } else {
            is_element_prefix(self.key, path)
        }
    }
}

/// `/foo` is one of `/foo`, `/foo/` and `/foo/bar`, not of `/foobar`; the empty key is one of every path.
fn is_element_prefix(key: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(key)
        .is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b'/'))
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Keeps an exact `/foo` apart from a prefix `/foo`.
const EXACT: u64 = 0xa5a5_a5a5_5a5a_5a5a;

/// Adds one element, without its slash, to the hash of the elements before it. A cluster chooses the keys of its
/// own hosts only, so what it gains from collisions is its own slowness.
fn add_element(hash: u64, element: &[u8]) -> u64 {
    let mut hash = hash ^ element.len() as u64;
    let mut mix = |word: [u8; 8]| {
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    };
    let (words, rest) = element.as_chunks::<8>();
    words.iter().for_each(|&word| mix(word));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(last);
    hash
}

/// Calls `visit` with depth, hash and length of the empty prefix and of every prefix that ends before a slash or
/// at the end of the path.
fn prefixes(path: &[u8], mut visit: impl FnMut(usize, u64, usize)) -> u64 {
    let mut hash = SEED;
    visit(0, hash, 0);
    let mut start = 1;
    let mut depth = 0;
    while start <= path.len() {
        let end = path[start..]
            .iter()
            .position(|&byte| byte == b'/')
            .map_or(path.len(), |at| start + at);
        hash = add_element(hash, &path[start..end]);
        depth += 1;
        visit(depth, hash, end);
        start = end + 1;
    }
    hash
}

impl Index {
    /// Of a text with so many rules.
    fn new(text: &[u8], rules: usize) -> Self {
        let buckets = rules.div_ceil(BUCKET).next_power_of_two();
        let (mut depths, mut has_exact) = (0, false);
        let mut placed: Vec<(usize, Record<'_>)> = records(text)
            .map(|record| {
                let mut depth = 0;
                let mut hash = prefixes(record.key, |deeper, _, _| depth = deeper);
                if record.exact {
                    has_exact = true;
                    hash ^= EXACT;
                } else {
                    depths |= depth_bit(depth);
                }
                (bucket(hash, buckets), record)
            })
            .collect();
        placed.sort_by_key(|(bucket, _)| *bucket);
        let mut sorted = Vec::with_capacity(text.len());
        let mut begins = Vec::with_capacity(buckets + 1);
        let mut placed = placed.into_iter().peekable();
        for bucket in 0..buckets {
            // The text was made so that everything in it is within 32 bits.
            begins.push(sorted.len() as u32);
            while let Some((_, record)) = placed.next_if(|(of, _)| *of == bucket) {
                sorted.extend_from_slice(record.bytes);
            }
        }
        begins.push(sorted.len() as u32);
        Self {
            text: sorted.into(),
            begins: begins.into(),
            depths,
            has_exact,
        }
    }

    fn find(&self, path: &[u8]) -> Option<usize> {
        let mut longest = None;
        let whole = prefixes(path, |depth, hash, length| {
            if self.depths & depth_bit(depth) != 0
                && let Some(rule) = self.get(hash, &path[..length], false)
            {
                longest = Some(rule);
            }
        });
        let exact = if self.has_exact {
            self.get(whole ^ EXACT, path, true)
        } else {
            None
        };
        exact.or(longest)
    }

    fn get(&self, hash: u64, key: &[u8], exact: bool) -> Option<usize> {
        let bucket = bucket(hash, self.begins.len() - 1);
        let (begin, end) = (self.begins[bucket], self.begins[bucket + 1]);
        records(&self.text[begin as usize..end as usize])
            .find(|record| record.exact == exact && record.key == key)
            .map(|record| record.number)
    }
}

/// The bucket of a hash, of which the upper half is mixed best.
fn bucket(hash: u64, buckets: usize) -> usize {
    (hash >> 32) as usize & (buckets - 1)
}

fn depth_bit(depth: usize) -> u64 {
    1 << depth.min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_a_path_is_visited_once() {
        let mut seen = Vec::new();
        prefixes(b"/a//b/", |depth, _, length| seen.push((depth, length)));
        assert_eq!(seen, [(0, 0), (1, 2), (2, 3), (3, 5), (4, 6)]);
        let mut seen = Vec::new();
        prefixes(b"/", |depth, _, length| seen.push((depth, length)));
        assert_eq!(seen, [(0, 0), (1, 1)]);
    }

    #[test]
    fn elements_do_not_run_together_in_the_hash() {
        let hash = |path: &[u8]| prefixes(path, |_, _, _| ());
        let paths: [&[u8]; 8] = [
            b"",
            b"/",
            b"//",
            b"/ab",
            b"/a/b",
            b"/ab/",
            b"/a\0b",
            b"/abcdefgh",
        ];
        for (at, a) in paths.iter().enumerate() {
            for b in &paths[at + 1..] {
                assert_ne!(hash(a), hash(b), "{a:?} {b:?}");
            }
        }
    }
}
