//! Head-of-line blocking: small requests alone, beside readers that have stopped, and after these
//! have gone. It may not know how a peer is started.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::http;
use super::peers::{Ground, Peer, Started};
use super::process::Group;
use super::report::{self, Spread};
use super::tunnel;
use super::wrk::{self, Connections, Load, Target};
use crate::stopwatch;

/// How many readers stop, and after how much of the 1 GiB.
const READERS: usize = 200;
const READ_FIRST: usize = 64 * 1024;

/// Memory counts as given back at this many times what it was alone.
const GIVEN_BACK: f64 = 1.2;

/// One peer in one round. Memory in MiB over all its processes.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    round: usize,
    peer: &'static str,
    stalled: usize,
    alone: Part,
    beside: Part,
    after_1_s: Part,
    after_20_s: Part,
}

#[derive(Debug, Serialize)]
struct Part {
    load: Load,
    rss: f64,
}

/// A bound that the median is held against.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// Measures every peer but the bare origin, `rounds` times.
pub(crate) fn run(
    ground: &Ground,
    peers: &[Peer],
    rounds: usize,
    seconds: u32,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for peer in peers.iter().filter(|peer| **peer != Peer::Direct) {
            eprintln!(
                "stalled readers, round {round} of {rounds}: {}",
                peer.name()
            );
            match measure(ground, *peer, round, seconds) {
                Ok(row) => rows.push(row),
                Err(error) => {
                    eprintln!("  {error:#}");
                    let what = format!("{}, stalled readers, round {round}", peer.name());
                    notes.push(tunnel::note(&what, &error));
                }
            }
        }
    }
    Ok(rows)
}

fn measure(ground: &Ground, peer: Peer, round: usize, seconds: u32) -> Result<Row> {
    let Started { mut group, port } = ground.start(peer)?;
    let target = Target {
        port,
        host: peer.host(),
        path: "/1k",
    };
    let load = |group: &mut Group, seconds| -> Result<Part> {
        let load = wrk::load(&target, Connections::KeptAlive(16), seconds)?;
        group.check()?;
        let rss = group.rss_mib();
        Ok(Part { load, rss })
    };
    load(&mut group, 1)?;
    let alone = load(&mut group, seconds)?;

    let readers = http::stall(port, peer.host(), "/1g", READERS, READ_FIRST);
    settle(&group);
    let beside = load(&mut group, seconds)?;
    let stalled = readers.stalled;
    drop(readers);

    let gone = stopwatch::now();
    std::thread::sleep(Duration::from_secs(1));
    let after_1_s = load(&mut group, seconds)?;
    let left = Duration::from_secs(20).saturating_sub(gone.elapsed());
    stopwatch::poll(left, Duration::from_millis(500), || {
        group.rss_mib() <= GIVEN_BACK * alone.rss
    });
    let after_20_s = load(&mut group, seconds)?;
    Ok(Row {
        round,
        peer: peer.name(),
        stalled,
        alone,
        beside,
        after_1_s,
        after_20_s,
    })
}

/// Waits until the peer has been idle for 3 s: every buffer on the way is full then. 40 s at most.
fn settle(group: &Group) {
    let mut before = group.cpu_seconds();
    let mut idle = 0;
    stopwatch::poll(Duration::from_secs(40), Duration::from_secs(1), || {
        let now = group.cpu_seconds();
        idle = if now - before < 0.05 { idle + 1 } else { 0 };
        before = now;
        // The first look comes at once and does not tell anything.
        idle == 4
    });
}

/// What went wrong while nobody was in the way, or after; beside the readers it is the result.
pub(crate) fn faults(rows: &[Row]) -> impl Iterator<Item = String> + '_ {
    rows.iter().flat_map(|row| {
        [
            ("alone", &row.alone),
            ("1 s after stalled readers", &row.after_1_s),
            ("20 s after stalled readers", &row.after_20_s),
        ]
        .into_iter()
        .filter_map(move |(when, part)| {
            let fault = part.load.fault()?;
            Some(format!(
                "{}, round {}, {when}: {fault}",
                row.peer, row.round
            ))
        })
    })
}

