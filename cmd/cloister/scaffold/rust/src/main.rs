//! NAME is a policy: outputs leave up to a number of bytes, and nothing else leaves.
//! It reads one request from standard input and writes one decision to standard output.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What this policy looks at of a request.
#[derive(Deserialize)]
struct Request {
    abi: u32,
    point: String,
    config: Config,
    channels: Vec<String>,
    #[serde(default)]
    artifacts: Vec<Artifact>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    max_bytes: u64,
}

/// The content of an artifact is at /artifact/CHANNEL.
#[derive(Deserialize)]
struct Artifact {
    bytes: u64,
}

/// What it answers.
#[derive(Serialize, Default)]
struct Decision {
    allow: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    caps: BTreeMap<String, u64>,
}

fn main() {
    let answer = serde_json::from_reader(std::io::stdin().lock())
        .map_err(|e| e.to_string())
        .and_then(decide);
    match answer {
        Ok(d) if serde_json::to_writer(std::io::stdout().lock(), &d).is_ok() => {}
        _ => std::process::exit(1), // which denies
    }
}

fn decide(r: Request) -> Result<Decision, String> {
    let allow = Decision { allow: true, ..Decision::default() };
    match (r.abi, r.point.as_str()) {
        (1, "admit") => {
            let channels: Vec<String> = r.channels.into_iter().filter(|c| c.starts_with("outputs.")).collect();
            let caps = channels.iter().map(|c| (c.clone(), r.config.max_bytes)).collect();
            Ok(Decision { channels, caps, ..allow })
        }
        (1, "ingress") => Ok(allow),
        (1, "egress") if r.artifacts.iter().any(|a| a.bytes > r.config.max_bytes) => {
            Ok(Decision { code: Some("too-large"), ..Decision::default() })
        }
        (1, "egress") => Ok(allow),
        _ => Err("another ABI, or an unknown point".into()),
    }
}
