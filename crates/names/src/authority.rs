//! The normal form of an authority on the path of every request. May not allocate for a plain ASCII name.

use crate::hostname::{Hostname, has_punycode, is_numeric, strip_port};
use crate::{MAX_LABEL, MAX_NAME};

/// Writes the normal form of a `Host` or `:authority` value into `buf` and returns it: what
/// [`Hostname::from_authority`] gives, without its allocation for names of plain ASCII.
///
/// `None` means exactly that `Hostname::from_authority` refuses the text (or that it is not UTF-8); the caller
/// asks that function for the reason.
#[must_use]
pub fn normalise_authority<'a>(authority: &[u8], buf: &'a mut [u8; 256]) -> Option<&'a str> {
    if !authority.is_ascii() || has_punycode(authority) {
        let text = str::from_utf8(authority).ok()?;
        let name = Hostname::from_authority(text).ok()?;
        let out = buf.get_mut(..name.as_str().len())?;
        out.copy_from_slice(name.as_str().as_bytes());
        return str::from_utf8(out).ok();
    }
    let text = strip_port(str::from_utf8(authority).ok()?).ok()?;
    let text = text.strip_suffix('.').unwrap_or(text).as_bytes();
    if text.is_empty() || text.len() > MAX_NAME {
        return None;
    }
    let mut label = 0;
    for (at, (&byte, out)) in text.iter().zip(buf.iter_mut()).enumerate() {
        *out = byte.to_ascii_lowercase();
        match *out {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => {}
            b'-' if at > label => {}
            b'.' => {
                if at == label || at - label > MAX_LABEL || text[at - 1] == b'-' {
                    return None;
                }
                label = at + 1;
            }
            _ => return None,
        }
    }
    let name = &buf[..text.len()];
    let last = &name[label..];
    if last.is_empty()
        || last.len() > MAX_LABEL
        || last.ends_with(b"-")
        || last.contains(&b'_')
        || is_numeric(last)
    {
        return None;
    }
    str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fast(text: &[u8]) -> Option<String> {
        let mut buf = [0; 256];
        normalise_authority(text, &mut buf).map(str::to_owned)
    }

    fn slow(text: &[u8]) -> Option<String> {
        Hostname::from_authority(str::from_utf8(text).ok()?)
            .ok()
            .map(|name| name.to_string())
    }

    #[test]
    fn a_request_host_is_normalised_in_place() {
        for (text, expected) in [
            ("App.Example.COM:8080", Some("app.example.com")),
            ("app.example.com.", Some("app.example.com")),
            ("app.example.com.:443", Some("app.example.com")),
            ("app.example.com:", Some("app.example.com")),
            ("_dmarc.example.com", Some("_dmarc.example.com")),
            ("localhost", Some("localhost")),
            ("XN--BCHER-KVA.example", Some("xn--bcher-kva.example")),
            ("b\u{fc}cher.example:80", Some("xn--bcher-kva.example")),
            ("xn--a.example", None),
            ("127.0.0.1:80", None),
            ("0x7f.1", None),
            ("[::1]:80", None),
            ("::1", None),
            ("a..b", None),
            (".a", None),
            ("", None),
            (".", None),
            (":80", None),
            ("a b.c", None),
            ("user@host.example", None),
            ("host.example:http", None),
            ("host.example:65536", None),
            ("host.example:+80", None),
            ("-a.example", None),
            ("a-.example", None),
            ("a.example-", None),
            ("a.exa_mple", None),
            ("*.example.com", None),
            ("a%2eb.example", None),
            ("a\0.example", None),
        ] {
            assert_eq!(fast(text.as_bytes()).as_deref(), expected, "{text:?}");
            assert_eq!(slow(text.as_bytes()).as_deref(), expected, "{text:?}");
        }
        assert_eq!(fast(&[b'a', 0xff]), None);
    }

    #[test]
    fn the_longest_names_fit_and_longer_ones_do_not() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(longest.len(), 253);
        assert_eq!(fast(longest.as_bytes()).as_deref(), Some(longest.as_str()));
        assert_eq!(
            fast(format!("{longest}.:65535").as_bytes()).as_deref(),
            Some(longest.as_str())
        );
        assert_eq!(fast(format!("{longest}b").as_bytes()), None);
        assert_eq!(fast(format!("{label}a.example").as_bytes()), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn fast_path_equals_slow_path(text in "[a-cA-C019xXnN._:*@\\[\\]\\-\u{fc}\u{3002}%]{0,24}") {
            prop_assert_eq!(fast(text.as_bytes()), slow(text.as_bytes()));
        }

        #[test]
        fn fast_path_equals_slow_path_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(fast(&bytes), slow(&bytes));
        }

        #[test]
        fn fast_path_equals_slow_path_on_plausible_names(
            text in "([a-zA-Z0-9_-]{1,12}\\.){0,24}[a-zA-Z0-9-]{1,64}\\.?(:[0-9]{0,6})?"
        ) {
            prop_assert_eq!(fast(text.as_bytes()), slow(text.as_bytes()));
        }
    }
}
