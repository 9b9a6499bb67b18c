//! Who may use an asset: which applications, of which owners, in which environments, run by which
//! executors, and whether other jobs may be in the enclave meanwhile. It trusts the request, and
//! claims for nothing.

use crate::{Point, Request};
use serde::Deserialize;

/// The "only" of a configuration. The default lets everybody.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// "sha256:…" of a whole bundle, or of the tree of a plain application.
    pub applications: Vec<String>,
    /// Key ARNs: any application that one of them sealed.
    pub owners: Vec<String>,
    /// "sha256:…" of dependency environments. What is in one can do what the application can: with
    /// a list, every application runs in these alone. Without one, a rule that names applications
    /// lets plain ones run in none; a sealed one says itself in which it runs.
    pub environments: Vec<String>,
    /// "sha256:…" of executors; empty lets all of the image.
    pub executors: Vec<String>,
    /// No other job in the enclave.
    pub alone: bool,
}

impl Rule {
    /// The code that denies a request. It is asked at every point.
    pub fn deny(&self, request: &Request) -> Option<&'static str> {
        if self.alone && request.sharing > 0 {
            return Some("alone");
        }
        if !self.executors.is_empty() && !self.executors.contains(&request.executor.digest) {
            return Some("executor");
        }
        if !self.application(request) {
            return Some("application");
        }
        (!self.environment(request)).then_some("environment")
    }

    /// Whether the application may run in its environment, or, at admit, whether it could turn out so.
    fn environment(&self, request: &Request) -> bool {
        let Some(e) = request.assets.iter().find(|a| a.kind == "environment") else {
            return true;
        };
        if self.environments.is_empty() {
            let named = !self.applications.is_empty() || !self.owners.is_empty();
            return !named || request.assets.iter().any(|a| a.name == "application" && a.sealed);
        }
        if request.point == Point::Admit {
            return true; // its digest is not known yet
        }
        e.verified && self.environments.contains(&e.digest)
    }

    /// Whether the application may use the asset, or, at admit, whether what is claimed of it could
    /// turn out so.
    fn application(&self, request: &Request) -> bool {
        if self.applications.is_empty() && self.owners.is_empty() {
            return true;
        }
        let Some(a) = request.assets.iter().find(|a| a.name == "application") else {
            return false;
        };
        if a.sealed && !a.owner.is_empty() && self.owners.contains(&a.owner) {
            return a.verified || request.point == Point::Admit;
        }
        if request.point == Point::Admit {
            return !self.applications.is_empty(); // its digest is not known yet
        }
        a.verified && self.applications.contains(&a.digest)
    }
}
