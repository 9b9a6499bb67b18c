//! json-schema: outputs leave as JSON documents that a schema takes, and nothing else leaves.
//!
//!   admit    consents to the outputs that are configured, or to all of them
//!   ingress  allows
//!   egress   denies with "not-json", "too-large" or "schema"
//!
//! At every point it denies with "application", "environment", "executor" or "alone" whom "only"
//! does not let.
//!
//! The whole of a file is one document of at most 4 MiB, or with "lines" every line is one; a name stands in
//! an object once. The schema is JSON Schema 2020-12 without references: what it does not forbid leaves, so
//! close objects with additionalProperties and bound strings and lists. It cannot catch what is hidden in
//! allowed values, in white space, in the order of names or in how a number is spelt.

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use cloister::files::CHUNK;
use cloister::{Decision, Error, Point, Request, only, releases_output, run};
use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

/// Bounds one document.
const MAX_DOCUMENT: usize = 4 << 20;

/// The policy's configuration; manifest.json has its schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    only: only::Rule,
    schema: Value,
    /// Every line of a file is a document.
    #[serde(default)]
    lines: bool,
    /// The outputs that may leave; without it every output of the job.
    outputs: Option<Vec<String>>,
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
        Point::Admit => Ok(Decision::consent(request.channels_that(|c| releases_output(&config.outputs, c)))),
        Point::Ingress => Ok(Decision::allow()),
        Point::Redact => Err("it redacts nothing".into()),
        Point::Egress => {
            let mut code = None;
            for a in &request.artifacts {
                if !releases_output(&config.outputs, &a.channel) {
                    return Err("a channel without consent".into());
                }
                if !a.is_file() {
                    return Ok(Decision::deny("not-json"));
                }
                a.each(&mut |_, file| {
                    code = code.or(rules.judge(file, config.lines)?);
                    Ok(())
                })?;
            }
            Ok(code.map_or_else(Decision::allow, Decision::deny))
        }
    }
}

struct Rules {
    schemas: Schemas,
    schema: SchemaIndex,
}

impl Rules {
    fn new(config: &Config) -> Result<Rules, Error> {
        if refers(&config.schema) {
            return Err("config.schema: a reference; write the subschema out".into());
        }
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Draft::V2020_12);
        let failed = |e: boon::CompileError| format!("config.schema: {e}");
        compiler.add_resource("cloister:schema", config.schema.clone()).map_err(failed)?;
        let schema = compiler.compile("cloister:schema", &mut schemas).map_err(failed)?;
        Ok(Rules { schemas, schema })
    }

    /// Reads one file and gives the code that denies it.
    fn judge(&self, file: File, lines: bool) -> Result<Option<&'static str>, Error> {
        let mut from = BufReader::with_capacity(CHUNK, file);
        let mut text = Vec::new();
        if !lines {
            from.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut text)?;
            return Ok(self.document(&text));
        }
        loop {
            text.clear();
            (&mut from).take(MAX_DOCUMENT as u64 + 2).read_until(b'\n', &mut text)?;
            if text.is_empty() {
                return Ok(None);
            }
            if text.last() == Some(&b'\n') {
                text.pop();
            }
            if let Some(code) = self.document(&text) {
                return Ok(Some(code));
            }
        }
    }

    fn document(&self, text: &[u8]) -> Option<&'static str> {
        if text.len() > MAX_DOCUMENT {
            return Some("too-large");
        }
        let Ok(Strict(value)) = serde_json::from_slice(text) else {
            return Some("not-json");
        };
        self.schemas.validate(&value, self.schema).err().map(|_| "schema")
    }
}

/// Whether a schema refers to another place: with that it could take exponential time.
fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.iter().any(|(name, inside)| {
            matches!(name.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef" | "$id" | "$vocabulary" | "$schema")
                || refers(inside)
        }),
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

/// A JSON value in which no object has a name twice: of two, a reader would see one and the other would leave.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Strict, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Strict;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_str<E>(self, v: &str) -> Result<Strict, E> {
        Ok(Strict(v.into()))
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Strict, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = from.next_element()? {
            items.push(item);
        }
        Ok(Strict(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Strict, A::Error> {
        let mut fields = Map::new();
        while let Some((name, Strict(value))) = from.next_entry::<String, Strict>()? {
            if fields.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a name twice"));
            }
        }
        Ok(Strict(fields.into()))
    }
}
