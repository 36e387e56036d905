//! Kubernetes quantities as bytes and back. It only counts: whether a size is sensible is the caller's question.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Why a text is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No digits where a number must be.
    #[error(
        "\"{0}\" is not a quantity: write a number with an optional unit, such as 10Gi or 500M"
    )]
    NoNumber(String),
    /// The rest after the number is no unit.
    #[error(
        "\"{text}\" is not a quantity: \"{unit}\" is not a unit; use Ki, Mi, Gi, Ti, Pi, Ei (powers of 1024), k, M, G, T, P, E (powers of 1000) or none"
    )]
    Unit {
        /// The whole quantity.
        text: String,
        /// What stands where a unit was expected.
        unit: String,
    },
    /// A size cannot be below zero.
    #[error("\"{0}\" is negative: a size must be 0 or more")]
    Negative(String),
    /// More than 2^64 - 1 bytes.
    #[error("\"{0}\" is more than 16Ei: no size can be that large")]
    TooLarge(String),
}

/// More fractional places than these only round up: 2^60 * 10^20 still fits 128 bits.
const PLACES: usize = 20;

/// The number of bytes a Kubernetes quantity means; see [`parse`].
pub fn bytes(quantity: &Quantity) -> Result<u64, QuantityError> {
    parse(&quantity.0)
}

/// Reads `<sign><digits>[.<digits>]<unit>` with a binary unit, a decimal unit (`n`, `u`, `m` included) or an
/// exponent (`e3`, `E-2`) as the Kubernetes API does. A fraction of a byte rounds up.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
pub fn parse(text: &str) -> Result<u64, QuantityError> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) | None => (false, text),
    };
    let (whole, rest) = split_digits(unsigned);
    let (fraction, unit) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(QuantityError::NoNumber(text.to_owned()));
    }
    let Unit { tens, twos } = Unit::parse(unit).ok_or_else(|| QuantityError::Unit {
        text: text.to_owned(),
        unit: unit.to_owned(),
    })?;

    let digits = format!("{whole}{fraction}");
    if digits.bytes().all(|digit| digit == b'0') {
        return Ok(0);
    }
    if negative {
        return Err(QuantityError::Negative(text.to_owned()));
    }
    let too_large = || QuantityError::TooLarge(text.to_owned());
    // The decimal point stands behind this many of `digits`; it may stand left of them or far behind them.
    let point = (whole.len() as i64).saturating_add(tens);
    let (whole, fraction) = move_point(&digits, point).ok_or_else(too_large)?;
    let factor = 1u128 << twos;
    let whole = whole.checked_mul(factor).ok_or_else(too_large)?;
    let fraction = (fraction * factor).div_ceil(10u128.pow(PLACES as u32));
    u64::try_from(whole + fraction).map_err(|_| too_large())
}

/// The shortest exact text: `1Gi` for 1073741824, `10G` for 10000000000, plain digits where no unit fits.
/// Where a binary and a decimal unit are equally short, the binary one is taken.
pub fn canonical(bytes: u64) -> Quantity {
    let binary = (1..=6).map(|step| {
        (
            1u64 << (10 * step),
            ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step - 1],
        )
    });
    let decimal = (1..=6).map(|step| {
        (
            1000u64.pow(step),
            ["k", "M", "G", "T", "P", "E"][step as usize - 1],
        )
    });
    let with_unit = binary
        .rev()
        .chain(decimal.rev())
        .filter(|(unit, _)| bytes != 0 && bytes.is_multiple_of(*unit))
        .map(|(unit, name)| format!("{}{name}", bytes / unit))
        .min_by_key(String::len);
    let plain = bytes.to_string();
    Quantity(match with_unit {
        Some(short) if short.len() <= plain.len() => short,
        Some(_) | None => plain,
    })
}

/// About so many: whole numbers of the largest binary unit of which there are ten or more, rounded down.
pub fn rough(bytes: u64) -> Quantity {
    let unit = (1..=6).rev().map(|step| 1u64 << (10 * step));
    let unit = unit.into_iter().find(|unit| bytes / unit >= 10);
    let unit = unit.unwrap_or(1);
    canonical(bytes / unit * unit)
}

/// A unit is 10^tens * 2^twos.
struct Unit {
    tens: i64,
    twos: u32,
}

