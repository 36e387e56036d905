//! The cluster layout of Garage: from the roles that should be and what the Admin API shows, the one
//! call that comes next. May not talk to Garage, and may not touch a role that is not the caller's.
//!
//! Each [`Move`] is one Admin API call or none. After each the facts are read anew, so a process that
//! dies between two calls leaves a state that the next one continues from:
//!
//! | staged changes | what follows |
//! |---|---|
//! | none | stage all of ours at once |
//! | exactly ours | apply, if Garage's preview accepts them |
//! | ours or another cluster's of this operator, but not exactly these | revert |
//! | another operator's | nothing yet: it is about to apply; once they are abandoned, revert |
//! | somebody else's | nothing: applying would publish what they have not finished |
//!
//! Source: the Admin API v2 of Garage 2.x, `UpdateClusterLayout`, `PreviewClusterLayoutChanges`,
//! `ApplyClusterLayout`, `RevertClusterLayout`, `ClusterLayoutSkipDeadNodes`.

use crate::identity::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Prefix of the tag that marks a role as this operator's; the UID of the owner follows.
pub const OWNER_TAG: &str = "cluster-uid:";

/// The tag of the roles that the object with this UID owns.
#[must_use]
pub fn owner_tag(uid: &str) -> String {
    format!("{OWNER_TAG}{uid}")
}

/// What a node is in a layout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Role {
    /// Where it stands; copies are spread over zones.
    pub zone: String,
    /// Bytes it stores; `None` is a gateway.
    pub capacity: Option<u64>,
    /// Free marks. Their order means nothing.
    pub tags: BTreeSet<String>,
}

impl Role {
    /// The UID of the object that owns the role, if an operator of ours set it.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(OWNER_TAG))
    }
}

/// In how many zones each piece has to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Redundancy {
    /// In as many as there are, up to the replication factor.
    Maximum,
    /// In this many at least.
    AtLeast(u64),
}

/// One staged change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Gives a node a role, or another one.
    Set(NodeId, Role),
    /// Takes a node's role away.
    Remove(NodeId),
}

impl Change {
    /// The node it is about.
    #[must_use]
    pub fn node(&self) -> NodeId {
        match self {
            Self::Set(node, _) | Self::Remove(node) => *node,
        }
    }
}

/// How far the old versions of the layout are on their way out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Versions that some node may still rely on, without the current one.
    pub draining: BTreeSet<u64>,
    /// Nodes that have not confirmed the current version; once all have, those that have not passed on
    /// what they hold.
    pub behind: BTreeSet<NodeId>,
    /// All have confirmed it. What is missing then is data, and no node can be skipped without allowing for
    /// its loss.
    pub confirmed: bool,
    /// The current version has been in force for longer than a node takes to confirm it that is well.
    pub overdue: bool,
}

/// What Garage says that applying the staged changes would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preview {
    /// Copies of partitions that would move, and how many there are in all. `None`: it does not tell
    /// (before Garage 2.4, or before the first layout).
    pub moved: Option<(u64, u64)>,
}

/// What the Admin API shows of the layout.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// The current version; 0 before the first.
    pub version: u64,
    /// The current roles.
    pub roles: BTreeMap<NodeId, Role>,
    /// The zone redundancy in force.
    pub redundancy: Option<Redundancy>,
    /// What is staged.
    pub staged: Vec<Change>,
    /// A staged zone redundancy.
    pub staged_redundancy: Option<Redundancy>,
    /// What is staged has stood as it is for longer than an operator takes from staging to applying.
    pub abandoned: bool,
    /// What is staged has stood as it is for longer than a call that was under way takes.
    pub unmoved: bool,
    /// What Garage says of the staged changes: what they would do, or why they cannot be applied.
    /// `None`: not asked.
    pub preview: Option<Result<Preview, String>>,
    /// Old versions; `None`: not asked.
    pub history: Option<History>,
    /// Nodes that are connected now.
    pub up: BTreeSet<NodeId>,
}

