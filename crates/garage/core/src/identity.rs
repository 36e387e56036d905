//! Who a Garage node is: its key, its id and its address. Seeds come from the caller; nothing here is random.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ed25519_dalek::SigningKey;
use k8s_openapi::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secret::Redacted;

/// Why an id, a key or a peer cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A node id is 64 hexadecimal digits.
    #[error(
        "\"{0}\" is not a node id: it must be 64 hexadecimal digits, as `garage node id` prints them"
    )]
    NodeId(String),
    /// A key file is 64 bytes.
    #[error("a node key is 64 bytes (the seed, then the public key), not {0}")]
    KeyLength(usize),
    /// The second half of a key file does not belong to the first.
    #[error("the node key is damaged: its public half does not belong to its seed")]
    KeyMismatch,
    /// An entry of the Secret is not named `slot-<n>`.
    #[error("the entry is not named slot-<number>")]
    SlotName,
    /// Two slots with one key would be one node twice, and Garage would feed only one of them.
    #[error("slot {0} has the same key")]
    SlotTwice(u32),
    /// A peer is `<id>@<host>:<port>`.
    #[error("\"{peer}\" is not a peer: {why}; write <64 hexadecimal digits>@<host>:<port>")]
    Peer {
        /// What was given.
        peer: String,
        /// Which part is wrong.
        why: &'static str,
    },
}

/// The id of a Garage node: its ed25519 public key. Prints and reads as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = IdentityError;

    /// Takes digits of either case; Garage does too.
    fn from_str(text: &str) -> Result<NodeId, IdentityError> {
        let error = || IdentityError::NodeId(text.to_owned());
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(error());
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |index: usize| char::from(pair[index]).to_digit(16).ok_or_else(error);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Ok(NodeId(id))
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The content of Garage's `node_key` file: the 32-byte seed, then the public key (RFC 8032).
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKey(Redacted<[u8; 64]>);

impl NodeKey {
    /// The key that grows from 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> NodeKey {
        NodeKey(Redacted::new(
            SigningKey::from_bytes(&seed).to_keypair_bytes(),
        ))
    }

    /// Reads a key file; a file whose halves do not belong together is refused, as its node would claim an id
    /// that it cannot prove.
    pub fn from_bytes(bytes: &[u8]) -> Result<NodeKey, IdentityError> {
        let bytes: &[u8; 64] = bytes
            .try_into()
            .map_err(|_| IdentityError::KeyLength(bytes.len()))?;
        SigningKey::from_keypair_bytes(bytes).map_err(|_| IdentityError::KeyMismatch)?;
        Ok(NodeKey(Redacted::new(*bytes)))
    }

    /// The bytes for the key file.
    pub const fn expose(&self) -> &[u8; 64] {
        self.0.expose()
    }

    /// The id that this key proves.
    pub fn id(&self) -> NodeId {
        let mut id = [0; 32];
        id.copy_from_slice(&self.expose()[32..]);
        NodeId(id)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey {{ id: {}, key: {} }}", self.id(), self.0)
    }
}

/// The entry of a Secret of node keys that belongs to a slot: `slot-<n>`.
pub fn slot_entry(slot: u32) -> String {
    format!("slot-{slot}")
}

/// The entry beside it with the public half alone, as Garage's file `node_key.pub` has it. Garage's own command line
/// (`kubectl exec ... -- /garage status`) finds its node by that file.
pub fn slot_public_entry(slot: u32) -> String {
    format!("slot-{slot}.pub")
}

/// What a Secret of node keys holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotKeys {
    /// The good keys by slot.
    pub keys: BTreeMap<u32, NodeKey>,
    /// Entries that are no keys, with the reason. Whoever writes the Secret again must keep them: a damaged key may
    /// be mended by hand, and its id may still be in a layout.
    pub malformed: BTreeMap<String, IdentityError>,
}

impl SlotKeys {
    /// Reads the data of the Secret. Every entry is in `keys` or in `malformed`; of two slots with the same key the
    /// lower one has it. Public halves are copies that [`SlotKeys::data`] writes anew, so nothing is read from them.
    pub fn read(data: &BTreeMap<String, ByteString>) -> SlotKeys {
        let mut read = SlotKeys::default();
        for (entry, bytes) in data {
            if entry
                .strip_suffix(".pub")
                .is_some_and(|name| slot_of(name).is_some())
            {
                continue;
            }
            match SlotKeys::entry(entry, bytes) {
                Ok((slot, key)) => {
                    read.keys.insert(slot, key);
                }
                Err(why) => {
                    read.malformed.insert(entry.clone(), why);
                }
            }
        }
        let mut owners: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (slot, key) in std::mem::take(&mut read.keys) {
            if let Some(owner) = owners.get(&key.id()) {
                let why = IdentityError::SlotTwice(*owner);
                read.malformed.insert(slot_entry(slot), why);
                continue;
            }
            owners.insert(key.id(), slot);
            read.keys.insert(slot, key);
        }
        read
    }

