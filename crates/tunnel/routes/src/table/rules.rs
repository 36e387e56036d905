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
/// A lookup among a million routes waits for memory, not for the processor, and longest where it goes on in another
/// page: what a host with one short path needs lies in its slot of the table, and what one with many paths needs in a
/// second piece. Cloning shares everything but the slot.
#[derive(Debug, Clone)]
pub(crate) struct HostRules<P> {
    kind: Kind,
    name_length: u8,
    /// The name, then a record per rule: up to [`LINEAR`] of them with exact ones first, then the longer ones, so that
    /// the first match wins; more of them as an [`Index`].
    text: Text,
    entries: Entries<P>,
}

/// Entries are in the order in which rules win.
#[derive(Debug, Clone)]
enum Entries<P> {
    One(P),
    // A vector costs one step more than a slice would, and makes the slots of all hosts smaller.
    Several(Arc<Vec<P>>),
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
/// As it stands in the text: [`INDEX_HEAD`], where each bucket begins and the last one ends (4 bytes each, counted
/// from the first record), then the records, those of a bucket side by side. Numbers are little-endian.
struct Index<'a> {
    /// Bit n: there is a prefix of n elements; bit 63: of 63 or more.
    depths: u64,
    has_exact: bool,
    /// One more than there are buckets, whose number is a power of two.
    begins: &'a [[u8; 4]],
    records: &'a [u8],
}

/// Depths (8 bytes), number of buckets (4), whether there are exact rules (1).
const INDEX_HEAD: usize = 13;

