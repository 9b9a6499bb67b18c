//! Patterns that match a value as a whole.

use std::cell::RefCell;

use cloister::Error;
use regex_automata::Anchored;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::hybrid::dfa as lazy;
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::util::syntax;

/// What a pattern may take, in bytes.
const PATTERN: usize = 1 << 20;

/// What tables may take, and what it may take to make one, in bytes. Beyond them a table is made of the states that
/// values come to, and made anew when it is full.
const TABLE: usize = 256 << 10;
const MAKING: usize = 1 << 20;
const CACHE: usize = 2 << 20;

/// A pattern. A table has one lookup for each byte of a value, and none for the value: values are short.
pub enum Whole {
    Table(dense::DFA<Vec<u32>>, StateID),
    Lazy(lazy::DFA, RefCell<lazy::Cache>),
}

impl Whole {
    pub fn new(pattern: &str) -> Result<Whole, Error> {
        let states = states(pattern)?;
        table(&states).map_or_else(|| search(states), Ok)
    }

    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            // All that ends one early is a byte that it is told to stop at, and it is told none.
            Whole::Lazy(table, cache) => {
                follow(table, &mut cache.borrow_mut(), value).expect("a cache that is cleared")
            }
            Whole::Table(table, start) => {
                let end = value.iter().fold(*start, |state, &byte| table.next_state(state, byte));
                table.is_match_state(table.next_eoi_state(end))
            }
        }
    }
}

fn states(pattern: &str) -> Result<thompson::NFA, Error> {
    let bytes = syntax::Config::new().unicode(false).utf8(false);
    syntax::parse_with(pattern, &bytes)?; // on its own: one that closes a group early is none
    let whole = syntax::parse_with(&format!(r"(?:{pattern})\z"), &bytes)?;
    let limits = thompson::Config::new().utf8(false).which_captures(thompson::WhichCaptures::None);
    Ok(thompson::Compiler::new().configure(limits.nfa_size_limit(Some(PATTERN))).build_from_hir(&whole)?)
}

fn table(states: &thompson::NFA) -> Option<Whole> {
    let limits = dense::Config::new().start_kind(StartKind::Anchored).accelerate(false);
    let table = dense::Builder::new()
        .configure(limits.dfa_size_limit(Some(TABLE)).determinize_size_limit(Some(MAKING)))
        .build_from_nfa(states)
        .ok()?;
    let start = table.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
    Some(Whole::Table(table, start))
}

fn search(states: thompson::NFA) -> Result<Whole, Error> {
    let limits = lazy::Config::new().cache_capacity(CACHE).skip_cache_capacity_check(true);
    let table = lazy::Builder::new().configure(limits).build_from_nfa(states)?;
    let cache = RefCell::new(table.create_cache());
    Ok(Whole::Lazy(table, cache))
}

/// One lookup for each byte, and a state that is made where there was none.
fn follow(table: &lazy::DFA, cache: &mut lazy::Cache, value: &[u8]) -> Result<bool, Box<dyn std::error::Error>> {
    let mut state = table.start_state(cache, &start::Config::new().anchored(Anchored::Yes))?;
    for &byte in value {
        state = table.next_state(cache, state, byte)?;
        if state.is_dead() {
            return Ok(false);
        }
    }
    Ok(table.next_eoi_state(cache, state)?.is_match())
}

#[cfg(test)]
mod tests {
    use regex::bytes::Regex;

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
            let whole = Whole::new(pattern).unwrap();
            let Whole::Table(..) = whole else {
                panic!("{pattern:?} has no table");
            };
            let search = search(states(pattern).unwrap()).unwrap();
            let regex = Regex::new(&format!(r"(?-u)\A(?:{pattern})\z")).unwrap();
            for value in values {
                assert_eq!(whole.is_match(value), regex.is_match(value), "{pattern:?} {value:?}");
                assert_eq!(search.is_match(value), regex.is_match(value), "{pattern:?} {value:?}, searched for");
            }
        }
    }

    #[test]
    fn what_is_too_large_is_searched_for() {
        let whole = Whole::new("(a|b)*a(a|b){14}").unwrap();
        assert!(matches!(whole, Whole::Lazy(..)));
        assert!(whole.is_match(b"abbbbbbbbbbbbbb") && !whole.is_match(b"bbbbbbbbbbbbbbb"));
    }

    #[test]
    fn what_is_no_pattern() {
        for pattern in ["(", "a)(b", "[", "a{2000}{2000}{2000}"] {
            assert!(Whole::new(pattern).is_err(), "{pattern:?}");
        }
    }
}
