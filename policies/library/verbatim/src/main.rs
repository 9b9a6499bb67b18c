//! verbatim: nothing leaves that holds a piece of my asset, as it is, in hex or in base64.
//!
//!   admit    consents to every channel that the job asks for, or to those that are configured
//!   ingress  allows
//!   egress   denies with "verbatim" if an artifact holds n consecutive bytes of the owner's assets
//!
//! At every point it denies with "application", "environment", "executor" or "alone" whom "only"
//! does not let.
//!
//! Every piece of n bytes holds a whole block of w = (n+1)/2 bytes, wherever such blocks begin. So the
//! blocks of the artifacts are hashed, one pass over all of them: as they are, and as what their hex
//! digits and their base64 characters stand for, from every place where a group of those can begin.
//! Then every position of the asset is held against the hashes, by a hash that rolls. Memory is constant,
//! whatever the size of both: at most 36 MiB, none of it for the asset. Where the hashes of the artifacts do
//! not fit, the asset is read once for each part of them: for n = 256 such a part is 50 MB of text or more.
//!
//! A piece shorter than n is let through if it is shorter than w, and by chance above that.
//!
//! It cannot catch what was changed first: compressed, encrypted, spelt in another way, in pieces shorter
//! than n, or with something put between. Blocks of one byte repeated are passed over: they are nobody's.
//! A hash of 64 bits denies by accident once in years, and never lets through what it should not.

use cloister::files::{CHUNK, OWN, each, fill};
use cloister::{Decision, Error, Point, Request, only, releases, run};
use serde::Deserialize;
use std::fs::File;
use std::path::Path;

/// The policy's configuration; manifest.json has its schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    only: only::Rule,
    /// The length of a piece, 32 to 65536.
    bytes: usize,
    /// The channels that may leave; without it every output.
    channels: Option<Vec<String>>,
}

fn main() {
    run(decide)
}

fn decide(request: &Request) -> Result<Decision, Error> {
    let config: Config = request.config()?;
    if !(32..=65536).contains(&config.bytes) {
        return Err("config.bytes: not 32 to 65536".into());
    }
    if let Some(code) = config.only.deny(request) {
        return Ok(Decision::deny(code));
    }
    match request.point {
        Point::Admit => Ok(Decision::consent(request.channels_that(|c| releases(&config.channels, c)))),
        Point::Ingress => Ok(Decision::allow()),
        Point::Egress => egress(&config, request),
        Point::Redact => Err("it redacts nothing".into()),
    }
}

fn egress(config: &Config, request: &Request) -> Result<Decision, Error> {
    if request.artifacts.iter().any(|a| !releases(&config.channels, &a.channel)) {
        return Err("a channel without consent".into());
    }
    let block = config.bytes.div_ceil(2);
    let bytes: u64 = request.artifacts.iter().map(|a| a.bytes.min(1 << 40)).sum();
    let hashes = (5 * bytes / block as u64).min(HASHES as u64) as usize; // five readings of one text at most
    let mut search = Search::new(block, (hashes + 2 * ROOM).next_power_of_two().min(HASHES));
    for artifact in &request.artifacts {
        artifact.each(&mut |path, file| {
            search.name(path)?;
            search.file(file)
        })?;
    }
    search.flush()?;
    Ok(if search.found { Decision::deny("verbatim") } else { Decision::allow() })
}

/// The multiplier of the rolling hash: a polynomial modulo 2^64.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// How many hashes are held at once, at most: a table of twice as many places, and a map of bits before it.
const HASHES: usize = 1 << 21;

/// Of 4096 bytes there come fewer hashes than this, whatever the block.
const ROOM: usize = 4096;

/// Looks for the blocks of artifacts in the asset.
struct Search {
    block: usize,
    table: Table,
    buf: Vec<u8>,
    found: bool,
}

