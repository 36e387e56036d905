//! When which key and certificate of a webhook is made, used and dropped. The time is an argument;
//! randomness is that of the keys. May not store anything.
//!
//! An apiserver trusts a bundle of authorities, and learns of a new one a moment after it was made.
//! So an authority signs only some time after it joined the bundle, and leaves only some time after
//! its last certificate was replaced: at no moment is a certificate served that is not trusted.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Life of an authority; a new one joins after two thirds of it.
const AUTHORITY: SignedDuration = SignedDuration::from_hours(24 * 3652);
/// Life of a serving certificate, renewed after two thirds of it.
const LEAF: SignedDuration = SignedDuration::from_hours(24 * 90);
/// How long replicas and the configuration may take to follow a change. Generous: a replica may
/// have been cut off for a while.
const SETTLING: SignedDuration = DAY;
/// Certificates are valid from a little earlier, for clocks that are behind.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// A private key in PEM; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn pem(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pair {
    /// PEM.
    pub(crate) certificate: String,
    pub(crate) key: Key,
    since: Timestamp,
    until: Timestamp,
    /// Which authority it is, or is signed by: grows with every new one.
    authority: u64,
}

impl Pair {
    /// After two thirds of its life.
    fn is_due(&self, now: Timestamp) -> bool {
        now >= self.since + (self.until.duration_since(self.since) * 2) / 3
    }
}

/// All that the replicas share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Material {
    /// Oldest first.
    authorities: Vec<Pair>,
    pub(crate) leaf: Pair,
    /// The names that the leaf is for.
    names: Vec<String>,
}

impl Material {
    /// The certificates of the authorities that are to be trusted, as PEM.
    pub(crate) fn bundle(&self) -> String {
        self.authorities
            .iter()
            .map(|one| one.certificate.as_str())
            .collect()
    }

    /// Makes the first, or the next state that is due at `now`. `None`: nothing is due.
    ///
    /// `names` are DNS names or IP addresses.
    pub(crate) fn next(
        old: Option<&Self>,
        names: &[String],
        now: Timestamp,
    ) -> Result<Option<Self>, rcgen::Error> {
        let Some(old) = old else {
            let authority = authority(1, now)?;
            let leaf = leaf(&authority, names, now)?;
            return Ok(Some(Self {
                authorities: vec![authority],
                leaf,
                names: names.to_vec(),
            }));
        };
        let mut new = old.clone();
        new.authorities.retain(|one| now < one.until);
        if new
            .authorities
            .last()
            .is_none_or(|newest| newest.is_due(now))
        {
            let number = old.authorities.last().map_or(0, |newest| newest.authority) + 1;
            new.authorities.push(authority(number, now)?);
        }
        let Some(signer) = new.signer(now).cloned() else {
            return Ok(None);
        };
        let is_trusted = new
            .authorities
            .iter()
            .any(|one| one.authority == new.leaf.authority);
        if new.leaf.is_due(now) || !is_trusted || new.names != names {
            new.leaf = leaf(&signer, names, now)?;
            new.names = names.to_vec();
        }
        let (settled, used) = (now >= new.leaf.since + SETTLING, new.leaf.authority);
        new.authorities
            .retain(|one| one.authority >= used || !settled);
        Ok((new != *old).then_some(new))
    }

    /// The newest authority that everybody has come to trust, else the oldest.
    fn signer(&self, now: Timestamp) -> Option<&Pair> {
        let mut newest_first = self.authorities.iter().rev();
        newest_first
            .find(|one| now >= one.since + SETTLING)
            .or_else(|| self.authorities.first())
    }
}

fn authority(number: u64, now: Timestamp) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut parameters = authority_parameters(number);
    let until = now + AUTHORITY;
    valid(&mut parameters, now, until);
    Ok(Pair {
        certificate: parameters.self_signed(&key)?.pem(),
        key: Key(key.serialize_pem()),
        since: now,
        until,
        authority: number,
    })
}