/// What `peer` is meant to reach, and what it reached.
pub(crate) fn goals(rows: &[Row], peer: Peer) -> Vec<(&'static str, Goal, Option<Spread>)> {
    let of = |value: fn(&Row) -> f64| {
        Spread::of(rows.iter().filter(|r| r.peer == peer.name()).map(value))
    };
    vec![
        (
            "stalled readers that got their first 64 KiB",
            Goal::AtLeast(READERS as f64),
            of(|r| r.stalled as f64),
        ),
        (
            "req/s beside 200 stalled readers ÷ alone",
            Goal::AtLeast(0.9),
            of(|r| r.beside.load.per_second() / r.alone.load.per_second()),
        ),
        (
            "p99 beside them ÷ alone",
            Goal::AtMost(2.0),
            of(|r| r.beside.load.p99_ms / r.alone.load.p99_ms),
        ),
        (
            "RSS beside them − alone, MiB",
            Goal::AtMost(384.0),
            of(|r| r.beside.rss - r.alone.rss),
        ),
        (
            "RSS at most 20 s after them ÷ alone",
            Goal::AtMost(GIVEN_BACK),
            of(|r| r.after_20_s.rss / r.alone.rss),
        ),
    ]
}

pub(crate) fn table(peers: &[Peer], rows: &[Row], rounds: usize) -> String {
    type Column = (&'static str, fn(&Row) -> &Part);
    let parts: [Column; 4] = [
        ("alone", |r| &r.alone),
        ("beside", |r| &r.beside),
        ("1 s after", |r| &r.after_1_s),
        ("≤ 20 s after", |r| &r.after_20_s),
    ];
    let mut lines = Vec::new();
    for peer in peers {
        let mine: Vec<&Row> = rows.iter().filter(|r| r.peer == peer.name()).collect();
        for (when, part) in parts {
            let of = |value: fn(&Part) -> f64| Spread::of(mine.iter().map(|r| value(part(r))));
            if mine.is_empty() {
                continue;
            }
            let readers = match when {
                "beside" => report::cell(Spread::of(mine.iter().map(|r| r.stalled as f64)), 0),
                _ => "0".to_owned(),
            };
            lines.push(vec![
                peer.name().to_owned(),
                when.to_owned(),
                readers,
                report::cell(of(|p| p.load.per_second()), 0),
                report::cell(of(|p| p.load.p99_ms), 2),
                report::cell(of(|p| p.rss), 0),
            ]);
        }
    }
    let titles = [
        "peer",
        "when",
        "stalled readers",
        "req/s, c=16",
        "p99 ms",
        "RSS MiB",
    ];
    format!(
        "### Beside stalled readers\n\n{READERS} clients ask for 1 GiB, read 64 KiB and stop; small \
         requests with 16 connections before, beside and after them. Median (least–most) of {rounds} \
         rounds.\n\n{}\n",
        report::table(&titles, &lines)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(requests: u64, p99_ms: f64, rss: f64) -> Part {
        let load = Load {
            requests,
            seconds: 1.0,
            p99_ms,
            ..Load::default()
        };
        Part { load, rss }
    }

    fn row() -> Row {
        Row {
            round: 1,
            peer: Peer::Gatewright.name(),
            stalled: 198,
            alone: part(1_000, 1.0, 50.0),
            beside: part(950, 3.0, 350.0),
            after_1_s: part(0, 0.0, 300.0),
            after_20_s: part(1_000, 1.0, 55.0),
        }
    }

    #[test]
    fn goals_compare_with_the_undisturbed_run() {
        let medians: Vec<f64> = goals(&[row()], Peer::Gatewright)
            .into_iter()
            .filter_map(|(_, _, spread)| Some(spread?.median))
            .collect();
        assert_eq!(medians, [198.0, 0.95, 3.0, 300.0, 1.1]);
        let none = goals(&[row()], Peer::EnvoyTunnel);
        assert!(none.iter().all(|(_, _, spread)| spread.is_none()));
    }

    #[test]
    fn silence_after_the_readers_is_a_fault() {
        let found: Vec<String> = faults(&[row()]).collect();
        assert_eq!(
            found,
            ["gatewright, round 1, 1 s after stalled readers: no answers"]
        );
    }

    #[test]
    fn the_table_has_four_lines_a_peer_and_none_for_an_unmeasured_one() {
        let text = table(&[Peer::Direct, Peer::Gatewright], &[row()], 1);
        assert_eq!(text.matches("| gatewright |").count(), 4);
        assert!(!text.contains("direct"), "{text}");
        assert!(text.contains("198 (198–198)"), "{text}");
    }
}
