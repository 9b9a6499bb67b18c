//! allow-all: everything that the job asks for leaves, logs and exit status included.
//!
//!   admit    consents to every channel
//!   ingress  allows
//!   egress   allows
//!
//! At every point it denies with "application", "environment", "executor" or "alone" whom "only"
//! does not let.
//!
//! It is for owners who want their asset used by whoever their key policy names, and kept: the asset stays
//! inside only as far as the application keeps it. An application that copies it into an output takes it out.

use cloister::{Decision, Error, Point, Request, only, run};
use serde::Deserialize;

/// The policy's configuration; manifest.json has its schema. It may be left out.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    only: only::Rule,
}

fn main() {
    run(decide)
}

fn decide(request: &Request) -> Result<Decision, Error> {
    let config: Option<Config> = request.config()?;
    if let Some(code) = config.unwrap_or_default().only.deny(request) {
        return Ok(Decision::deny(code));
    }
    match request.point {
        Point::Admit => Ok(Decision::consent(request.channels.clone())),
        Point::Ingress | Point::Egress => Ok(Decision::allow()),
        Point::Redact => Err("it redacts nothing".into()),
    }
}
