//! redact: columns go, numbers are rounded, and what matches a pattern is replaced.
//!
//!   admit    consents to every channel that the job asks for, or to those that are configured
//!   ingress  allows
//!   redact   writes every artifact anew: CSV files without the columns to drop and with rounded
//!            numbers, then every line with each match of a pattern replaced; denies with "not-csv",
//!            "not-text" or "not-a-number" what it cannot read
//!   egress   denies with "columns", "rounding" or "pattern" what is left of any of it
//!
//! At every point it denies with "application", "environment", "executor" or "alone" whom "only"
//! does not let.
//!
//! A pattern is held against one line at a time. It cannot catch what is spelt in a way that the pattern
//! does not foresee, and rounding takes digits from a number and not its meaning: many rounded numbers
//! tell as much as one exact one.

use cloister::csv::{Reader, Row, Stop};
use cloister::files::{CHUNK, fill, replacement};
use cloister::{Artifact, Decision, Error, Point, Request, only, output_name, releases, run};
use regex::bytes::{NoExpand, Regex, RegexBuilder};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};

/// The policy's configuration; manifest.json has its schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    only: only::Rule,
    /// The channels that may leave; without it every output.
    channels: Option<Vec<String>>,
    /// Columns to drop.
    #[serde(default)]
    drop: Vec<String>,
    /// Columns of numbers, and how many decimals they keep.
    #[serde(default, deserialize_with = "cloister::once")]
    round: BTreeMap<String, usize>,
    #[serde(default)]
    patterns: Vec<Pattern>,
}

/// What is replaced, by what.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pattern {
    pattern: String,
    #[serde(default)]
    with: String,
}

fn main() {
    run(decide)
}

fn decide(request: &Request) -> Result<Decision, Error> {
    let config: Config = request.config()?;
    let rules = Rules::new(&config)?;
    if let Some(code) = config.only.deny(request) {
        return Ok(Decision::deny(code));
    }
    let verdict = match request.point {
        Point::Admit => return Ok(Decision::consent(request.channels_that(|c| releases(&config.channels, c)))),
        Point::Ingress => Ok(()),
        Point::Redact => {
            let mut redacted = Vec::new();
            for a in request.artifacts.iter().filter(|a| a.channel != "exit") {
                let done = a.each(&mut |path, file| rules.rewrite(file, replacement(a, path)?, rules.is_table(a)));
                match stopped(done)? {
                    Some(code) => return Ok(Decision::deny(code)),
                    None => redacted.push(a.channel.clone()),
                }
            }
            return Ok(Decision { allow: true, redacted, ..Decision::default() });
        }
        Point::Egress => request.artifacts.iter().try_for_each(|a| {
            if !releases(&config.channels, &a.channel) {
                return Err("a channel without consent".into());
            }
            a.each(&mut |path, file| {
                rules.line(path.to_str().ok_or("a name that is not UTF-8")?.as_bytes())?;
                rules.check(file, rules.is_table(a))
            })
        }),
    };
    Ok(stopped(verdict)?.map_or_else(Decision::allow, Decision::deny))
}

/// A denial on its way up.
#[derive(Debug)]
struct Denied(&'static str);

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Denied {}

fn denied(code: &'static str) -> Error {
    Box::new(Denied(code))
}

/// The code of a denial; any other error stays one.
fn stopped(result: Result<(), Error>) -> Result<Option<&'static str>, Error> {
    match result {
        Ok(()) => Ok(None),
        Err(e) => match e.downcast::<Denied>() {
            Ok(denied) => Ok(Some(denied.0)),
            Err(e) => Err(e),
        },
    }
}

fn csv(stop: Stop) -> Error {
    match stop {
        Stop::NotCsv => denied("not-csv"),
        Stop::Code(code) => denied(code),
        Stop::Failed(e) => e.into(),
    }
}

struct Rules<'a> {
    config: &'a Config,
    patterns: Vec<(Regex, &'a [u8])>,
    /// All patterns at once, to see that many lines match none of them; where a pattern asks where a
    /// line begins or ends, there is no such thing.
    any: Option<Regex>,
}