/// What a certificate repeats of its issuer; the same for the same number.
fn authority_parameters(number: u64) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let name = format!("gatewright webhook authority {number}");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn leaf(authority: &Pair, names: &[String], now: Timestamp) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let signing_key = KeyPair::from_pem(authority.key.pem())?;
    let issuer = Issuer::new(authority_parameters(authority.authority), signing_key);
    let mut parameters = CertificateParams::new(names)?;
    parameters
        .distinguished_name
        .push(DnType::CommonName, "gatewright webhook");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    let until = (now + LEAF).min(authority.until);
    valid(&mut parameters, now, until);
    Ok(Pair {
        certificate: parameters.signed_by(&key, &issuer)?.pem(),
        key: Key(key.serialize_pem()),
        since: now,
        until,
        authority: authority.authority,
    })
}

fn valid(parameters: &mut CertificateParams, since: Timestamp, until: Timestamp) {
    let at = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    parameters.not_before = at(since - SKEW);
    parameters.not_after = at(until);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("is a time")
    }

    fn names() -> Vec<String> {
        vec!["hooks.system.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn next(old: Option<&Material>, now: Timestamp) -> Option<Material> {
        Material::next(old, &names(), now).expect("keys can be made")
    }

    #[test]
    fn a_leaf_is_renewed_after_two_thirds_of_its_life() {
        let first = next(None, start()).expect("is the first");
        for (days, is_due) in [(0, false), (59, false), (60, true), (400, true)] {
            let now = start() + DAY * days;
            let second = next(Some(&first), now);
            assert_eq!(second.is_some(), is_due, "after {days} days");
            if let Some(second) = second {
                assert_eq!(second.bundle(), first.bundle());
                assert_ne!(second.leaf.certificate, first.leaf.certificate);
                assert_eq!(next(Some(&second), now), None, "one step is enough");
            }
        }
    }

    #[test]
    fn other_names_need_another_leaf_of_the_same_authority() {
        let first = next(None, start()).expect("is the first");
        let names = ["elsewhere".to_owned()];
        let second = Material::next(Some(&first), &names, start()).expect("keys can be made");
        let second = second.expect("is another");
        assert_eq!(second.bundle(), first.bundle());
        assert_ne!(second.leaf.certificate, first.leaf.certificate);
    }

    /// Fifty years, six hours at a time: an apiserver or replica that follows a day late never sees a
    /// certificate that it does not trust.
    #[test]
    fn over_decades_each_leaf_is_trusted_by_those_who_are_a_day_behind() {
        let mut material = next(None, start()).expect("is the first");
        let mut history = vec![(start(), material.clone())];
        let end = start() + DAY * 365 * 50;
        let mut now = start();
        while now < end {
            now += DAY / 4;
            if let Some(next) = next(Some(&material), now) {
                material = next;
                history.push((now, material.clone()));
            }
            let (leaf, late) = (&material.leaf, now - SETTLING);
            assert!(now < leaf.until, "{now}: the leaf has run out");
            let trusts = |state: &Material, leaf: &Pair| {
                state
                    .authorities
                    .iter()
                    .any(|one| one.authority == leaf.authority && now < one.until)
            };
            // What was valid a day ago, and has not been seen to change since.
            let behind = history.iter().rev().find(|(since, _)| *since <= late);
            if let Some((_, behind)) = behind {
                assert!(trusts(behind, leaf), "{now}: a new leaf, an old bundle");
                assert!(
                    trusts(&material, &behind.leaf),
                    "{now}: an old leaf, a new bundle"
                );
            }
            assert!(material.authorities.len() <= 2, "{now}");
        }
        assert!(
            material.authorities[0].authority >= 7,
            "authorities do change"
        );
    }

    #[test]
    fn keys_are_not_printed_and_survive_the_store() {
        let material = next(None, start()).expect("is the first");
        let printed = format!("{material:?}");
        assert!(!printed.contains("PRIVATE"), "{printed}");
        let stored = serde_json::to_string(&material).expect("is JSON");
        let read: Material = serde_json::from_str(&stored).expect("is ours");
        assert_eq!(read, material);
    }
}