    fn entry(entry: &str, bytes: &ByteString) -> Result<(u32, NodeKey), IdentityError> {
        let slot = slot_of(entry).ok_or(IdentityError::SlotName)?;
        Ok((slot, NodeKey::from_bytes(&bytes.0)?))
    }

    /// The entries of the Secret for these keys: two for each slot.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let entries = |(slot, key): (&u32, &NodeKey)| {
            let public = key.id().0.to_vec();
            [
                (slot_entry(*slot), ByteString(key.expose().to_vec())),
                (slot_public_entry(*slot), ByteString(public)),
            ]
        };
        self.keys.iter().flat_map(entries).collect()
    }

    /// The ids by slot.
    pub fn ids(&self) -> BTreeMap<u32, NodeId> {
        self.keys
            .iter()
            .map(|(slot, key)| (*slot, key.id()))
            .collect()
    }
}

/// `slot-01` and `slot-+1` would be a second name of slot 1.
fn slot_of(entry: &str) -> Option<u32> {
    let slot = entry.strip_prefix("slot-")?.parse().ok()?;
    (slot_entry(slot) == entry).then_some(slot)
}

/// A node and where it listens: `<id>@<host>:<port>`, as in `bootstrap_peers` and ConnectClusterNodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The id that the node must prove.
    pub id: NodeId,
    /// A DNS name or an IP address, an IPv6 one without brackets.
    pub host: String,
    /// The RPC port.
    pub port: u16,
}

impl Peer {
    /// `host:port`, brackets around an IPv6 address.
    pub fn address(&self) -> String {
        let Peer { host, port, .. } = self;
        if host.parse::<Ipv6Addr>().is_ok() {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.address())
    }
}

impl FromStr for Peer {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Peer, IdentityError> {
        let error = |why| IdentityError::Peer {
            peer: text.to_owned(),
            why,
        };
        let (id, address) = text
            .split_once('@')
            .ok_or_else(|| error("the @ is missing"))?;
        let id = id
            .parse()
            .map_err(|_| error("the id is not 64 hexadecimal digits"))?;
        let (host, port) = split_address(address).map_err(error)?;
        Ok(Peer { id, host, port })
    }
}

/// Reads `host:port`; the host is a DNS name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn split_address(address: &str) -> Result<(String, u16), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("the port is missing")?;
    let port = match port.parse() {
        Ok(0) | Err(_) => return Err("the port is not a number from 1 to 65535"),
        Ok(port) => port,
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => is_dns_name(host),
    };
    if !good {
        return Err("the host is neither a DNS name nor an IP address (IPv6 in brackets)");
    }
    Ok((bracketed.unwrap_or(host).to_owned(), port))
}

