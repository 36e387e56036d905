//! Rust source with comments and literals blanked out, so that a search meets code alone.

/// `source` with every byte of comments, strings and characters replaced by a space. Offsets and lines
/// stay what they are.
pub(crate) fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        match end {
            Some(end) => {
                for byte in &mut code[at..end] {
                    if *byte != b'\n' {
                        *byte = b' ';
                    }
                }
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(code).expect("whole literals were replaced, byte by byte, by spaces")
}

/// Where the comment or literal that begins at `at` ends; `None` if none begins there.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let length = rest.iter().position(|b| *b == b'\n');
        return Some(length.map_or(bytes.len(), |length| at + length));
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment(rest));
    }
    if rest.starts_with(b"\"") {
        return Some(at + quoted(rest, b'"'));
    }
    if rest.starts_with(b"'") {
        // A lifetime has no closing quote where a character has one.
        let character = rest.get(1) == Some(&b'\\') || closes_soon(rest);
        return character.then(|| at + quoted(rest, b'\''));
    }
    let word_before = at > 0 && is_word(bytes[at - 1]);
    if rest.starts_with(b"r") && !word_before || rest.starts_with(b"r") && bytes[at - 1] == b'b' {
        let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let closing = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            let body = &rest[2 + hashes..];
            let length = body.windows(closing.len()).position(|w| w == closing);
            return Some(length.map_or(bytes.len(), |length| {
                at + 2 + hashes + length + closing.len()
            }));
        }
    }
    None
}

/// One character, however many bytes it has, and then a quote.
fn closes_soon(rest: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(6)]);
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c != '\'') && characters.next() == Some('\'')
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Whether `byte` can be part of an identifier.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether `word` stands in `line` as the beginning of a word.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| at == 0 || !is_word(line.as_bytes()[at - 1]))
}

mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        for (source, want) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x // \" y") g"#, "f(           ) g"),
            ("r\"a\" b", "     b"),
            ("r#\"a\"b\"# c", "         c"),
            ("br#\"a\"# c", "b       c"),
            ("'a' 'b", "    'b"),
            ("<'a>('\\'', 'é')", "<'a>(    ,     )"),
            ("for_r\"x\"", "for_r   "),
        ] {
            assert_eq!(code_of(source), want, "{source}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let source = "\"a\nb\" // c\nd";
        assert_eq!(code_of(source), "  \n       \nd");
    }

    #[test]
    fn words_begin_where_no_word_goes_on() {
        assert!(has_word("a(sleep(1))", "sleep("));
        assert!(!has_word("no_sleep(1)", "sleep("));
    }
}
