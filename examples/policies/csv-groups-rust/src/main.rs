//! csv-groups: a policy in Rust. Outputs leave as CSV files with known columns and enough rows of each
//! group, and nothing else leaves. The same policy in other languages is beside it, and all of them are
//! held against fixtures/csv-groups.
//!
//!   admit    consents to every output of the job, never to logs or the exit status
//!   ingress  allows
//!   egress   denies with "not-csv", "columns", "small-group" or "many-groups"
//!
//! It stands on the crate of policies/library. It trusts the request and its own configuration, does not
//! judge what allowed values mean, and counts rows, not people. A policy to use is library/csv-columns.

use cloister::csv::{Reader, Stop};
use cloister::{Artifact, Decision, Error, Point, Request, output_name, run};
use serde::Deserialize;
use std::collections::HashMap;

/// Bounds the distinct values of the column to group by.
const MAX_GROUPS: usize = 10_000;

/// The policy's configuration; manifest.json has its schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    columns: Vec<String>,
    group_by: String,
    min_group: u64,
}

fn main() {
    run(decide)
}

fn decide(request: &Request) -> Result<Decision, Error> {
    let config: Config = request.config()?;
    if !config.columns.contains(&config.group_by) || config.min_group < 1 {
        return Err("config: group_by is none of the columns, or min_group none to ask for".into());
    }
    match request.point {
        Point::Admit => {
            let outputs = request.channels.iter().filter(|c| output_name(c).is_some());
            Ok(Decision::consent(outputs.cloned().collect()))
        }
        Point::Ingress => Ok(Decision::allow()),
        Point::Egress => egress(&config, request),
        Point::Redact => Err("it redacts nothing".into()),
    }
}

fn egress(config: &Config, request: &Request) -> Result<Decision, Error> {
    for artifact in &request.artifacts {
        if output_name(&artifact.channel).is_none() {
            return Err("a channel without consent".into());
        }
        match config.judge(artifact) {
            Ok(()) => {}
            Err(Stop::NotCsv) => return Ok(Decision::deny("not-csv")),
            Err(Stop::Code(code)) => return Ok(Decision::deny(code)),
            Err(Stop::Failed(e)) => return Err(e.into()),
        }
    }
    Ok(Decision::allow())
}

impl Config {
    fn judge(&self, artifact: &Artifact) -> Result<(), Stop> {
        if !artifact.is_file() {
            return Err(Stop::NotCsv);
        }
        let mut rows = Reader::new(std::fs::File::open(artifact.path()).map_err(Stop::Failed)?);
        let header = rows.next()?.ok_or(Stop::NotCsv)?;
        let names: Vec<&[u8]> = (0..header.len()).map(|i| header.field(i)).collect();
        let known = |name: &&[u8]| self.columns.iter().any(|c| c.as_bytes() == *name);
        let repeated = (1..names.len()).any(|i| names[..i].contains(&names[i]));
        let group = names
            .iter()
            .position(|name| *name == self.group_by.as_bytes());
        let (true, false, Some(group)) = (names.iter().all(known), repeated, group) else {
            return Err(Stop::Code("columns"));
        };
        let mut groups: HashMap<Vec<u8>, u64> = HashMap::new();
        while let Some(row) = rows.next()? {
            if (0..row.len()).any(|i| std::str::from_utf8(row.field(i)).is_err()) {
                return Err(Stop::NotCsv);
            }
            *groups.entry(row.field(group).to_vec()).or_default() += 1;
            if groups.len() > MAX_GROUPS {
                return Err(Stop::Code("many-groups"));
            }
        }
        if groups.is_empty() || groups.values().any(|&rows| rows < self.min_group) {
            return Err(Stop::Code("small-group"));
        }
        Ok(())
    }
}
