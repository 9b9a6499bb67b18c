//! Patterns that match a value as a whole.

use cloister::Error;
use regex::bytes::{Regex, RegexBuilder};
use regex_automata::Anchored;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::util::syntax;

/// What tables may take, and what it may take to make one, in bytes. Beyond them a pattern is searched for.
const TABLE: usize = 256 << 10;
const MAKING: usize = 1 << 20;

/// A pattern. A table has one lookup for each byte of a value, and none for the value: values are short.
pub enum Whole {
    Table(dense::DFA<Vec<u32>>, StateID),
    Search(Regex),
}

impl Whole {
    pub fn new(pattern: &str) -> Result<Whole, Error> {
        RegexBuilder::new(pattern).unicode(false).build()?; // on its own: one that closes a group early is none
        let search = RegexBuilder::new(&format!(r"\A(?:{pattern})\z")).unicode(false).size_limit(1 << 20).build()?;
        Ok(table(&format!(r"(?:{pattern})\z")).unwrap_or(Whole::Search(search)))
    }

    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Whole::Search(pattern) => pattern.is_match(value),
            Whole::Table(table, start) => {
                let end = value.iter().fold(*start, |state, &byte| table.next_state(state, byte));
                table.is_match_state(table.next_eoi_state(end))
            }
        }
    }
}

fn table(pattern: &str) -> Option<Whole> {
    let limits = dense::Config::new().start_kind(StartKind::Anchored).accelerate(false);
    let table = dense::Builder::new()
        .configure(limits.dfa_size_limit(Some(TABLE)).determinize_size_limit(Some(MAKING)))
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .build(pattern)
        .ok()?;
    let start = table.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
    Some(Whole::Table(table, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways say the same of every value.
    #[test]
    fn table_and_search() {
        let values: &[&[u8]] =
            &[b"", b"a", b"ab", b"abc", b"b", b"aab", b"12", b"1.5", b"1.5\n", b"\n", b"a\nb", b"\xff", b"x y", b"A"];
        for pattern in [
            "",
            "a|ab",
            "ab|a",
            "a*",
            "(?i)a",
            "[0-9]+(\\.[0-9]+)?",
            ".*",
            "(?s).*",
            "^a$",
            "\\w+",
            "\\bab\\b",
            "a$|b",
            "(?m)^a$",
            "a{0,3}b?",
            "[^,]*",
            "\\S+ \\S+",
        ] {
            let Ok(Whole::Table(..)) = Whole::new(pattern) else {
                panic!("{pattern:?} has no table");
            };
            let whole = Whole::new(pattern).unwrap();
            let search = Regex::new(&format!(r"(?-u)\A(?:{pattern})\z")).unwrap();
            for value in values {
                assert_eq!(whole.is_match(value), search.is_match(value), "{pattern:?} {value:?}");
            }
        }
    }

    #[test]
    fn what_is_too_large_is_searched_for() {
        let whole = Whole::new("(a|b)*a(a|b){14}").unwrap();
        assert!(matches!(whole, Whole::Search(_)));
        assert!(whole.is_match(b"abbbbbbbbbbbbbb") && !whole.is_match(b"bbbbbbbbbbbbbbb"));
    }

    #[test]
    fn what_is_no_pattern() {
        for pattern in ["(", "a)(b", "[", "a{2000}{2000}{2000}"] {
            assert!(Whole::new(pattern).is_err(), "{pattern:?}");
        }
    }
}