/// What one owner wants of the layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The tag that marks the owner's roles.
    pub tag: String,
    /// The owner's roles, all of them: a role with the tag that is not among them goes.
    pub roles: BTreeMap<NodeId, Role>,
    /// The zone redundancy, if it is the owner's to set.
    pub redundancy: Option<Redundancy>,
    /// Further nodes that are or were the owner's, roles or not: their keys are its own.
    pub own: BTreeSet<NodeId>,
    /// Nodes that are or were other owners' of this operator. Two that go with dead nodes would otherwise
    /// wait for each other.
    pub kin: BTreeSet<NodeId>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// The layout is as wanted, and nobody relies on an older one.
    Settled,
    /// The layout is as wanted; nodes are still moving over to it.
    Settling(History),
    /// `UpdateClusterLayout`.
    Stage(Vec<Change>, Option<Redundancy>),
    /// `RevertClusterLayout`: an unfinished change of this operator stands in the way.
    Revert,
    /// `ApplyClusterLayout` of this version.
    Apply(u64),
    /// `ClusterLayoutSkipDeadNodes` of this version, without allowing missing data: dead nodes of ours
    /// alone keep old versions alive.
    SkipDead(u64),
    /// The staged changes have to be previewed first.
    Preview,
    /// Garage would not apply the changes, in its own words.
    Blocked(String),
    /// Somebody else has staged changes about these nodes (none: about the parameters).
    Foreign(BTreeSet<NodeId>),
    /// Another operator has staged changes, which it is about to apply.
    Yield,
}

/// What has to change so that the current roles are the wanted ones: owner's roles only.
#[must_use]
pub fn changes(wanted: &Wanted, seen: &Seen) -> Vec<Change> {
    let gone = seen
        .roles
        .iter()
        .filter(|(node, role)| role.tags.contains(&wanted.tag) && !wanted.roles.contains_key(node));
    let gone = gone.map(|(node, _)| Change::Remove(*node));
    let other = wanted
        .roles
        .iter()
        .filter(|(node, role)| seen.roles.get(node) != Some(role))
        .map(|(node, role)| Change::Set(*node, role.clone()));
    let mut changes: Vec<Change> = gone.chain(other).collect();
    changes.sort();
    changes
}

/// Decides the next call.
#[must_use]
pub fn next(wanted: &Wanted, seen: &Seen) -> Move {
    let changes = changes(wanted, seen);
    let redundancy = wanted
        .redundancy
        .filter(|redundancy| seen.redundancy != Some(*redundancy));
    let idle = seen.staged.is_empty() && seen.staged_redundancy.is_none();
    if changes.is_empty() && redundancy.is_none() {
        return match idle || !staged_by(wanted, seen) {
            true => settle(wanted, seen),
            false => Move::Revert,
        };
    }
    if idle {
        return Move::Stage(changes, redundancy);
    }
    let mut staged = seen.staged.clone();
    staged.sort();
    if staged == changes && seen.staged_redundancy == redundancy {
        return match &seen.preview {
            None => Move::Preview,
            Some(Err(why)) => Move::Blocked(why.clone()),
            Some(Ok(_)) => Move::Apply(seen.version + 1),
        };
    }
    let foreign: BTreeSet<NodeId> = seen
        .staged
        .iter()
        .filter(|change| !of_operator(wanted, seen, change))
        .map(Change::node)
        .collect();
    let foreign_redundancy = seen.staged_redundancy.is_some() && wanted.redundancy.is_none();
    if !foreign.is_empty() || foreign_redundancy {
        return Move::Foreign(foreign);
    }
    let ours = |change| of_owner(wanted, seen, change) || wanted.kin.contains(&change.node());
    let stuck = seen.unmoved && is_first_of_several(wanted, seen);
    match seen.abandoned || stuck || seen.staged.iter().all(ours) {
        true => Move::Revert,
        false => Move::Yield,
    }
}

/// Whether several owners have staged at once, and this one comes first among them. Nobody applies such
/// changes, so all but one would wait until they count as abandoned, and then collide again.
fn is_first_of_several(wanted: &Wanted, seen: &Seen) -> bool {
    let roles = seen
        .staged
        .iter()
        .filter_map(|change| role_of(seen, change));
    let tags: BTreeSet<String> = roles.filter_map(Role::owner).map(owner_tag).collect();
    tags.len() > 1 && tags.first() == Some(&wanted.tag)
}

/// Old versions end when every node has confirmed the current one. A dead node never will; ours have
/// nothing to lose, so they are skipped. Others' are waited for.
fn settle(wanted: &Wanted, seen: &Seen) -> Move {
    let Some(history) = &seen.history else {
        return Move::Settled;
    };
    if history.draining.is_empty() {
        return Move::Settled;
    }
    let ours_and_dead = |node: &NodeId| {
        !seen.up.contains(node)
            && !wanted.roles.contains_key(node)
            && !seen.roles.contains_key(node)
            && (wanted.own.contains(node) || wanted.kin.contains(node))
    };
    let blocked = !history.confirmed
        && !history.behind.is_empty()
        && history.behind.iter().all(ours_and_dead);
    match blocked {
        true => Move::SkipDead(seen.version),
        false => Move::Settling(history.clone()),
    }
}

