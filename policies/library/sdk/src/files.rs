//! The files around a policy: artifacts, the owner's assets, and replacements.

use crate::{Artifact, Error};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where artifacts are, the owner's assets, and what replaces artifacts.
pub const ARTIFACTS: &str = "/artifact";
pub const OWN: &str = "/self";
pub const REDACTED: &str = "/redacted";

/// How much is read at once.
pub const CHUNK: usize = 256 << 10;

impl Artifact {
    pub fn path(&self) -> PathBuf {
        Path::new(ARTIFACTS).join(&self.channel)
    }

    /// Calls f with every file, in the order of their paths, and its path below the artifact, which
    /// is empty if the artifact is a file.
    pub fn each(&self, f: &mut dyn FnMut(&Path, File) -> Result<(), Error>) -> Result<(), Error> {
        each(&self.path(), Path::new(""), f)
    }
}

/// Calls f with every file below root. What is neither a file nor a folder is an error.
pub fn each(root: &Path, below: &Path, f: &mut dyn FnMut(&Path, File) -> Result<(), Error>) -> Result<(), Error> {
    let at = if below.as_os_str().is_empty() { root.to_path_buf() } else { root.join(below) };
    let kind = fs::symlink_metadata(&at)?.file_type();
    if kind.is_file() {
        return f(below, File::open(&at)?);
    }
    if !kind.is_dir() {
        return Err("neither a file nor a folder".into());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&at)? {
        names.push(entry?.file_name());
    }
    names.sort();
    names.iter().try_for_each(|name| each(root, &below.join(name), f))
}

/// Makes the file that replaces one of an artifact, and the folders above it.
pub fn replacement(a: &Artifact, below: &Path) -> io::Result<File> {
    let mut at = Path::new(REDACTED).join(&a.channel);
    if !a.is_file() {
        at = at.join(below);
        for folder in at.ancestors().skip(1).collect::<Vec<_>>().iter().rev().skip(2) {
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
    }
    File::options().write(true).create_new(true).open(at)
}

/// Reads as much as fits, up to the end; less than buf is the end.
pub fn fill(from: &mut File, buf: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match from.read(&mut buf[have..])? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}