/// Rules in a bucket, on average at most; half as many at least.
const BUCKET: usize = 2;

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
            rules => {
                if rules > LINEAR {
                    let index = index(&text[name.len()..], rules);
                    text.truncate(name.len());
                    text.extend_from_slice(&index);
                }
                entries.shrink_to_fit();
                Entries::Several(Arc::new(entries))
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
            Entries::Several(entries) => entries.len(),
        }
    }

    /// The entry of a rule that `find` returned.
    pub(crate) fn entry(&self, rule: usize) -> Option<&P> {
        match &self.entries {
            Entries::One(entry) => Some(entry),
            Entries::Several(entries) => entries.get(rule),
        }
    }

    /// The number of the rule that wins for one reading of a path, which starts with a slash.
    pub(crate) fn find(&self, path: &[u8]) -> Option<usize> {
        let rules = &self.text.bytes()[usize::from(self.name_length)..];
        match &self.entries {
            Entries::Several(entries) if entries.len() > LINEAR => Index::read(rules)?.find(path),
            Entries::One(_) | Entries::Several(_) => records(rules)
                .find(|record| record.matches(path))
                .map(|record| record.number),
        }
    }

    /// Bytes that belong to this and lie elsewhere, but for what the entries point to.
    pub(crate) fn heap_bytes(&self) -> usize {
        let entries = match &self.entries {
            Entries::One(_) => 0,
            Entries::Several(entries) => {
                COUNTERS + size_of_val(&**entries) + size_of_val(&entries[..])
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

/// Adds the element that begins at `start` to the hash of the elements before it; returns where it ends: at a slash or
/// at the end of the path. A cluster chooses the keys of its own hosts only, so what it gains from collisions is its
/// own slowness.
fn add_element(mut hash: u64, path: &[u8], start: usize) -> (u64, usize) {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const SLASHES: u64 = u64::from_le_bytes([b'/'; 8]);
    let mut mix = |word: u64| {
        hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    };
    let mut at = start;
    loop {
        let rest = path.get(at..).unwrap_or_default();
        let word = u64::from_le_bytes(rest.first_chunk().copied().unwrap_or_else(|| {
            let mut last = [b'/'; 8];
            last[..rest.len()].copy_from_slice(rest);
            last
        }));
        // Bytes that are slashes have become zero, and the lowest zero byte is the lowest with its top bit set here.
        let zeros = word ^ SLASHES;
        let found = zeros.wrapping_sub(ONES) & !zeros & (ONES << 7);
        if found == 0 {
            mix(word);
            at += 8;
            continue;
        }
        let length = found.trailing_zeros() / 8;
        let element = word & ((1 << (8 * length)) - 1);
        // Less than eight bytes are left, and the highest one has room for their number.
        mix(element | u64::from(length) << 56);
        return (hash, at + length as usize);
    }
}

/// Calls `visit` with depth, hash and length of the empty prefix and of every prefix that ends before a slash or
/// at the end of the path, but for those of more than `deepest` elements; returns the hash of the last one.
fn prefixes(path: &[u8], deepest: usize, mut visit: impl FnMut(usize, u64, usize)) -> u64 {
    let mut hash = SEED;
    visit(0, hash, 0);
    let mut end = 0;
    let mut depth = 0;
    while end < path.len() && depth < deepest {
        (hash, end) = add_element(hash, path, end + 1);
        depth += 1;
        visit(depth, hash, end);
    }
    hash
}

/// The index over so many records.
fn index(text: &[u8], rules: usize) -> Vec<u8> {
    let buckets = rules.div_ceil(BUCKET).next_power_of_two();
    let (mut depths, mut has_exact) = (0, false);
    let mut placed: Vec<(usize, Record<'_>)> = records(text)
        .map(|record| {
            let mut depth = 0;
            let mut hash = prefixes(record.key, usize::MAX, |deeper, _, _| depth = deeper);
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
    // The text was made so that everything in it, and there is a record for each rule, is within 32 bits.
    let mut begins = vec![0_u32; buckets + 1];
    for (bucket, record) in &placed {
        begins[bucket + 1] += record.bytes.len() as u32;
    }
    for bucket in 0..buckets {
        begins[bucket + 1] += begins[bucket];
    }
    let mut index = Vec::with_capacity(INDEX_HEAD + size_of_val(&begins[..]) + text.len());
    index.extend_from_slice(&depths.to_le_bytes());
    index.extend_from_slice(&(buckets as u32).to_le_bytes());
    index.push(u8::from(has_exact));
    index.extend(begins.iter().flat_map(|begin| begin.to_le_bytes()));
    for (_, record) in placed {
        index.extend_from_slice(record.bytes);
    }
    index
}

impl<'a> Index<'a> {
    /// The index that a text is.
    fn read(text: &'a [u8]) -> Option<Self> {
        let (head, rest) = text.split_first_chunk::<INDEX_HEAD>()?;
        let &[a, b, c, d, e, f, g, h, i, j, k, l, exact] = head;
        let buckets = u32::from_le_bytes([i, j, k, l]) as usize;
        let (begins, records) = rest.split_at_checked((buckets + 1) * 4)?;
        let (begins, _) = begins.as_chunks();
        Some(Self {
            depths: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            has_exact: exact != 0,
            begins,
            records,
        })
    }

    fn find(&self, path: &[u8]) -> Option<usize> {
        let mut longest = None;
        // An exact rule is found by the hash of all elements.
        let deepest = if self.has_exact {
            usize::MAX
        } else {
            deepest(self.depths)
        };
        let whole = prefixes(path, deepest, |depth, hash, length| {
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
        let begin = |bucket: usize| u32::from_le_bytes(self.begins[bucket]) as usize;
        records(&self.records[begin(bucket)..begin(bucket + 1)])
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

/// The greatest depth that has one of these bits.
fn deepest(depths: u64) -> usize {
    match 64 - depths.leading_zeros() {
        64 => usize::MAX,
        bits => bits.saturating_sub(1) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_a_path_is_visited_once() {
        let visited = |path: &[u8], deepest| {
            let mut seen = Vec::new();
            prefixes(path, deepest, |depth, _, length| seen.push((depth, length)));
            seen
        };
        let all = usize::MAX;
        assert_eq!(
            visited(b"/a//b/", all),
            [(0, 0), (1, 2), (2, 3), (3, 5), (4, 6)]
        );
        assert_eq!(visited(b"/a//b/", 2), [(0, 0), (1, 2), (2, 3)]);
        assert_eq!(visited(b"/a//b/", 0), [(0, 0)]);
        assert_eq!(visited(b"/", all), [(0, 0), (1, 1)]);
        assert_eq!(visited(b"", all), [(0, 0)]);
        assert_eq!(
            visited(b"/of-eight/longer-than-eight/x", all),
            [(0, 0), (1, 9), (2, 27), (3, 29)]
        );
    }

    #[test]
    fn no_prefix_is_left_out_that_has_a_rule() {
        for depth in [0, 1, 5, 62, 63, 64, 100] {
            assert!(deepest(depth_bit(depth)) >= depth, "{depth}");
            assert!(deepest(depth_bit(depth) | depth_bit(0)) >= depth, "{depth}");
        }
        assert_eq!(deepest(depth_bit(5) | depth_bit(2)), 5);
    }

    #[test]
    fn elements_do_not_run_together_in_the_hash() {
        let hash = |path: &[u8]| prefixes(path, usize::MAX, |_, _, _| ());
        let paths: [&[u8]; 12] = [
            b"",
            b"/",
            b"//",
            b"/ab",
            b"/a/b",
            b"/ab/",
            b"/a\0b",
            b"/abcdefg",
            b"/abcdefgh",
            b"/abcdefgh/",
            b"/abcdefgh\0",
            b"/abcdefgh/i",
        ];
        for (at, a) in paths.iter().enumerate() {
            for b in &paths[at + 1..] {
                assert_ne!(hash(a), hash(b), "{a:?} {b:?}");
            }
        }
    }
}
