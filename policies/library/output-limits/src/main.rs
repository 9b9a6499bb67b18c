//! output-limits: only the configured channels leave, each up to a number of bytes and files, under
//! known names.
//!
//!   admit    denies with "channel" a job that asks for an output that is not configured, and
//!            caps every channel that it consents to
//!   ingress  allows
//!   egress   denies with "channel", "too-large", "too-many-files" or "file-name"
//!
//! At every point it denies with "application", "environment", "executor" or "alone" whom "only"
//! does not let.
//!
//! It trusts the request and its own configuration, and never reads content: what an application puts
//! into the bytes that it has left is not looked at.

use cloister::{Artifact, Decision, Error, Point, Request, only, output_name, run};
use glob::{MatchOptions, Pattern};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The policy's configuration; manifest.json has its schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    only: only::Rule,
    /// Every channel that may leave: "outputs.NAME", "logs.stdout", …
    #[serde(deserialize_with = "cloister::once")]
    channels: BTreeMap<String, Limit>,
    /// Bounds all channels together; without it the sum of their own bounds.
    max_total_bytes: Option<u64>,
}

/// Bounds one channel.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    max_bytes: u64,
    /// Bounds the files of a folder.
    #[serde(default = "one")]
    max_files: u64,
    /// Shell patterns for the files of a folder, held against the name, or against the whole path where
    /// the pattern has a slash. Without them any name goes.
    names: Option<Vec<String>>,
}

fn one() -> u64 {
    1
}

fn main() {
    run(decide)
}

fn decide(request: &Request) -> Result<Decision, Error> {
    let config: Config = request.config()?;
    let mut names = BTreeMap::new();
    for (channel, limit) in &config.channels {
        names.insert(channel.as_str(), Names::new(limit)?);
    }
    if let Some(code) = config.only.deny(request) {
        return Ok(Decision::deny(code));
    }
    match request.point {
        Point::Admit => Ok(config.admit(request)),
        Point::Ingress => Ok(Decision::allow()),
        Point::Egress => config.egress(&names, request),
        Point::Redact => Err("it redacts nothing".into()),
    }
}

impl Config {
    fn admit(&self, request: &Request) -> Decision {
        let limited = |c: &str| self.channels.contains_key(c);
        if request.channels.iter().any(|c| output_name(c).is_some() && !limited(c)) {
            return Decision::deny("channel");
        }
        let mut decision = Decision::consent(request.channels_that(limited));
        for channel in &decision.channels {
            decision.caps.insert(channel.clone(), self.channels[channel].max_bytes.min(i64::MAX as u64));
        }
        decision
    }

    fn egress(&self, names: &BTreeMap<&str, Names>, request: &Request) -> Result<Decision, Error> {
        let sum = |total: u64, limit: &Limit| total.saturating_add(limit.max_bytes);
        let mut left = self.max_total_bytes.unwrap_or_else(|| self.channels.values().fold(0, sum));
        for artifact in &request.artifacts {
            let Some(limit) = self.channels.get(&artifact.channel) else {
                return Ok(Decision::deny("channel"));
            };
            if artifact.bytes > limit.max_bytes.min(left) {
                return Ok(Decision::deny("too-large"));
            }
            left -= artifact.bytes;
            if !artifact.is_file() {
                if let Some(code) = folder(artifact, limit.max_files, &names[artifact.channel.as_str()])? {
                    return Ok(Decision::deny(code));
                }
            }
        }
        Ok(Decision::allow())
    }
}

/// Judges the files of a folder.
fn folder(artifact: &Artifact, most: u64, names: &Names) -> Result<Option<&'static str>, Error> {
    let mut files = 0;
    let mut code = None;
    artifact.each(&mut |path, _| {
        files += 1;
        if files > most {
            code = code.or(Some("too-many-files"));
        } else if !names.hold(path) {
            code = code.or(Some("file-name"));
        }
        Ok(())
    })?;
    Ok(code)
}

/// The patterns of a limit; None lets any name.
struct Names(Option<Vec<Pattern>>);

impl Names {
    fn new(limit: &Limit) -> Result<Names, Error> {
        let read = |names: &Vec<String>| names.iter().map(|n| Pattern::new(n)).collect::<Result<_, _>>();
        Ok(Names(limit.names.as_ref().map(read).transpose()?))
    }

    fn hold(&self, path: &Path) -> bool {
        let Some(patterns) = &self.0 else {
            return true;
        };
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        patterns.iter().any(|pattern| {
            let whole = pattern.as_str().contains('/');
            let against = if whole { Some(path.as_os_str()) } else { path.file_name() };
            against.is_some_and(|name| pattern.matches_path_with(Path::new(name), options))
        })
    }
}
