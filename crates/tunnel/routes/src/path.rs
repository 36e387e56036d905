//! Paths as they are compared: percent-decoded, element by element. May not change what is forwarded, and may not
//! guess: it lists every way in which a backend could read a path and leaves the comparison to the table.

use std::borrow::Cow;

use crate::route::MAX_PATH;

/// Stands for an encoded slash in a decoded path. A NUL itself never gets that far.
const ENCODED_SLASH: u8 = 0;

/// The ways to read a request's path.
pub(crate) enum Readings<'a> {
    /// There is one.
    One(Cow<'a, [u8]>),
    /// Dot segments, encoded slashes or backslashes: backends differ.
    Several(Vec<Vec<u8>>),
}

/// All readings of a raw path, without its query. Plain paths are borrowed as they stand.
///
/// An empty path and `*` (RFC 9110 section 7.1) are read as `/`. A malformed percent escape stands for itself.
///
/// # Errors
/// Why the path is refused whatever the routes are.
pub(crate) fn readings(raw: &str) -> Result<Readings<'_>, &'static str> {
    let raw = if raw.is_empty() || raw == "*" {
        "/"
    } else {
        raw
    };
    let bytes = raw.as_bytes();
    if bytes[0] != b'/' {
        return Err("the path does not start with a slash");
    }
    if is_plain(bytes) {
        return Ok(Readings::One(Cow::Borrowed(bytes)));
    }
    let decoded = decode(bytes).ok_or("the path has a NUL")?;
    let slashes = decoded.contains(&ENCODED_SLASH);
    let backslashes = decoded.contains(&b'\\');
    if !slashes && !backslashes && !has_dot_segment(&decoded) {
        return Ok(Readings::One(Cow::Owned(decoded)));
    }
    let mut readings: Vec<Vec<u8>> = Vec::new();
    let mut add = |reading: Vec<u8>| {
        if !readings.contains(&reading) {
            readings.push(reading);
        }
    };
    for split_slashes in [false, true] {
        for split_backslashes in [false, true] {
            let mut reading = decoded.clone();
            for byte in &mut reading {
                if (split_slashes && *byte == ENCODED_SLASH)
                    || (split_backslashes && *byte == b'\\')
                {
                    *byte = b'/';
                }
            }
            add(resolve(&reading, |_| Dots::None));
            add(resolve(&reading, dots));
            // Servlet containers cut path parameters off before they resolve: "/..;x/" climbs there.
            add(resolve(&reading, |segment| {
                dots(without_parameters(segment))
            }));
        }
    }
    Ok(Readings::Several(readings))
}

/// The one reading of a route's path; `None` where requests for it would have several, or could not exist.
pub(crate) fn of_route(path: &str) -> Option<Cow<'_, [u8]>> {
    let strange = |c: char| c.is_ascii_control() || matches!(c, '?' | '#');
    if path.is_empty() || path.len() > MAX_PATH || path == "*" || path.contains(strange) {
        return None;
    }
    match readings(path) {
        Ok(Readings::One(reading)) => Some(reading),
        Ok(Readings::Several(_)) | Err(_) => None,
    }
}

/// Whether a route may have this path.
pub(crate) fn is_routable(path: &str) -> bool {
    of_route(path).is_some()
}

/// Whether decoding and resolving would leave the path as it is. May say no too often, never yes too often.
fn is_plain(path: &[u8]) -> bool {
    // Without a way out in the middle, many bytes are looked at in one step.
    let special = |&byte: &u8| matches!(byte, b'%' | b'\\' | b'.' | 0);
    if !path.iter().fold(false, |found, byte| found | special(byte)) {
        return true;
    }
    let mut previous = 0;
    for &byte in path {
        // No element that starts with a dot is looked at closer here.
        if matches!(byte, b'%' | b'\\' | 0) || (byte == b'.' && previous == b'/') {
            return false;
        }
        previous = byte;
    }
    true
}

/// Percent-decodes once, with [`ENCODED_SLASH`] for `%2F`; `None` for a NUL, raw or encoded.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = match (byte, after) {
            (b'%', &[high, low, ref tail @ ..]) => hex(high)
                .zip(hex(low))
                .map(|(high, low)| (high << 4 | low, tail)),
            _ => None,
        };
        let byte = escaped.map_or(byte, |(byte, tail)| {
            rest = tail;
            byte
        });
        match byte {
            0 => return None,
            b'/' if escaped.is_some() => out.push(ENCODED_SLASH),
            _ => out.push(byte),
        }
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

enum Dots {
    None,
    Here,
    Up,
}