impl Search {
    fn new(block: usize, hashes: usize) -> Search {
        Search { block, table: Table::new(hashes), buf: vec![0; CHUNK], found: false }
    }

    /// The names of an artifact's files leave like their content.
    fn name(&mut self, path: &Path) -> Result<(), Error> {
        let name = path.to_str().ok_or("a name that is not UTF-8")?.as_bytes().to_vec();
        let mut readings = Readings::new(self.block);
        self.add(&mut readings, &name)
    }

    fn file(&mut self, mut file: File) -> Result<(), Error> {
        let mut readings = Readings::new(self.block);
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            let n = fill(&mut file, &mut buf)?;
            self.add(&mut readings, &buf[..n])?;
            if n < buf.len() {
                break;
            }
        }
        self.buf = buf;
        Ok(())
    }

    fn add(&mut self, readings: &mut Readings, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(4096) {
            if self.table.len + ROOM > self.table.places.len() / 2 {
                self.flush()?;
            }
            readings.read(piece, &mut self.table);
        }
        Ok(())
    }

    /// Holds the asset against what was gathered, and begins anew.
    fn flush(&mut self) -> Result<(), Error> {
        if self.table.len > 0 && !self.found {
            let (block, table) = (self.block, &self.table);
            let mut found = false;
            let mut buf = std::mem::take(&mut self.buf);
            each(Path::new(OWN), Path::new(""), &mut |_, file| {
                found = found || holds(file, block, table, &mut buf)?;
                Ok(())
            })?;
            self.buf = buf;
            self.found = found;
        }
        self.table.clear();
        Ok(())
    }
}

/// Whether a file holds one of the blocks.
fn holds(mut file: File, block: usize, table: &Table, buf: &mut Vec<u8>) -> Result<bool, Error> {
    let mut leaving = 1u64; // BASE to the power of block: what the byte that leaves counts for
    for _ in 0..block {
        leaving = leaving.wrapping_mul(BASE);
    }
    buf.resize(CHUNK.max(4 * block), 0);
    let (mut hash, mut have) = (0u64, 0); // have: bytes of the block so far, kept in front of what is read
    loop {
        let n = fill(&mut file, &mut buf[have..])?;
        let end = have + n;
        let mut at = have;
        while at < end && at < block {
            hash = hash.wrapping_mul(BASE).wrapping_add(u64::from(buf[at]) + 1);
            at += 1;
            if at == block && table.has(hash) {
                return Ok(true);
            }
        }
        if at >= block {
            let mut hit = false;
            for (old, new) in buf[at - block..].iter().zip(&buf[at..end]) {
                hash = hash
                    .wrapping_mul(BASE)
                    .wrapping_add(u64::from(*new) + 1)
                    .wrapping_sub((u64::from(*old) + 1).wrapping_mul(leaving));
                hit |= table.has(hash);
            }
            if hit {
                return Ok(true);
            }
        }
        if end < buf.len() {
            return Ok(false);
        }
        have = block;
        buf.copy_within(end - block..end, 0);
    }
}

/// Everything that one file can be read as.
struct Readings {
    block: usize,
    plain: Blocks,
    hex: [Blocks; 2],
    digits: u64,
    /// The last digit.
    digit: u8,
    base64: [Blocks; 4],
    characters: u64,
    /// The last characters, six bits each.
    bits: u32,
}

impl Readings {
    fn new(block: usize) -> Readings {
        Readings {
            block,
            plain: Blocks::default(),
            hex: Default::default(),
            digits: 0,
            digit: 0,
            base64: Default::default(),
            characters: 0,
            bits: 0,
        }
    }

