//! Medians, tables and the sections of docs/benchmarks.md. It may not start or measure anything.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Median, least and greatest of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of `values`; `None` when there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self {
            median,
            least: *values.first()?,
            most: *values.last()?,
        })
    }
}

/// `median (least–most)`, or a dash where nothing was measured.
pub(crate) fn cell(spread: Option<Spread>, digits: usize) -> String {
    match spread {
        Some(s) => format!(
            "{} ({}–{})",
            number(s.median, digits),
            number(s.least, digits),
            number(s.most, digits)
        ),
        None => "–".to_owned(),
    }
}

/// With a comma between thousands.
pub(crate) fn number(value: f64, digits: usize) -> String {
    let plain = format!("{:.digits$}", value.abs());
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if !fraction.is_empty() {
        text = format!("{text}.{fraction}");
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

/// The value below which `percent` of `sorted` lie (nearest rank); `None` when it is empty.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// A Markdown table: its first column to the left, the others to the right.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|---|", titles.join(" | "));
    text.push_str(&"---:|".repeat(titles.len().saturating_sub(1)));
    text.push('\n');
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// When and where a measurement ran, and how it is repeated.
pub(crate) fn preamble(command: &str) -> Result<String> {
    let date = workspace::output_of(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    let cpu_info = fs::read_to_string("/proc/cpuinfo")?;
    let cpu = field(&cpu_info, "model name").unwrap_or("CPU");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib: f64 = field(&memory, "MemTotal")
        .and_then(|value| value.split(' ').next()?.parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    Ok(format!(
        "Measured on {date} with `{command}`: {cores} cores ({cpu}), {:.0} GiB of memory, Linux {}, \
         loopback.\n",
        kib / (1024.0 * 1024.0),
        kernel.trim()
    ))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

/// The command line that ran, as a contributor would type it again.
pub(crate) fn command_line() -> String {
    typed(std::env::args().skip(1))
}

/// Paths of this machine say nothing to others.
fn typed(args: impl Iterator<Item = String>) -> String {
    let args = args.map(|arg| match arg.starts_with('/') {
        true => "PATH".to_owned(),
        false => arg,
    });
    let args: Vec<String> = args.collect();
    format!("cargo xtask {}", args.join(" "))
}

/// Prints `text` and, when asked to, puts it between the section's markers in docs/benchmarks.md.
pub(crate) fn publish(section: &str, text: &str, save: bool) -> Result<()> {
    println!("\n{text}");
    let path = workspace::root().join("docs/benchmarks.md");
    if !save {
        println!("({} is as it was: --save puts this there)", path.display());
        return Ok(());
    }
    let page =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let page = replace_section(&page, section, text)?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn replace_section(page: &str, section: &str, text: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- {section}:begin -->"),
        format!("<!-- {section}:end -->"),
    );
    let missing = || format!("docs/benchmarks.md has no section {begin} … {end}");
    let (before, rest) = page.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!("{before}{begin}\n{}\n{end}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_odd_even_and_no_values() {
        let of = |values: &[f64]| Spread::of(values.iter().copied()).map(|s| s.median);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(of(&[f64::NAN]), None);
        assert_eq!(
            cell(Spread::of([1234.5, 1.0, 2000.0]), 0),
            "1,234 (1–2,000)"
        );
        assert_eq!(cell(None, 0), "–");
    }

    #[test]
    fn numbers_have_commas() {
        for (value, digits, want) in [
            (999.0, 0, "999"),
            (1_000.0, 0, "1,000"),
            (1_234_567.891, 1, "1,234,567.9"),
            (-12_345.0, 0, "-12,345"),
            (0.021, 3, "0.021"),
        ] {
            assert_eq!(number(value, digits), want);
        }
    }

    #[test]
    fn the_command_is_shown_without_paths_of_the_machine() {
        let args = ["bench", "tunnel", "--binary", "/x/y", "--rounds", "5"].map(str::to_owned);
        assert_eq!(
            typed(args.into_iter()),
            "cargo xtask bench tunnel --binary PATH --rounds 5"
        );
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(100.0));
        assert_eq!(percentile(&values, 99.0), Some(198.0));
        assert_eq!(percentile(&values[..1], 99.0), Some(1.0));
        assert_eq!(percentile(&[], 99.0), None);
    }

    #[test]
    fn a_section_is_replaced_and_the_rest_stays() {
        let page = "# A\n<!-- x:begin -->\nold\n<!-- x:end -->\ntail\n";
        let new = replace_section(page, "x", "new\n").expect("it has the section");
        assert_eq!(new, "# A\n<!-- x:begin -->\nnew\n<!-- x:end -->\ntail\n");
        assert_eq!(replace_section(&new, "x", "new").expect("still"), new);
        assert!(replace_section(page, "y", "new").is_err());
    }

    #[test]
    fn the_benchmark_page_has_every_section() {
        let path = workspace::root().join("docs/benchmarks.md");
        let page = fs::read_to_string(path).expect("the page");
        for section in ["tunnel", "routes", "route-change", "operator"] {
            replace_section(&page, section, "").expect(section);
        }
    }
}