impl<'a> Rules<'a> {
    fn new(config: &'a Config) -> Result<Rules<'a>, Error> {
        let mut patterns = Vec::new();
        for p in &config.patterns {
            let pattern = RegexBuilder::new(&p.pattern).unicode(false).size_limit(1 << 20).build()?;
            if pattern.is_match(b"") || p.with.contains(['\n', '\r']) {
                return Err("config.patterns: one that matches nothing at all, or a replacement of two lines".into());
            }
            patterns.push((pattern, p.with.as_bytes()));
        }
        let all: Vec<String> = config.patterns.iter().map(|p| format!("(?:{})", p.pattern)).collect();
        let looks = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(&all.join("|"))?;
        let any = looks.properties().look_set().is_empty() && !all.is_empty();
        let any = if any {
            Some(RegexBuilder::new(&all.join("|")).unicode(false).size_limit(2 << 20).build()?)
        } else {
            None
        };
        if config.round.values().any(|&d| d > 12) {
            return Err("config.round: more than 12 decimals".into());
        }
        Ok(Rules { config, patterns, any })
    }

    /// Whether an artifact has columns to look at: an output, where any are configured.
    fn is_table(&self, a: &Artifact) -> bool {
        output_name(&a.channel).is_some() && !(self.config.drop.is_empty() && self.config.round.is_empty())
    }

    fn rewrite(&self, mut from: File, to: File, table: bool) -> Result<(), Error> {
        let mut out = BufWriter::with_capacity(CHUNK, to);
        if table {
            self.rewrite_table(Reader::new(from), &mut out)?;
        } else {
            lines(&mut from, &mut |text| {
                if self.is_clean(text) {
                    return Ok(out.write_all(text)?);
                }
                each_line(text, &mut |line, end| self.write_line(line, end, &mut out))
            })?;
        }
        out.flush()?;
        Ok(())
    }

    fn rewrite_table(&self, mut rows: Reader, out: &mut dyn Write) -> Result<(), Error> {
        let Some(header) = rows.next().map_err(csv)? else {
            return Err(denied("not-csv"));
        };
        // What becomes of each column: gone, kept, or kept with so many decimals.
        let mut plan: Vec<Option<Option<usize>>> = Vec::new();
        for i in 0..header.len() {
            let name = header.field(i);
            let dropped = self.config.drop.iter().any(|d| d.as_bytes() == name);
            let round = self.config.round.iter().find(|(r, _)| r.as_bytes() == name).map(|(_, &d)| d);
            plan.push((!dropped).then_some(round));
        }
        let mut line = Vec::new();
        self.row(&header, plan.iter().map(|p| p.map(|_| None)), &mut line)?;
        self.write_line(&line, b"\n", out)?;
        while let Some(row) = rows.next().map_err(csv)? {
            line.clear();
            self.row(&row, plan.iter().copied(), &mut line)?;
            self.write_line(&line, b"\n", out)?;
        }
        Ok(())
    }

    fn row(
        &self,
        row: &Row,
        plan: impl Iterator<Item = Option<Option<usize>>>,
        line: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut first = true;
        for (i, what) in plan.enumerate() {
            let Some(decimals) = what else { continue };
            if !first {
                line.push(b',');
            }
            first = false;
            match decimals {
                Some(d) if !row.field(i).is_empty() => {
                    let number: f64 = std::str::from_utf8(row.field(i))
                        .ok()
                        .and_then(|t| t.parse().ok())
                        .ok_or_else(|| denied("not-a-number"))?;
                    if !number.is_finite() {
                        return Err(denied("not-a-number"));
                    }
                    write!(line, "{number:.d$}")?;
                }
                _ => quote(row.field(i), line),
            }
        }
        if first {
            return Err(denied("columns")); // no column is left
        }
        Ok(())
    }

    /// Writes a line with every match replaced. A record of CSV with a line break in it is several.
    fn write_line(&self, line: &[u8], end: &[u8], out: &mut dyn Write) -> Result<(), Error> {
        if self.patterns.iter().any(|(p, _)| p.is_match(line)) {
            let mut text = line.to_vec();
            for (pattern, with) in &self.patterns {
                text = pattern.replace_all(&text, NoExpand(with)).into_owned();
            }
            out.write_all(&text)?;
        } else {
            out.write_all(line)?;
        }
        out.write_all(end)?;
        Ok(())
    }

    /// Whether no line of a text matches, as far as one look can tell.
    fn is_clean(&self, text: &[u8]) -> bool {
        self.patterns.is_empty() || self.any.as_ref().is_some_and(|any| !any.is_match(text))
    }

    fn line(&self, line: &[u8]) -> Result<(), Error> {
        if self.patterns.iter().any(|(p, _)| p.is_match(line)) {
            return Err(denied("pattern"));
        }
        Ok(())
    }

    /// Denies what is left of anything that had to go.
    fn check(&self, mut from: File, table: bool) -> Result<(), Error> {
        lines(&mut from, &mut |text| {
            if self.is_clean(text) { Ok(()) } else { each_line(text, &mut |line, _| self.line(line)) }
        })?;
        if table {
            from.rewind()?;
            self.check_table(Reader::new(from))?;
        }
        Ok(())
    }

    fn check_table(&self, mut rows: Reader) -> Result<(), Error> {
        let Some(header) = rows.next().map_err(csv)? else {
            return Err(denied("not-csv"));
        };
        let mut rounded = Vec::new();
        for i in 0..header.len() {
            let name = header.field(i);
            if self.config.drop.iter().any(|d| d.as_bytes() == name) {
                return Err(denied("columns"));
            }
            if let Some((_, &d)) = self.config.round.iter().find(|(r, _)| r.as_bytes() == name) {
                rounded.push((i, d));
            }
        }
        while let Some(row) = rows.next().map_err(csv)? {
            for &(i, d) in &rounded {
                if !is_rounded(row.field(i), d) {
                    return Err(denied("rounding"));
                }
            }
        }
        Ok(())
    }
}

/// Whether a number has at most so many decimals, and is spelt as this policy spells one.
fn is_rounded(text: &[u8], decimals: usize) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mut parts = text.split(|&b| b == b'.');
    let whole = parts.next().unwrap_or(b"");
    let part = parts.next().unwrap_or(b"");
    let digits = |t: &[u8]| t.iter().all(u8::is_ascii_digit);
    parts.next().is_none()
        && digits(whole)
        && digits(part)
        && part.len() <= decimals
        && (text.is_empty() || !whole.is_empty())
}