fn dots(segment: &[u8]) -> Dots {
    match segment {
        b"." => Dots::Here,
        b".." => Dots::Up,
        _ => Dots::None,
    }
}

fn without_parameters(segment: &[u8]) -> &[u8] {
    segment
        .split(|&byte| byte == b';')
        .next()
        .unwrap_or(segment)
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/')
        .any(|segment| !matches!(dots(without_parameters(segment)), Dots::None))
}

/// Removes dot segments (RFC 3986 section 5.2.4): a path never climbs above its root, and one that ends in a dot
/// segment ends in a slash.
fn resolve(path: &[u8], dots: impl Fn(&[u8]) -> Dots) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment) {
            Dots::None => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
            Dots::Here => {}
            Dots::Up => {
                let parent = out.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                out.truncate(parent);
            }
        }
        if last {
            out.push(b'/');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(raw: &str) -> Vec<String> {
        let readings = match readings(raw).unwrap() {
            Readings::One(one) => vec![one.into_owned()],
            Readings::Several(several) => several,
        };
        readings
            .into_iter()
            .map(|reading| String::from_utf8(reading).unwrap())
            .collect()
    }

    #[test]
    fn a_plain_path_is_read_in_one_way_without_a_copy() {
        for raw in [
            "/",
            "/foo",
            "/foo/",
            "/foo//bar",
            "/a.b/c..d",
            "/a;b=c",
            "/a:b@c",
        ] {
            assert!(
                matches!(readings(raw), Ok(Readings::One(Cow::Borrowed(path))) if path == raw.as_bytes()),
                "{raw}"
            );
        }
        assert_eq!(all(""), ["/"]);
        assert_eq!(all("*"), ["/"]);
    }

    #[test]
    fn escapes_are_decoded_once_and_malformed_ones_stand_for_themselves() {
        assert_eq!(all("/a%20b/%c3%BC"), ["/a b/\u{fc}"]);
        assert_eq!(all("/%2561"), ["/%61"]);
        assert_eq!(all("/100%"), ["/100%"]);
        assert_eq!(all("/%zz%4"), ["/%zz%4"]);
        assert_eq!(all("/.well-known/x"), ["/.well-known/x"]);
        assert_eq!(all("/%2ewell-known"), ["/.well-known"]);
        assert_eq!(all("/..."), ["/..."]);
    }

    #[test]
    fn every_way_to_read_a_tricky_path_is_listed() {
        assert_eq!(all("/a/../b"), ["/a/../b", "/b"]);
        assert_eq!(all("/a/%2e%2E/b"), ["/a/../b", "/b"]);
        assert_eq!(all("/a/./b/."), ["/a/./b/.", "/a/b/"]);
        assert_eq!(all("/../.."), ["/../..", "/"]);
        assert_eq!(all("/a/..;x/b"), ["/a/..;x/b", "/b"]);
        assert_eq!(all("/a%2Fb"), ["/a\0b", "/a/b"]);
        assert_eq!(all("/a\\b"), ["/a\\b", "/a/b"]);
        assert_eq!(all("/a%5c..%5cb"), ["/a\\..\\b", "/a/../b", "/b"]);
        assert_eq!(all("/x%2f..%2fb"), ["/x\0..\0b", "/x/../b", "/b"]);
        assert_eq!(all("/x/%2e%2e%2fb"), ["/x/..\0b", "/x/../b", "/b"]);
    }

    #[test]
    fn some_paths_are_refused_outright() {
        assert!(readings("/a%00b").is_err());
        assert!(readings("/a\0b").is_err());
        assert!(readings("a/b").is_err());
        assert!(readings("http://x/").is_err());
    }

    proptest! {
        #[test]
        fn plain_means_one_unchanged_reading(raw in "/[a-z./%\\\\;2eEfF05cC]{0,16}") {
            if is_plain(raw.as_bytes()) {
                prop_assert_eq!(decode(raw.as_bytes()), Some(raw.clone().into_bytes()));
                prop_assert!(!has_dot_segment(raw.as_bytes()));
            }
        }

        #[test]
        fn readings_start_with_a_slash_and_resolved_ones_are_stable(raw in "/[a-c./%\\\\;2eEfF5cC]{0,24}") {
            if let Ok(Readings::Several(several)) = readings(&raw) {
                for reading in several {
                    prop_assert_eq!(reading.first(), Some(&b'/'));
                    let resolved = resolve(&reading, dots);
                    prop_assert_eq!(&resolve(&resolved, dots), &resolved);
                }
            }
        }
    }
}
