//! csv-columns: outputs leave as CSV files with known columns and enough rows, logs and the exit
//! status stay inside unless the configuration says otherwise.
//!
//!   admit    denies with "channel" a job that asks for an output that is not configured
//!   ingress  allows
//!   egress   denies with "not-csv", "columns", "values", "small-group" or "many-groups"
//!
//! At every point it denies with "application", "environment", "executor" or "alone" whom "only"
//! does not let.
//!
//! It trusts the request and its own configuration. It does not judge what allowed values mean: an
//! application can hide bits in them, in the order of rows and in how they are quoted, which
//! "patterns" makes narrow and nothing makes impossible. And it counts rows, not people: whoever can
//! add rows of their own to the input can fill a group of one up to the minimum.

use cloister::csv::{Reader, Row, Stop};
use cloister::{Artifact, Decision, Error, Point, Request, only, output_name, releases_output, run};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use whole::Whole;

mod whole;

/// Bounds the distinct values of the column to group by.
const MAX_GROUPS: usize = 10_000;

/// The policy's configuration; manifest.json has its schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    only: only::Rule,
    /// The columns that a file may have.
    columns: Vec<String>,
    /// What every value of a column must match as a whole.
    #[serde(default, deserialize_with = "cloister::once")]
    patterns: BTreeMap<String, String>,
    /// The outputs that may leave; without it every output of the job.
    outputs: Option<Vec<String>>,
    /// The least number of rows that a file has; with group_by, that each value of that column has.
    #[serde(default)]
    min_group: u64,
    group_by: Option<String>,
    /// Consent to the logs and to the exit status, unjudged.
    #[serde(default)]
    logs: bool,
    #[serde(default)]
    exit: bool,
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
    match request.point {
        Point::Admit => Ok(config.admit(request)),
        Point::Ingress => Ok(Decision::allow()),
        Point::Egress => egress(&config, &rules, request),
        Point::Redact => Err("it redacts nothing".into()),
    }
}

impl Config {
    fn admit(&self, request: &Request) -> Decision {
        if request.channels.iter().any(|c| output_name(c).is_some() && !self.releases(c)) {
            return Decision::deny("channel");
        }
        Decision::consent(request.channels_that(|c| self.releases(c)))
    }

    /// Whether the configuration lets a channel leave at all.
    fn releases(&self, channel: &str) -> bool {
        match channel {
            "logs.stdout" | "logs.stderr" => self.logs,
            "exit" => self.exit,
            _ => releases_output(&self.outputs, channel),
        }
    }
}

fn egress(config: &Config, rules: &Rules, request: &Request) -> Result<Decision, Error> {
    if request.artifacts.iter().any(|a| !config.releases(&a.channel)) {
        return Ok(Decision::deny("channel"));
    }
    for artifact in request.artifacts.iter().filter(|a| output_name(&a.channel).is_some()) {
        match rules.judge(artifact) {
            Ok(()) => {}
            Err(Stop::NotCsv) => return Ok(Decision::deny("not-csv")),
            Err(Stop::Code(code)) => return Ok(Decision::deny(code)),
            Err(Stop::Failed(e)) => return Err(e.into()),
        }
    }
    Ok(Decision::allow())
}

/// What a file is held against.
struct Rules<'a> {
    config: &'a Config,
    patterns: HashMap<&'a str, Whole>,
}

impl<'a> Rules<'a> {
    fn new(config: &'a Config) -> Result<Rules<'a>, Error> {
        if config.columns.is_empty() {
            return Err("config.columns: empty".into());
        }
        let known = |column: &String| config.columns.contains(column);
        if config.group_by.as_ref().is_some_and(|c| !known(c)) || !config.patterns.keys().all(known) {
            return Err("config: a column that is not among the columns".into());
        }
        let mut patterns = HashMap::new();
        for (column, pattern) in &config.patterns {
            patterns.insert(column.as_str(), Whole::new(pattern)?);
        }
        Ok(Rules { config, patterns })
    }

    /// Reads one artifact.
    fn judge(&self, artifact: &Artifact) -> Result<(), Stop> {
        if !artifact.is_file() {
            return Err(Stop::NotCsv);
        }
        let mut rows = Reader::new(std::fs::File::open(artifact.path()).map_err(Stop::Failed)?);
        let Some(header) = rows.next()? else {
            return Err(Stop::NotCsv);
        };
        let (group, patterns) = self.header(&header)?;
        let mut groups = Groups::default();
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += 1;
            if !row.bytes().is_ascii() && (0..row.len()).any(|i| std::str::from_utf8(row.field(i)).is_err()) {
                return Err(Stop::NotCsv);
            }
            for (i, pattern) in &patterns {
                if !pattern.is_match(row.field(*i)) {
                    return Err(Stop::Code("values"));
                }
            }
            if let Some(i) = group {
                groups.count(row.field(i))?;
            }
        }
        if count < self.config.min_group || groups.sizes.values().any(|&n| n < self.config.min_group) {
            return Err(Stop::Code("small-group"));
        }
        Ok(())
    }

    /// Denies columns that are unknown, repeated or, where rows are grouped, missing. Gives the place
    /// of the column to group by, and of those with patterns.
    fn header(&self, header: &Row) -> Result<(Option<usize>, Vec<(usize, &Whole)>), Stop> {
        let mut group = None;
        let mut patterns = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for i in 0..header.len() {
            let name = std::str::from_utf8(header.field(i)).map_err(|_| Stop::Code("columns"))?;
            if names.contains(&name) || !self.config.columns.iter().any(|c| c == name) {
                return Err(Stop::Code("columns"));
            }
            names.push(name);
            if self.config.group_by.as_deref() == Some(name) {
                group = Some(i);
            }
            if let Some(pattern) = self.patterns.get(name) {
                patterns.push((i, pattern));
            }
        }
        if self.config.group_by.is_some() && group.is_none() {
            return Err(Stop::Code("columns"));
        }
        Ok((group, patterns))
    }
}

/// Counts the rows of each group.
#[derive(Default)]
struct Groups {
    sizes: HashMap<Box<[u8]>, u64, BuildHasherDefault<Fnv>>,
}

impl Groups {
    fn count(&mut self, value: &[u8]) -> Result<(), Stop> {
        if let Some(n) = self.sizes.get_mut(value) {
            *n += 1;
            return Ok(());
        }
        if self.sizes.len() == MAX_GROUPS {
            return Err(Stop::Code("many-groups"));
        }
        self.sizes.insert(value.into(), 1);
        Ok(())
    }
}

/// FNV-1a. Whoever makes it collide makes their own job slow.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