/// RFC 1123 labels, underscores allowed as resolvers do; an IPv4 address is one too.
fn is_dns_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 8032 §7.1, TEST 1 and TEST 2.
    const VECTORS: [(&str, &str); 2] = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ),
    ];

    fn seed(text: &str) -> [u8; 32] {
        text.parse::<NodeId>().unwrap().0
    }

    #[test]
    fn keys_are_ed25519() {
        for (secret, public) in VECTORS {
            let key = NodeKey::from_seed(seed(secret));
            assert_eq!(key.id().to_string(), public);
            assert_eq!(key.expose()[..32], seed(secret));
            assert_eq!(NodeKey::from_bytes(key.expose()), Ok(key.clone()));
            let printed = format!("{key:?}");
            assert!(
                printed.contains(public) && !printed.contains(secret),
                "{printed}"
            );
        }
    }

    #[test]
    fn damaged_keys_are_refused() {
        let mut bytes = *NodeKey::from_seed([7; 32]).expose();
        bytes[63] ^= 1;
        assert_eq!(NodeKey::from_bytes(&bytes), Err(IdentityError::KeyMismatch));
        assert_eq!(
            NodeKey::from_bytes(&bytes[..32]),
            Err(IdentityError::KeyLength(32))
        );
        assert_eq!(NodeKey::from_bytes(&[]), Err(IdentityError::KeyLength(0)));
    }

    #[test]
    fn ids_are_64_digits() {
        let (_, public) = VECTORS[0];
        let id: NodeId = public.parse().unwrap();
        assert_eq!(id, public.to_uppercase().parse().unwrap());
        assert_eq!(serde_json::to_value(id).unwrap(), public);
        assert_eq!(serde_json::from_value::<NodeId>(public.into()).unwrap(), id);
        for bad in [
            "",
            "abc123...",
            &public[1..],
            &format!("{public}0"),
            &public.replace('d', "g"),
            &"é".repeat(32),
        ] {
            assert_eq!(
                bad.parse::<NodeId>(),
                Err(IdentityError::NodeId(bad.to_owned())),
                "{bad}"
            );
        }
    }

    #[test]
    fn every_entry_is_a_key_or_reported() {
        let key = |n: u8| ByteString(NodeKey::from_seed([n; 32]).expose().to_vec());
        let data = BTreeMap::from([
            ("slot-0".to_owned(), key(0)),
            ("slot-10".to_owned(), key(10)),
            ("slot-2".to_owned(), key(2)),
            ("slot-11".to_owned(), key(2)),
            ("slot-3".to_owned(), ByteString(vec![1; 3])),
            ("slot-4".to_owned(), ByteString(vec![1; 64])),
            ("slot-05".to_owned(), key(5)),
            ("slot-+6".to_owned(), key(6)),
            ("slot-".to_owned(), key(7)),
            ("slot-4294967296".to_owned(), key(8)),
            ("note".to_owned(), key(9)),
            ("slot-0.pub".to_owned(), ByteString(vec![1])),
            ("slot-07.pub".to_owned(), ByteString(vec![1])),
        ]);
        let read = SlotKeys::read(&data);
        assert_eq!(read.keys.keys().copied().collect::<Vec<_>>(), [0, 2, 10]);
        let malformed: Vec<_> = read
            .malformed
            .iter()
            .map(|(entry, why)| (entry.as_str(), why.clone()))
            .collect();
        assert_eq!(
            malformed,
            [
                ("note", IdentityError::SlotName),
                ("slot-", IdentityError::SlotName),
                ("slot-+6", IdentityError::SlotName),
                ("slot-05", IdentityError::SlotName),
                ("slot-07.pub", IdentityError::SlotName),
                ("slot-11", IdentityError::SlotTwice(2)),
                ("slot-3", IdentityError::KeyLength(3)),
                ("slot-4", IdentityError::KeyMismatch),
                ("slot-4294967296", IdentityError::SlotName),
            ]
        );
        assert_eq!(SlotKeys::read(&read.data()).keys, read.keys);
        assert_eq!(read.data()["slot-2.pub"].0, read.keys[&2].expose()[32..]);
        assert_eq!(read.ids()[&2], NodeKey::from_seed([2; 32]).id());
    }

    #[test]
    fn peers() {
        let id = VECTORS[0].1;
        for (text, host, port) in [
            (
                format!("{id}@storage-1.example.com:3901"),
                "storage-1.example.com",
                3901,
            ),
            (format!("{id}@10.0.0.1:1"), "10.0.0.1", 1),
            (format!("{id}@[fd00::1]:65535"), "fd00::1", 65535),
        ] {
            let peer: Peer = text.parse().unwrap();
            assert_eq!((peer.host.as_str(), peer.port), (host, port));
            assert_eq!(peer.to_string(), text);
        }
        for (text, words) in [
            (
                "abc123...@storage-1.example.com:3901".to_owned(),
                "the id is not",
            ),
            (format!("{id}@host"), "the port is missing"),
            (format!("{id}@host:0"), "the port is not a number"),
            (format!("{id}@host:65536"), "the port is not a number"),
            (format!("{id}@fd00::1:3901"), "the host is neither"),
            (format!("{id}@[host]:3901"), "the host is neither"),
            (format!("{id}@:3901"), "the host is neither"),
            (format!("{id}@a b:3901"), "the host is neither"),
            (format!("{id}@a@b:3901"), "the host is neither"),
            (id.to_owned(), "the @ is missing"),
        ] {
            let error = text.parse::<Peer>().expect_err(&text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn keys_and_ids_survive_printing(seed: [u8; 32]) {
            let key = NodeKey::from_seed(seed);
            prop_assert_eq!(key.id().to_string().parse(), Ok(key.id()));
            prop_assert_eq!(NodeKey::from_bytes(key.expose()).map(|key| key.id()), Ok(key.id()));
        }

        #[test]
        fn no_text_breaks_a_peer(text in ".*") {
            let _ = text.parse::<Peer>();
        }
    }
}