impl Unit {
    fn parse(unit: &str) -> Option<Unit> {
        let ten = |tens| Some(Unit { tens, twos: 0 });
        let two = |twos| Some(Unit { tens: 0, twos });
        match unit {
            "" => ten(0),
            "n" => ten(-9),
            "u" => ten(-6),
            "m" => ten(-3),
            "k" => ten(3),
            "M" => ten(6),
            "G" => ten(9),
            "T" => ten(12),
            "P" => ten(15),
            "E" => ten(18),
            "Ki" => two(10),
            "Mi" => two(20),
            "Gi" => two(30),
            "Ti" => two(40),
            "Pi" => two(50),
            "Ei" => two(60),
            other => {
                let exponent = other.strip_prefix(['e', 'E'])?;
                ten(exponent.parse().ok()?)
            }
        }
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// `digits` (not all zero) with the point after `point` of them: the whole part, and the fraction in units of
/// 10^-PLACES rounded up. None when the whole part is beyond any u64.
fn move_point(digits: &str, point: i64) -> Option<(u128, u128)> {
    let digits = digits.as_bytes();
    let first = digits.iter().position(|digit| *digit != b'0')? as i64;
    // 20 digits hold every u64; the shift of a point far away is never spelled out in zeros.
    if point - first > 20 {
        return None;
    }
    let at = |index: i64| -> u128 {
        let digit = usize::try_from(index)
            .ok()
            .and_then(|index| digits.get(index));
        digit.map_or(0, |digit| u128::from(digit - b'0'))
    };
    let whole = (first.min(point)..point).fold(0, |sum, index| sum * 10 + at(index));
    let places = point.saturating_add(PLACES as i64);
    let fraction = (point..places).fold(0, |sum, index| sum * 10 + at(index));
    let beyond = usize::try_from(places.max(0))
        .map_or(&[][..], |from| digits.get(from..).unwrap_or_default());
    let rounds_up = beyond.iter().any(|digit| *digit != b'0');
    Some((whole, fraction + u128::from(rounds_up)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("0Gi", 0),
            ("1", 1),
            ("+1", 1),
            ("100Gi", 107_374_182_400),
            ("1.5Gi", 1_610_612_736),
            (".5Ki", 512),
            ("5.Ki", 5120),
            ("10G", 10_000_000_000),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("128974848000m", 128_974_848),
            ("1m", 1),
            ("1500m", 2),
            ("1n", 1),
            ("1000000000n", 1),
            ("0.1", 1),
            ("1.0000000000000000000000000000000000000000001", 2),
            ("0.0000000000000000000000000000000000000000001", 1),
            ("1e-400", 1),
            ("1000000000000000000000000000000e-30", 1),
            ("0e999999", 0),
            ("1E", 1_000_000_000_000_000_000),
            ("1E3", 1000),
            ("15Ei", 17_293_822_569_102_704_640),
            ("18446744073709551615", u64::MAX),
            ("00000000000000000000000000000000000000000000007", 7),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
            assert_eq!(bytes(&Quantity(text.to_owned())), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, words) in [
            ("", "is not a quantity: write a number"),
            ("Gi", "is not a quantity: write a number"),
            (".", "is not a quantity: write a number"),
            ("-", "is not a quantity: write a number"),
            ("10GB", "\"GB\" is not a unit"),
            ("10 Gi", "\" Gi\" is not a unit"),
            ("1K", "\"K\" is not a unit"),
            ("1e", "\"e\" is not a unit"),
            ("1e3Gi", "\"e3Gi\" is not a unit"),
            ("1.2.3", "\".3\" is not a unit"),
            ("é", "is not a quantity: write a number"),
            ("1é", "\"é\" is not a unit"),
            ("-1Gi", "is negative"),
            ("16Ei", "more than 16Ei"),
            ("18446744073709551616", "more than 16Ei"),
            ("18446744073709551615.1", "more than 16Ei"),
            ("1e9223372036854775807", "more than 16Ei"),
            ("1e99999999999999999999", "is not a unit"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn rough_texts_have_few_digits() {
        for (bytes, text) in [
            (0, "0"),
            (9 << 10, "9Ki"),
            ((93 << 30) + 12345, "93Gi"),
            (10 << 30, "10Gi"),
            ((10 << 30) - 1, "10239Mi"),
            (u64::MAX, "15Ei"),
        ] {
            assert_eq!(rough(bytes).0, text, "{bytes}");
        }
    }

    #[test]
    fn canonical_texts_are_short() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (999, "999"),
            (1000, "1k"),
            (1024, "1Ki"),
            (1_073_741_824, "1Gi"),
            (107_374_182_400, "100Gi"),
            (10_000_000_000, "10G"),
            (1_342_177_280_000, "1250Gi"),
            (1_610_612_736, "1536Mi"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(canonical(bytes).0, text);
        }
    }

    proptest! {
        #[test]
        fn canonical_texts_mean_the_same(bytes: u64, shift in 0u32..60) {
            for bytes in [bytes, bytes << shift, bytes >> shift, (bytes >> 32).saturating_mul(1_000_000_000)] {
                prop_assert_eq!(parse(&canonical(bytes).0), Ok(bytes));
            }
        }

        #[test]
        fn fractions_round_up(milli in 0..u64::from(u32::MAX)) {
            let expected = Ok(milli.div_ceil(1000));
            prop_assert_eq!(parse(&format!("{milli}m")), expected.clone());
            prop_assert_eq!(parse(&format!("{}.{:03}", milli / 1000, milli % 1000)), expected.clone());
            prop_assert_eq!(parse(&format!("{milli}e-3")), expected);
        }

        #[test]
        fn binary_fractions_are_exact(milli in 0..u64::from(u32::MAX), unit in 0usize..4) {
            let (name, twos) = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)][unit];
            let expected = (u128::from(milli) << twos).div_ceil(1000);
            let text = format!("{}.{:03}{name}", milli / 1000, milli % 1000);
            prop_assert_eq!(parse(&text).ok(), u64::try_from(expected).ok());
        }

        #[test]
        fn no_text_breaks_it(text in "[-+]?[0-9]{0,40}[.]?[0-9]{0,40}[a-zA-Z]{0,2}-?[0-9]{0,20}|.*") {
            let _ = parse(&text);
        }
    }
}
