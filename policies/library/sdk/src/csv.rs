//! CSV as RFC 4180 has it, read strictly and in constant memory: a quote stands only where a field
//! begins and ends, or twice inside of one; rows have one length; a line break is LF or CRLF; empty
//! lines are passed over.

use crate::files::{CHUNK, fill};
use std::fs::File;
use std::ops::{ControlFlow, Range};

/// Bounds one record, and with it what is held of a file.
pub const MAX_RECORD: usize = 1 << 20;

/// Bounds the fields of one record.
const MAX_FIELDS: usize = 1 << 16;

/// Why a file is no CSV file, or what stopped its reading.
pub enum Stop {
    NotCsv,
    Failed(std::io::Error),
    /// The reader of the rows had enough.
    Code(&'static str),
}

/// One row: its fields, with quotes taken off.
pub struct Row<'a> {
    data: &'a [u8],
    ends: &'a [usize],
    /// How many bytes of data stand between two fields.
    between: usize,
}

impl Row<'_> {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    #[inline]
    pub fn field(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] + self.between };
        &self.data[start..self.ends[i]]
    }

    /// The row, with or without its separators.
    pub fn bytes(&self) -> &[u8] {
        self.data
    }
}

const PLAIN: u8 = 0;
const COMMA: u8 = 1;
const QUOTE: u8 = 2;
const LF: u8 = 3;
const CR: u8 = 4;

static CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    class[b',' as usize] = COMMA;
    class[b'"' as usize] = QUOTE;
    class[b'\n' as usize] = LF;
    class[b'\r' as usize] = CR;
    class
};

/// The highest bit of each byte that is no higher than a comma, as all are that CLASS knows.
#[inline]
fn up_to_comma(word: u64) -> u64 {
    const ALL: u64 = 0x0101_0101_0101_0101;
    let above = (word & (0x7f * ALL)) + (0x7f - b',' as u64) * ALL; // no byte carries into the next
    !(above | word) & (0x80 * ALL)
}

/// Where the first line of a text ends, if it is simple, and where its fields do.
#[inline]
fn simple_line(text: &[u8], ends: &mut Vec<usize>) -> Option<usize> {
    let (words, rest) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let mut some = up_to_comma(u64::from_le_bytes(*word));
        while some != 0 {
            let at = 8 * i + some.trailing_zeros() as usize / 8;
            some &= some - 1;
            if let ControlFlow::Break(line) = separator(at, text[at], ends) {
                return line;
            }
        }
    }
    for (i, &b) in rest.iter().enumerate() {
        if let ControlFlow::Break(line) = separator(8 * words.len() + i, b, ends) {
            return line;
        }
    }
    None
}

/// Notes what a byte ends: a field, the line, or that the line is simple.
#[inline]
fn separator(at: usize, b: u8, ends: &mut Vec<usize>) -> ControlFlow<Option<usize>> {
    match CLASS[b as usize] {
        PLAIN => ControlFlow::Continue(()),
        COMMA => {
            ends.push(at);
            ControlFlow::Continue(())
        }
        LF if at > 0 && ends.len() < MAX_FIELDS => {
            ends.push(at);
            ControlFlow::Break(Some(at))
        }
        _ => ControlFlow::Break(None),
    }
}

/// Reads rows. The first is the header.
pub struct Reader {
    from: File,
    buf: Vec<u8>,
    at: usize,
    have: usize,
    ended: bool,
    data: Vec<u8>,
    ends: Vec<usize>,
    width: usize,
    /// The last field was in quotes.
    quoted: bool,
}

impl Reader {
    pub fn new(from: File) -> Reader {
        Reader {
            from,
            buf: vec![0; CHUNK],
            at: 0,
            have: 0,
            ended: false,
            data: Vec::new(),
            ends: Vec::new(),
            width: 0,
            quoted: false,
        }
    }

    /// Moves what is unread to the front and reads on. False: there is nothing more.
    fn more(&mut self) -> Result<bool, Stop> {
        if self.ended {
            return Ok(false);
        }
        self.have = fill(&mut self.from, &mut self.buf).map_err(Stop::Failed)?;
        self.at = 0;
        self.ended = self.have < self.buf.len();
        Ok(self.have > 0)
    }

    fn byte(&mut self) -> Result<Option<u8>, Stop> {
        if self.at == self.have && !self.more()? {
            return Ok(None);
        }
        self.at += 1;
        Ok(Some(self.buf[self.at - 1]))
    }

