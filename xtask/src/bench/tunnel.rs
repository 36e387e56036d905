//! `bench tunnel`: every peer in turn, in rounds, under the same load. It may not know how a peer
//! is started.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};
use serde::Serialize;

use super::peers::{Ground, Peer};
use super::report::{self, Spread};
use super::wrk::{self, Connections, Load, Target};
use super::{Common, hol, http};

/// `cargo xtask bench tunnel`
#[derive(Parser)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// How often each peer is measured; even rounds go through the peers backwards
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How often each peer is measured beside stalled readers (0: not at all)
    #[arg(long, default_value_t = 3)]
    hol_rounds: usize,
    /// These peers only
    #[arg(long, value_name = "PEER,PEER...", value_delimiter = ',')]
    only: Vec<Peer>,
    /// Seconds of each load
    #[arg(long, default_value_t = 5)]
    seconds: u32,
}

/// One peer in one round. Memory in MiB over all its processes.
#[derive(Debug, Serialize)]
struct Row {
    round: usize,
    peer: &'static str,
    kept_alive: Load,
    kept_alive_cpu_seconds: f64,
    one_per_request: Load,
    bulk_bytes: u64,
    bulk_seconds: f64,
    bulk_cpu_seconds: f64,
    rss_before_bulk: f64,
    peak_in_bulk: f64,
    peak: f64,
}

impl Row {
    fn cpu_per_thousand(&self) -> f64 {
        self.kept_alive_cpu_seconds / self.kept_alive.requests as f64 * 1000.0
    }

    fn bulk_mib_per_second(&self) -> f64 {
        self.bulk_bytes as f64 / f64::from(1 << 20) / self.bulk_seconds
    }

    fn bulk_cpu_per_gib(&self) -> f64 {
        self.bulk_cpu_seconds / self.bulk_bytes as f64 * f64::from(1 << 30)
    }

    fn bulk_growth(&self) -> f64 {
        self.peak_in_bulk / self.rss_before_bulk
    }

    fn faults(&self) -> impl Iterator<Item = String> + '_ {
        [
            ("kept-alive", &self.kept_alive),
            ("one per request", &self.one_per_request),
        ]
        .into_iter()
        .filter_map(|(what, load)| {
            let fault = load.fault()?;
            Some(format!(
                "{}, round {}, {what}: {fault}",
                self.peer, self.round
            ))
        })
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut peers = match args.only.as_slice() {
        [] => Peer::value_variants().to_vec(),
        only => only.to_vec(),
    };
    let binary = match peers.contains(&Peer::Gatewright) {
        true => Some(args.common.gatewright()?),
        false => None,
    };
    let out = args.common.out().join("tunnel");
    let ground = Ground::prepare(&out, args.common.first_port, binary)?;
    let mut notes = Vec::new();
    peers.retain(|peer| {
        let there = ground.program(*peer).is_some();
        if !there {
            notes.push(format!(
                "{}: not measured, its program is missing",
                peer.name()
            ));
        }
        there
    });

    let mut raw = File::create(out.join("raw.jsonl"))?;
    let mut rows = Vec::new();
    for round in 1..=args.rounds {
        for peer in order(&peers, round) {
            eprintln!("round {round} of {}: {}", args.rounds, peer.name());
            match measure(&ground, peer, round, args.seconds) {
                Ok(row) => {
                    writeln!(raw, "{}", serde_json::to_string(&row)?)?;
                    rows.push(row);
                }
                Err(error) => {
                    eprintln!("  {error:#}");
                    notes.push(note(&format!("{}, round {round}", peer.name()), &error));
                }
            }
        }
    }
    let held_up = hol::run(&ground, &peers, args.hol_rounds, args.seconds, &mut notes)?;
    fs::write(
        out.join("hol.json"),
        serde_json::to_string_pretty(&held_up)?,
    )?;
    let _ = fs::remove_dir_all(out.join("www"));

    let mut text = report::preamble(&report::command_line())?;
    text.push_str(&versions(&ground, &peers)?);
    text.push_str(&summary(&peers, &rows, args.rounds));
    text.push_str(&ratios(&rows, &held_up));
    if args.hol_rounds > 0 {
        text.push_str(&hol::table(&peers, &held_up, args.hol_rounds));
    }
    notes.extend(rows.iter().flat_map(Row::faults));
    notes.extend(hol::faults(&held_up));
    text.push_str(&listed(&notes));
    report::publish("tunnel", &text, args.common.save)
}

/// A fault as the page lists it. The end of a log belongs on the terminal, not there.
pub(super) fn note(what: &str, error: &anyhow::Error) -> String {
    let error = format!("{error:#}");
    format!("{what}: {}", error.lines().next().unwrap_or_default())
}