    fn read(&mut self, bytes: &[u8], table: &mut Table) {
        for &b in bytes {
            self.plain.push(b, self.block, table);
            let class = CLASS[b as usize];
            if class & HEX != 0 {
                // What is no digit in between is passed over: spaces, line ends, "\x", colons.
                let digit = class >> 8 & 0xf;
                let value = self.digit << 4 | digit as u8;
                if self.digits > 0 {
                    self.hex[(self.digits & 1) as usize].push(value, self.block, table);
                }
                self.digit = digit as u8;
                self.digits += 1;
            }
            if class & BASE64 != 0 {
                self.bits = self.bits << 6 | u32::from(class & 0x3f);
                self.characters += 1;
                if self.characters >= 4 {
                    let reading = &mut self.base64[(self.characters & 3) as usize];
                    for value in [self.bits >> 16, self.bits >> 8, self.bits] {
                        reading.push(value as u8, self.block, table);
                    }
                }
            }
        }
    }
}

/// Cuts a reading into blocks.
#[derive(Default)]
struct Blocks {
    hash: u64,
    len: usize,
    first: u8,
    /// The block holds more than one byte repeated.
    varied: bool,
}

impl Blocks {
    #[inline]
    fn push(&mut self, b: u8, block: usize, table: &mut Table) {
        if self.len == 0 {
            self.first = b;
            self.varied = false;
            self.hash = 0;
        }
        self.varied |= b != self.first;
        self.hash = self.hash.wrapping_mul(BASE).wrapping_add(u64::from(b) + 1);
        self.len += 1;
        if self.len == block {
            self.len = 0;
            if self.varied {
                table.add(self.hash);
            }
        }
    }
}

/// A set of hashes.
struct Table {
    places: Vec<u64>,
    bits: Vec<u64>,
    len: usize,
}

impl Table {
    /// Room for a power of two of hashes.
    fn new(hashes: usize) -> Table {
        Table { places: vec![0; 2 * hashes], bits: vec![0; hashes / 4], len: 0 }
    }

    fn clear(&mut self) {
        self.places.fill(0);
        self.bits.fill(0);
        self.len = 0;
    }

    /// The place and the bit of a hash, from its upper half, which depends on every byte.
    #[inline]
    fn bit(&self, hash: u64) -> (usize, u64) {
        let i = (hash >> 38) as usize & (self.bits.len() * 64 - 1);
        (i >> 6, 1 << (i & 63))
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.places.len() - 1)
    }

    fn add(&mut self, hash: u64) {
        let hash = hash.max(1); // 0 is an empty place
        let (word, bit) = self.bit(hash);
        self.bits[word] |= bit;
        let mut at = self.place(hash);
        while self.places[at] != 0 {
            if self.places[at] == hash {
                return;
            }
            at = (at + 1) & (self.places.len() - 1);
        }
        self.places[at] = hash;
        self.len += 1;
    }

    #[inline]
    fn has(&self, hash: u64) -> bool {
        let hash = hash.max(1);
        let (word, bit) = self.bit(hash);
        self.bits[word] & bit != 0 && self.find(hash)
    }

    #[inline(never)]
    fn find(&self, hash: u64) -> bool {
        let mut at = self.place(hash);
        while self.places[at] != 0 {
            if self.places[at] == hash {
                return true;
            }
            at = (at + 1) & (self.places.len() - 1);
        }
        false
    }
}

const BASE64: u16 = 0x40;
const HEX: u16 = 0x80;

/// What a byte is: its six bits of base64, whether it has them, whether it is a hex digit, and its value.
static CLASS: [u16; 256] = {
    let mut class = [0; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut i = 0;
    while i < 64 {
        class[alphabet[i] as usize] = BASE64 | i as u16;
        i += 1;
    }
    class[b'-' as usize] = BASE64 | 62; // the alphabet for URLs
    class[b'_' as usize] = BASE64 | 63;
    let digits = b"0123456789abcdef";
    let mut i = 0;
    while i < 16 {
        class[digits[i] as usize] |= HEX | (i as u16) << 8;
        class[digits[i].to_ascii_uppercase() as usize] |= if i > 9 { HEX | (i as u16) << 8 } else { 0 };
        i += 1;
    }
    class
};
