//! recipients: outputs leave only sealed, to recipients that the owner names and to nobody else.
//!
//!   admit    denies with "not-sealed" a job that would have an output in plain, and with "recipient" one
//!            that seals it to somebody else too; consents to the outputs, and accepts those recipients alone
//!   ingress  allows
//!   egress   the same as at admit, of every artifact
//!
//! At every point it denies with "application", "environment", "executor" or "alone" whom "only"
//! does not let.
//!
//! The enclave seals (docs/job-file.md, "seal_to"); the border holds every output to the recipients that all
//! policies accept. Whoever has a recipient's secret key reads everything that is sealed to it: it trusts
//! them, and whoever they pass it to. It never reads content. It does not hide how large an output is, nor
//! what "also" lets leave in plain: an application can put anything into a log.

use cloister::{Decision, Error, Point, Request, only, output_name, run};
use serde::Deserialize;

/// The policy's configuration; manifest.json has its schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    only: only::Rule,
    /// age recipients, as the job writes them: "age1…".
    recipients: Vec<String>,
    /// The logs and the exit status that may leave, in plain.
    #[serde(default)]
    also: Vec<String>,
}

fn main() {
    run(decide)
}

fn decide(request: &Request) -> Result<Decision, Error> {
    let config: Config = request.config()?;
    if config.recipients.is_empty() {
        return Err("config.recipients: empty".into());
    }
    if let Some(code) = config.only.deny(request) {
        return Ok(Decision::deny(code));
    }
    match request.point {
        Point::Admit => Ok(config.admit(request)),
        Point::Ingress => Ok(Decision::allow()),
        Point::Egress => Ok(config.egress(request)),
        Point::Redact => Err("it redacts nothing".into()),
    }
}

impl Config {
    fn admit(&self, request: &Request) -> Decision {
        for output in request.channels.iter().filter_map(|c| output_name(c)) {
            if let Some(code) = self.refuse(request.job.seal_to.get(output)) {
                return Decision::deny(code);
            }
        }
        let leaves = |c: &str| output_name(c).is_some() || self.also.iter().any(|a| a == c);
        let consented = Decision::consent(request.channels_that(leaves));
        Decision { recipients: Some(self.recipients.clone()), ..consented }
    }

    fn egress(&self, request: &Request) -> Decision {
        for artifact in &request.artifacts {
            if output_name(&artifact.channel).is_none() {
                if !self.also.contains(&artifact.channel) {
                    return Decision::deny("not-sealed");
                }
            } else if let Some(code) = self.refuse(artifact.recipients.as_ref()) {
                return Decision::deny(code);
            }
        }
        Decision::allow()
    }

    /// The code that denies an output with these recipients.
    fn refuse(&self, recipients: Option<&Vec<String>>) -> Option<&'static str> {
        match recipients {
            None => Some("not-sealed"),
            Some(list) if list.is_empty() => Some("not-sealed"),
            Some(list) => list.iter().any(|r| !self.recipients.contains(r)).then_some("recipient"),
        }
    }
}