/// Forwards in odd rounds and backwards in even ones, so that a machine that grows slower (or
/// faster) does so for everybody.
fn order(peers: &[Peer], round: usize) -> Vec<Peer> {
    let mut order = peers.to_vec();
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

fn measure(ground: &Ground, peer: Peer, round: usize, seconds: u32) -> Result<Row> {
    let mut started = ground.start(peer)?;
    let target = Target {
        port: started.port,
        host: peer.host(),
        path: "/1k",
    };
    wrk::load(&target, Connections::KeptAlive(64), 1).context("the warm-up")?;
    let group = &mut started.group;
    let idle = group.cpu_seconds();
    let kept_alive = wrk::load(&target, Connections::KeptAlive(64), seconds)?;
    let kept_alive_cpu_seconds = group.cpu_seconds() - idle;
    let one_per_request = wrk::load(&target, Connections::OnePerRequest(32), seconds)?;
    group.check()?;

    let peak_before = group.peak_mib();
    let rss_before_bulk = group.rss_mib();
    group.reset_peak();
    let idle = group.cpu_seconds();
    let bulk = http::download(target.port, target.host, "/1g")?;
    let bulk_cpu_seconds = group.cpu_seconds() - idle;
    let peak_in_bulk = group.peak_mib();
    group.check()?;
    Ok(Row {
        round,
        peer: peer.name(),
        kept_alive,
        kept_alive_cpu_seconds,
        one_per_request,
        bulk_bytes: bulk.bytes,
        bulk_seconds: bulk.seconds,
        bulk_cpu_seconds,
        rss_before_bulk,
        peak_in_bulk,
        peak: peak_before.max(peak_in_bulk),
    })
}

fn versions(ground: &Ground, peers: &[Peer]) -> Result<String> {
    let mut versions = std::collections::BTreeSet::new();
    for peer in peers {
        versions.insert(ground.version(*peer)?);
    }
    let versions: Vec<String> = versions.into_iter().collect();
    Ok(format!("Versions: {}.\n\n", versions.join(", ")))
}

fn summary(peers: &[Peer], rows: &[Row], rounds: usize) -> String {
    type Column = (&'static str, fn(&Row) -> f64, usize);
    let columns: [Column; 9] = [
        ("req/s, c=64", |r| r.kept_alive.per_second(), 0),
        ("p50 ms", |r| r.kept_alive.p50_ms, 2),
        ("p99 ms", |r| r.kept_alive.p99_ms, 2),
        ("CPU s / 1,000 req", Row::cpu_per_thousand, 4),
        (
            "req/s, new connection each",
            |r| r.one_per_request.per_second(),
            0,
        ),
        ("1 GiB, MiB/s", Row::bulk_mib_per_second, 0),
        ("CPU s / GiB", Row::bulk_cpu_per_gib, 2),
        ("peak RSS ÷ RSS before, 1 GiB", Row::bulk_growth, 2),
        ("peak RSS MiB", |r| r.peak, 0),
    ];
    let mut titles = vec!["peer"];
    titles.extend(columns.iter().map(|(title, _, _)| title));
    let lines: Vec<Vec<String>> = peers
        .iter()
        .map(|peer| {
            let of = |value: fn(&Row) -> f64| {
                Spread::of(rows.iter().filter(|r| r.peer == peer.name()).map(value))
            };
            let cells = columns
                .iter()
                .map(|(_, value, digits)| report::cell(of(*value), *digits));
            std::iter::once(peer.name().to_owned())
                .chain(cells)
                .collect()
        })
        .collect();
    let mut text = report::table(&titles, &lines);
    text.push_str(&format!(
        "\nMedian (least–most) of {rounds} rounds; 1 KiB answers. CPU and memory are those of all \
         processes of a peer (both ends of a tunnel).\n\n"
    ));
    for peer in peers {
        text.push_str(&format!("- {}: {}\n", peer.name(), peer.about()));
    }
    text.push('\n');
    text
}

/// Gatewright against Envoy's reverse tunnel, and against itself, with what it is meant to reach.
fn ratios(rows: &[Row], held_up: &[hol::Row]) -> String {
    let mut lines = Vec::new();
    let mut push = |what: &str,
                    goal: String,
                    spread: Option<Spread>,
                    reached: fn(f64, f64) -> bool,
                    bound: f64| {
        if let Some(spread) = spread {
            let verdict = if reached(spread.median, bound) {
                "yes"
            } else {
                "no"
            };
            lines.push(vec![
                what.to_owned(),
                goal,
                report::cell(Some(spread), 2),
                verdict.to_owned(),
            ]);
        }
    };
    let at_least: fn(f64, f64) -> bool = |value, bound| value >= bound;
    let at_most: fn(f64, f64) -> bool = |value, bound| value <= bound;

    let pairs = pairs(rows, Peer::Gatewright, Peer::EnvoyTunnel);
    let against = |value: fn(&Row) -> f64| {
        Spread::of(
            pairs
                .iter()
                .map(|(ours, theirs)| value(ours) / value(theirs)),
        )
    };
    let ours = || rows.iter().filter(|r| r.peer == Peer::Gatewright.name());
    push(
        "req/s, c=64, ÷ envoy-tunnel",
        "≥ 2.0".to_owned(),
        against(|r| r.kept_alive.per_second()),
        at_least,
        2.0,
    );
    push(
        "CPU s / 1,000 req, ÷ envoy-tunnel",
        "≤ 0.55".to_owned(),
        against(Row::cpu_per_thousand),
        at_most,
        0.55,
    );
    push(
        "1 GiB download, MiB/s, ÷ envoy-tunnel",
        "≥ 0.9".to_owned(),
        against(Row::bulk_mib_per_second),
        at_least,
        0.9,
    );
    push(
        "peak RSS in that download ÷ RSS before it",
        "≤ 1.2".to_owned(),
        Spread::of(ours().map(Row::bulk_growth)),
        at_most,
        1.2,
    );
    for (what, goal, value) in hol::goals(held_up, Peer::Gatewright) {
        let (sign, reached, bound) = match goal {
            hol::Goal::AtLeast(bound) => ("≥", at_least, bound),
            hol::Goal::AtMost(bound) => ("≤", at_most, bound),
        };
        push(what, format!("{sign} {bound}"), value, reached, bound);
    }
    if lines.is_empty() {
        return String::new();
    }
    let table = report::table(&["Gatewright", "goal", "measured", "reached"], &lines);
    format!("Ratios are taken within each round.\n\n{table}\n")
}

/// The rows of two peers that stem from the same round.
fn pairs(rows: &[Row], first: Peer, second: Peer) -> Vec<(&Row, &Row)> {
    let of = |peer: Peer| -> BTreeMap<usize, &Row> {
        rows.iter()
            .filter(|r| r.peer == peer.name())
            .map(|r| (r.round, r))
            .collect()
    };
    let others = of(second);
    of(first)
        .into_iter()
        .filter_map(|(round, row)| Some((row, *others.get(&round)?)))
        .collect()
}

fn listed(notes: &[String]) -> String {
    if notes.is_empty() {
        return "Faults: none.\n".to_owned();
    }
    let lines: Vec<String> = notes.iter().map(|note| format!("- {note}\n")).collect();
    format!("Faults:\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peer: Peer, round: usize, requests: u64, cpu: f64) -> Row {
        Row {
            round,
            peer: peer.name(),
            kept_alive: Load {
                requests,
                seconds: 1.0,
                ..Load::default()
            },
            kept_alive_cpu_seconds: cpu,
            one_per_request: Load::default(),
            bulk_bytes: 1 << 30,
            bulk_seconds: 1.0,
            bulk_cpu_seconds: 0.5,
            rss_before_bulk: 50.0,
            peak_in_bulk: 75.0,
            peak: 75.0,
        }
    }

    #[test]
    fn even_rounds_go_backwards() {
        let peers = [Peer::Direct, Peer::Gatewright];
        assert_eq!(order(&peers, 1), peers);
        assert_eq!(order(&peers, 2), [Peer::Gatewright, Peer::Direct]);
    }

    #[test]
    fn ratios_compare_rows_of_one_round() {
        let rows = [
            row(Peer::EnvoyTunnel, 1, 1_000, 0.04),
            row(Peer::Gatewright, 1, 3_000, 0.06),
            row(Peer::Gatewright, 2, 9_000, 0.06),
        ];
        let text = ratios(&rows, &[]);
        let line = |what: &str| {
            let found = text.lines().find(|line| line.contains(what));
            found.unwrap_or_else(|| panic!("{what} is in {text}"))
        };
        assert!(line("req/s").contains("3.00 (3.00–3.00) | yes"), "{text}");
        assert!(line("CPU s").contains("0.50 (0.50–0.50) | yes"), "{text}");
        assert!(line("peak RSS").contains("1.50 (1.50–1.50) | no"), "{text}");
    }

    #[test]
    fn a_run_without_answers_is_listed_as_a_fault() {
        let faults: Vec<String> = row(Peer::Direct, 4, 1_000, 0.1).faults().collect();
        assert_eq!(faults, ["direct, round 4, one per request: no answers"]);
        assert!(listed(&faults).contains("round 4"));
        assert_eq!(listed(&[]), "Faults: none.\n");
    }
}