/// Writes a field, in quotes where it needs them.
fn quote(field: &[u8], line: &mut Vec<u8>) {
    if !field.iter().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r')) {
        line.extend_from_slice(field);
        return;
    }
    line.push(b'"');
    for &b in field {
        if b == b'"' {
            line.push(b'"');
        }
        line.push(b);
    }
    line.push(b'"');
}

/// The longest line.
const MAX_LINE: usize = 1 << 20;

/// Calls f with one text of whole lines after the other.
fn lines(from: &mut File, f: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
    let mut buf = vec![0; CHUNK];
    let mut have = 0;
    loop {
        let n = fill(from, &mut buf[have..])?;
        have += n;
        if have < buf.len() {
            return f(&buf[..have]);
        }
        match buf.iter().rposition(|&b| b == b'\n') {
            Some(last) => {
                f(&buf[..=last])?;
                buf.copy_within(last + 1.., 0);
                have -= last + 1;
            }
            None if buf.len() >= MAX_LINE => return Err(denied("not-text")),
            None => buf.resize(2 * buf.len(), 0),
        }
    }
}

/// Calls f with every line of a text, and what ends it.
fn each_line(text: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), Error>) -> Result<(), Error> {
    text.split_inclusive(|&b| b == b'\n').try_for_each(|line| match line.strip_suffix(b"\n") {
        Some(line) => f(line, b"\n"),
        None => f(line, b""),
    })
}
