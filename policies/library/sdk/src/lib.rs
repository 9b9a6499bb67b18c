//! The guest side of a policy that is written in Rust: the shapes of docs/policy-abi.md, the files
//! around a policy, and the way from standard input to standard output.
//!
//! It never allows of its own accord: every error and panic is a failure of the policy, which denies.

pub mod csv;
pub mod files;
pub mod only;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::marker::PhantomData;

/// What a policy fails with. Its text goes nowhere.
pub type Error = Box<dyn std::error::Error>;

/// The point of a job at which a policy is asked. An unknown one is an error.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Point {
    Admit,
    Ingress,
    Redact,
    Egress,
}

/// What a policy is asked; what no policy of this library looks at is left out.
#[derive(Deserialize)]
pub struct Request {
    pub abi: u32,
    pub point: Point,
    #[serde(default)]
    pub job: Job,
    pub executor: Executor,
    pub assets: Vec<Asset>,
    pub config: Box<RawValue>,
    pub channels: Vec<String>,
    #[serde(default)]
    pub sharing: u32,
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
}

/// The canonical job; what no policy of this library looks at is left out.
#[derive(Deserialize, Default)]
pub struct Job {
    /// To whom each output is sealed, by its name; one that is not in it leaves in plain.
    #[serde(default)]
    pub seal_to: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
pub struct Executor {
    pub digest: String,
}

#[derive(Deserialize)]
pub struct Asset {
    pub name: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub digest: String,
    #[serde(default)]
    pub owner: String,
    #[serde(default)]
    pub sealed: bool,
    #[serde(default)]
    pub verified: bool,
}

#[derive(Deserialize)]
pub struct Artifact {
    pub channel: String,
    pub kind: String,
    pub bytes: u64,
    /// To whom it is sealed; None for one that leaves in plain.
    pub recipients: Option<Vec<String>>,
}

impl Artifact {
    pub fn is_file(&self) -> bool {
        self.kind == "file"
    }
}

/// What a policy answers.
#[derive(Serialize, Default)]
pub struct Decision {
    pub allow: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub caps: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redacted: Vec<String>,
}

impl Decision {
    pub fn allow() -> Decision {
        Decision { allow: true, ..Decision::default() }
    }

    pub fn deny(code: &'static str) -> Decision {
        Decision { code: Some(code), ..Decision::default() }
    }

    pub fn consent(channels: Vec<String>) -> Decision {
        Decision { allow: true, channels, ..Decision::default() }
    }
}

/// The name of an output's channel; None for the logs and the exit status.
pub fn output_name(channel: &str) -> Option<&str> {
    channel.strip_prefix("outputs.").filter(|name| !name.is_empty())
}

/// Whether a configuration releases a channel: one of those that it lists, or any output where it lists none.
pub fn releases(channels: &Option<Vec<String>>, channel: &str) -> bool {
    match channels {
        Some(channels) => channels.iter().any(|c| c == channel),
        None => output_name(channel).is_some(),
    }
}

/// Whether a configuration that lists outputs by name releases a channel.
pub fn releases_output(outputs: &Option<Vec<String>>, channel: &str) -> bool {
    match (output_name(channel), outputs) {
        (Some(name), Some(outputs)) => outputs.iter().any(|o| o == name),
        (name, _) => name.is_some(),
    }
}

impl Request {
    /// The channels that the job asks for and a policy releases.
    pub fn channels_that(&self, releases: impl Fn(&str) -> bool) -> Vec<String> {
        self.channels.iter().filter(|c| releases(c)).cloned().collect()
    }

    /// The policy's configuration. A type of the library refuses unknown fields; repeated ones are
    /// refused by every type, and in a map by [once].
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(serde_json::from_str(self.config.get())?)
    }
}

/// Reads a map in which no key stands twice: `#[serde(deserialize_with = "cloister::once")]`.
pub fn once<'de, D: Deserializer<'de>, V: Deserialize<'de>>(from: D) -> Result<BTreeMap<String, V>, D::Error> {
    struct Once<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Once<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = pairs.next_entry()? {
                if map.insert(key, value).is_some() {
                    return Err(A::Error::custom("a key stands twice"));
                }
            }
            Ok(map)
        }
    }

    from.deserialize_map(Once(PhantomData))
}

/// Answers the one question on standard input and ends the process.
pub fn run(decide: fn(&Request) -> Result<Decision, Error>) -> ! {
    match answer(decide) {
        Ok(()) => std::process::exit(0),
        Err(_) => std::process::exit(1),
    }
}

fn answer(decide: fn(&Request) -> Result<Decision, Error>) -> Result<(), Error> {
    let mut question = Vec::new();
    std::io::stdin().lock().read_to_end(&mut question)?;
    let request: Request = serde_json::from_slice(&question)?;
    if request.abi != 1 {
        return Err("another version of the ABI".into());
    }
    let written = serde_json::to_vec(&decide(&request)?)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&written)?;
    out.flush()?;
    Ok(())
}