/// Whether all that is staged is this owner's.
fn staged_by(wanted: &Wanted, seen: &Seen) -> bool {
    seen.staged
        .iter()
        .all(|change| of_owner(wanted, seen, change))
        && (seen.staged_redundancy.is_none() || wanted.redundancy.is_some())
}

/// Whether a staged change is this owner's.
fn of_owner(wanted: &Wanted, seen: &Seen, change: &Change) -> bool {
    let node = change.node();
    wanted.own.contains(&node)
        || wanted.roles.contains_key(&node)
        || role_of(seen, change).is_some_and(|role| role.tags.contains(&wanted.tag))
}

/// Whether a staged change is one that an operator of ours makes, for whichever owner. A lock per layout
/// keeps the owners of one operator apart, so an unfinished one is left from a process that ended.
fn of_operator(wanted: &Wanted, seen: &Seen, change: &Change) -> bool {
    of_owner(wanted, seen, change)
        || role_of(seen, change).is_some_and(|role| role.owner().is_some())
}

/// The role that a change gives or takes.
fn role_of<'a>(seen: &'a Seen, change: &'a Change) -> Option<&'a Role> {
    match change {
        Change::Set(_, role) => Some(role),
        Change::Remove(node) => seen.roles.get(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        let digits = format!("{n:02x}").repeat(32);
        digits.parse().expect("64 hex digits")
    }

    fn role(owner: &str) -> Role {
        Role {
            zone: "z".into(),
            capacity: None,
            tags: [owner_tag(owner)].into(),
        }
    }

    fn human() -> Role {
        Role {
            zone: "z".into(),
            capacity: Some(1 << 30),
            tags: BTreeSet::new(),
        }
    }

    fn wanted(nodes: &[u8]) -> Wanted {
        Wanted {
            tag: owner_tag("a"),
            roles: nodes.iter().map(|n| (node(*n), role("a"))).collect(),
            redundancy: None,
            own: [node(1), node(2), node(3)].into(),
            kin: BTreeSet::new(),
        }
    }

    fn seen(roles: &[(u8, Role)]) -> Seen {
        Seen {
            version: 7,
            roles: roles.iter().map(|(n, r)| (node(*n), r.clone())).collect(),
            history: Some(History::default()),
            ..Seen::default()
        }
    }

    fn set(n: u8) -> Change {
        Change::Set(node(n), role("a"))
    }

    fn staged(changes: Vec<Change>, preview: Option<Result<Preview, String>>) -> Seen {
        Seen {
            staged: changes,
            preview,
            ..seen(&[])
        }
    }

    #[test]
    fn all_changes_are_staged_at_once_and_applied_once_previewed() {
        let both = vec![set(1), set(2)];
        for (seen, then) in [
            (seen(&[]), Move::Stage(both.clone(), None)),
            (staged(both.clone(), None), Move::Preview),
            (
                staged(vec![set(2), set(1)], Some(Ok(Preview::default()))),
                Move::Apply(8),
            ),
            (
                staged(both, Some(Err("too few zones".into()))),
                Move::Blocked("too few zones".into()),
            ),
            (seen(&[(1, role("a")), (2, role("a"))]), Move::Settled),
        ] {
            assert_eq!(next(&wanted(&[1, 2]), &seen), then, "{seen:?}");
        }
    }

    #[test]
    fn a_lost_identity_and_its_successor_are_one_version() {
        let seen = seen(&[(9, role("a")), (1, role("a"))]);
        let expected = vec![set(2), Change::Remove(node(9))];
        assert_eq!(next(&wanted(&[1, 2]), &seen), Move::Stage(expected, None));
    }

    #[test]
    fn roles_of_others_are_never_touched() {
        let others = [(8, role("b")), (9, human())];
        assert_eq!(next(&wanted(&[]), &seen(&others)), Move::Settled);
    }

    #[test]
    fn a_node_whose_key_is_ours_is_taken_over() {
        // The object was made anew and found its Secret again: same key, another UID.
        assert_eq!(
            next(&wanted(&[1]), &seen(&[(1, role("former"))])),
            Move::Stage(vec![set(1)], None)
        );
    }

    #[test]
    fn foreign_staged_changes_are_never_applied_nor_reverted() {
        let theirs = Change::Set(node(9), human());
        for changes in [vec![theirs.clone()], vec![set(1), theirs.clone()]] {
            let expected = Move::Foreign([node(9)].into());
            assert_eq!(
                next(
                    &wanted(&[1]),
                    &staged(changes, Some(Ok(Preview::default())))
                ),
                expected
            );
        }
        // Nothing of ours is due: they are none of our business.
        let mut idle = seen(&[(1, role("a"))]);
        idle.staged = vec![theirs];
        assert_eq!(next(&wanted(&[1]), &idle), Move::Settled);
        let mut removal = seen(&[(9, human())]);
        removal.staged = vec![Change::Remove(node(9))];
        assert_eq!(
            next(&wanted(&[1]), &removal),
            Move::Foreign([node(9)].into())
        );
    }

    #[test]
    fn unfinished_changes_of_this_operator_are_reverted() {
        // Ours, but no longer what is wanted.
        assert_eq!(
            next(&wanted(&[1]), &staged(vec![set(1), set(2)], None)),
            Move::Revert
        );
        assert_eq!(
            next(&wanted(&[]), &staged(vec![set(1)], None)),
            Move::Revert
        );
        // Another cluster's, left by a process that ended.
        let other = Change::Set(node(8), role("b"));
        let mut wanted = wanted(&[1]);
        wanted.kin = [node(8)].into();
        assert_eq!(next(&wanted, &staged(vec![other], None)), Move::Revert);
    }

    #[test]
    fn another_operator_is_given_the_time_to_apply_what_it_has_staged() {
        let other = Change::Set(node(8), role("b"));
        let mut going = seen(&[(8, role("b"))]);
        going.staged = vec![Change::Remove(node(8))];
        for mut seen in [
            staged(vec![other.clone()], None),
            // Both have staged at once.
            staged(vec![set(1), other], None),
            going,
        ] {
            assert_eq!(next(&wanted(&[1]), &seen), Move::Yield);
            seen.abandoned = true;
            assert_eq!(next(&wanted(&[1]), &seen), Move::Revert);
        }
    }

    #[test]
    fn of_several_that_have_staged_at_once_the_first_begins_anew() {
        let of = |owner: &str, n: u8| Wanted {
            tag: owner_tag(owner),
            roles: [(node(n), role(owner))].into(),
            own: [node(n)].into(),
            ..wanted(&[])
        };
        let (second, third) = (of("b", 8), of("c", 9));
        let other = Change::Set(node(8), role("b"));
        let mut both = staged(vec![set(1), other.clone()], None);
        // An apply of one of them may be under way.
        assert_eq!(next(&wanted(&[1]), &both), Move::Yield);
        both.unmoved = true;
        assert_eq!(next(&wanted(&[1]), &both), Move::Revert);
        assert_eq!(next(&second, &both), Move::Yield);
        assert_eq!(next(&third, &both), Move::Yield);
        // One alone may be about to apply, whoever comes first.
        let mut alone = staged(vec![other], None);
        alone.unmoved = true;
        assert_eq!(next(&wanted(&[1]), &alone), Move::Yield);
    }

    #[test]
    fn the_redundancy_is_set_by_its_owner_alone() {
        let owner = Wanted {
            redundancy: Some(Redundancy::AtLeast(2)),
            ..wanted(&[])
        };
        let mut seen = seen(&[]);
        seen.redundancy = Some(Redundancy::Maximum);
        assert_eq!(
            next(&owner, &seen),
            Move::Stage(vec![], Some(Redundancy::AtLeast(2)))
        );
        seen.staged_redundancy = Some(Redundancy::AtLeast(2));
        seen.preview = Some(Ok(Preview::default()));
        assert_eq!(next(&owner, &seen), Move::Apply(8));
        // For a gateway it is a foreign change.
        assert_eq!(next(&wanted(&[1]), &seen), Move::Foreign(BTreeSet::new()));
    }

    #[test]
    fn dead_nodes_of_ours_are_skipped_others_are_waited_for() {
        let history = |behind: &[u8]| History {
            draining: [6].into(),
            behind: behind.iter().map(|n| node(*n)).collect(),
            confirmed: false,
            overdue: false,
        };
        for (behind, up, expected) in [
            (&[2][..], &[][..], Move::SkipDead(7)),
            // It is alive and will confirm by itself.
            (&[2], &[2], Move::Settling(history(&[2]))),
            // One of them may hold data.
            (&[2, 9], &[], Move::Settling(history(&[2, 9]))),
            // Ours, down, but wanted: it comes back with the same key.
            (&[1], &[], Move::Settling(history(&[1]))),
            (&[], &[], Move::Settling(history(&[]))),
        ] {
            let mut seen = seen(&[(1, role("a"))]);
            seen.history = Some(history(behind));
            seen.up = up.iter().map(|n| node(*n)).collect();
            assert_eq!(next(&wanted(&[1]), &seen), expected, "{behind:?}");
        }
        // What is missing is data that only it may have: skipping it once more would change nothing.
        let confirmed = History {
            confirmed: true,
            ..history(&[2])
        };
        let mut seen = seen(&[(1, role("a"))]);
        seen.history = Some(confirmed.clone());
        assert_eq!(next(&wanted(&[1]), &seen), Move::Settling(confirmed));
    }

    #[test]
    fn absent_removes_all_of_the_owners_roles() {
        let seen = seen(&[(1, role("a")), (9, role("a")), (8, role("b"))]);
        let expected = vec![Change::Remove(node(1)), Change::Remove(node(9))];
        assert_eq!(next(&wanted(&[]), &seen), Move::Stage(expected, None));
    }

    /// Carries a move out as Garage does.
    fn carry_out(seen: &mut Seen, step: Move) -> bool {
        match step {
            Move::Stage(changes, redundancy) => {
                for change in changes {
                    seen.staged.retain(|staged| staged.node() != change.node());
                    seen.staged.push(change);
                }
                seen.staged_redundancy = redundancy;
            }
            Move::Revert => {
                seen.staged.clear();
                seen.staged_redundancy = None;
            }
            Move::Preview => seen.preview = Some(Ok(Preview::default())),
            Move::Apply(version) => {
                assert_eq!(version, seen.version + 1);
                for change in seen.staged.drain(..) {
                    match change {
                        Change::Set(node, role) => drop(seen.roles.insert(node, role)),
                        Change::Remove(node) => drop(seen.roles.remove(&node)),
                    }
                }
                if let Some(redundancy) = seen.staged_redundancy.take() {
                    seen.redundancy = Some(redundancy);
                }
                seen.version = version;
                seen.preview = None;
            }
            Move::SkipDead(_) => seen.history = Some(History::default()),
            Move::Settled
            | Move::Settling(_)
            | Move::Blocked(_)
            | Move::Foreign(_)
            | Move::Yield => {
                return false;
            }
        }
        true
    }

    proptest::proptest! {
        /// From any start without foreign changes: one version, then nothing more to do.
        #[test]
        fn one_version_then_a_fixpoint(
            present in proptest::collection::vec((0_u8..6, proptest::bool::ANY), 0..6),
            left in proptest::collection::vec(0_u8..6, 0..4),
            want in proptest::collection::btree_set(0_u8..6, 0..6),
        ) {
            let roles: Vec<_> = present.iter()
                .map(|(n, ours)| (*n, role(if *ours { "a" } else { "b" })))
                .collect();
            let mut seen = seen(&roles);
            seen.staged = left.iter().map(|n| set(*n)).collect();
            seen.staged.sort();
            seen.staged.dedup();
            seen.abandoned = true;
            let wanted = wanted(&want.into_iter().collect::<Vec<_>>());
            let others: Vec<_> = seen.roles.iter()
                .filter(|(n, r)| r.owner() == Some("b") && !wanted.roles.contains_key(n))
                .map(|(n, _)| *n)
                .collect();
            let mut rounds = 0;
            loop {
                let step = next(&wanted, &seen);
                if !carry_out(&mut seen, step) { break; }
                rounds += 1;
                assert!(rounds < 8, "no fixpoint: {seen:?}");
            }
            assert!(seen.version <= 8, "more than one version");
            assert_eq!(changes(&wanted, &seen), vec![]);
            assert!(others.iter().all(|n| seen.roles.contains_key(n)));
        }

        /// Whoever is asked when, two operators make a version each, and neither undoes what the other does.
        #[test]
        fn flaw_15_two_operators_make_a_version_each(
            turns in proptest::collection::vec(proptest::bool::ANY, 0..24),
        ) {
            let mut seen = seen(&[(5, role("a"))]);
            let before = seen.version;
            let first = wanted(&[1, 2]);
            let second = Wanted {
                tag: owner_tag("b"),
                roles: [(node(3), role("b")), (node(4), role("b"))].into(),
                ..wanted(&[])
            };
            for first_acts in turns.into_iter().chain([true, false].repeat(6)) {
                let step = next(if first_acts { &first } else { &second }, &seen);
                assert_ne!(step, Move::Revert);
                carry_out(&mut seen, step);
            }
            assert_eq!(changes(&first, &seen), vec![]);
            assert_eq!(changes(&second, &seen), vec![]);
            assert_eq!((seen.version, seen.staged.len()), (before + 2, 0));
        }
    }
}