    /// Appends plain bytes up to the next that is none, and takes that one.
    #[inline]
    fn plain(&mut self) -> Result<Option<u8>, Stop> {
        loop {
            let rest = &self.buf[self.at..self.have];
            let n = rest.iter().position(|&b| CLASS[b as usize] != PLAIN).unwrap_or(rest.len());
            self.take(n)?;
            if self.at < self.have {
                self.at += 1;
                return Ok(Some(self.buf[self.at - 1]));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    #[inline]
    fn take(&mut self, n: usize) -> Result<(), Stop> {
        if self.data.len() + n > MAX_RECORD {
            return Err(Stop::NotCsv);
        }
        self.data.extend_from_slice(&self.buf[self.at..self.at + n]);
        self.at += n;
        Ok(())
    }

    fn push(&mut self, b: u8) -> Result<(), Stop> {
        if self.data.len() >= MAX_RECORD {
            return Err(Stop::NotCsv);
        }
        self.data.push(b);
        Ok(())
    }

    fn end_field(&mut self) -> Result<(), Stop> {
        if self.ends.len() >= MAX_FIELDS {
            return Err(Stop::NotCsv);
        }
        self.ends.push(self.data.len());
        Ok(())
    }

    /// The next row, or None at the end.
    #[inline]
    pub fn next(&mut self) -> Result<Option<Row<'_>>, Stop> {
        match self.simple() {
            Some(line) => {
                self.check_width()?;
                Ok(Some(Row { data: &self.buf[line], ends: &self.ends, between: 1 }))
            }
            None => self.any(),
        }
    }

    /// The next row if it lies in the buffer as it is: without a quote or a CR. Nothing is copied.
    #[inline]
    fn simple(&mut self) -> Option<Range<usize>> {
        self.ends.clear();
        let start = self.at;
        let line = start..start + simple_line(&self.buf[start..self.have], &mut self.ends)?;
        self.at = line.end + 1;
        Some(line)
    }

    fn check_width(&mut self) -> Result<(), Stop> {
        if self.width == 0 {
            self.width = self.ends.len();
        }
        if self.width == self.ends.len() { Ok(()) } else { Err(Stop::NotCsv) }
    }

    /// The next row, whatever it holds.
    fn any(&mut self) -> Result<Option<Row<'_>>, Stop> {
        loop {
            self.data.clear();
            self.ends.clear();
            self.quoted = false;
            let more = self.record()?;
            if self.ends.len() > 1 || !self.data.is_empty() || self.quoted {
                break;
            }
            if !more {
                return Ok(None);
            }
        }
        self.check_width()?;
        Ok(Some(Row { data: &self.data, ends: &self.ends, between: 0 }))
    }

    /// Reads one line. False: it was the last.
    fn record(&mut self) -> Result<bool, Stop> {
        loop {
            // At the beginning of a field.
            match self.one_field()? {
                Some(b',') => self.end_field()?,
                Some(b'\n') => {
                    self.end_field()?;
                    return Ok(true);
                }
                Some(_) => unreachable!(),
                None => {
                    self.end_field()?;
                    return Ok(false);
                }
            }
        }
    }

    /// Reads one field and gives what ended it: a comma, a line feed, or the end of the file.
    #[inline]
    fn one_field(&mut self) -> Result<Option<u8>, Stop> {
        let start = self.data.len();
        loop {
            match self.plain()? {
                Some(b'"') if self.data.len() == start => return self.quoted(),
                Some(b'"') => return Err(Stop::NotCsv),
                Some(b'\r') => match self.byte()? {
                    Some(b'\n') => return Ok(Some(b'\n')),
                    None => return Ok(None), // a CR at the very end belongs to no field
                    Some(b) => {
                        self.push(b'\r')?;
                        match CLASS[b as usize] {
                            PLAIN => self.push(b)?,
                            COMMA => return Ok(Some(b)),
                            CR => self.at -= 1, // it is still in the buffer
                            _ => return Err(Stop::NotCsv),
                        }
                    }
                },
                ended => return Ok(ended),
            }
        }
    }

    /// Reads a field from behind its opening quote.
    fn quoted(&mut self) -> Result<Option<u8>, Stop> {
        self.quoted = true;
        loop {
            match self.plain()? {
                None => return Err(Stop::NotCsv),
                Some(b'"') => match self.byte()? {
                    Some(b'"') => self.push(b'"')?,
                    Some(b',') => return Ok(Some(b',')),
                    Some(b'\n') => return Ok(Some(b'\n')),
                    None => return Ok(None),
                    Some(b'\r') => match self.byte()? {
                        Some(b'\n') => return Ok(Some(b'\n')),
                        None => return Ok(None),
                        Some(_) => return Err(Stop::NotCsv),
                    },
                    Some(_) => return Err(Stop::NotCsv),
                },
                Some(b'\r') => match self.byte()? {
                    Some(b'\n') => self.push(b'\n')?,
                    None => return Err(Stop::NotCsv),
                    Some(_) => {
                        self.push(b'\r')?;
                        self.at -= 1;
                    }
                },
                Some(b) => self.push(b)?,
            }
        }
    }
}
