//! Frames: what makes a record's bytes trustworthy.
//!
//! ```text
//! magic u32 | length u32 | number u64 | safe u64 | crc of the payload u32 | crc of all these u32 | payload
//! ```
//!
//! All little-endian, CRC-32 as in zlib. Frames are numbered through the whole log, and each says up to
//! which number all was safe from a power failure when it was written: so a reader can tell a frame that
//! was damaged long after it was stored, which costs what it held, from one that never reached the disk,
//! which ends the log, whatever is found behind it.
//!
//! The header has a checksum of its own: where only a payload is damaged, its length can still be trusted
//! and reading goes on behind it; where the header is, the next good header is looked for.

use std::ops::Range;

/// `MPL2`: the second version.
const MAGIC: u32 = 0x324c_504d;
/// What frames of the first version began with.
const OLDER_MAGIC: u32 = 0x4c50_4d50;
/// Bytes of a frame beside its payload.
pub(crate) const HEADER_BYTES: usize = 32;

/// What a frame says beside its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Its number; the first of a log is 1.
    pub(crate) number: u64,
    /// All frames up to this number were safe when it was written.
    pub(crate) safe: u64,
}

/// Whether a segment was written by a version whose frames this one cannot read.
pub fn is_of_an_older_version(segment: &[u8]) -> bool {
    segment.starts_with(&OLDER_MAGIC.to_le_bytes())
}

/// Appends a frame whose payload `write` appends.
pub(crate) fn append(buffer: &mut Vec<u8>, mark: Mark, write: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
    write(buffer);
    let payload = &buffer[start + HEADER_BYTES..];
    let len = u32::try_from(payload.len()).expect("records are bounded by the messages they hold");
    let crc = crc32fast::hash(payload);
    let header = &mut buffer[start..start + HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..16].copy_from_slice(&mark.number.to_le_bytes());
    header[16..24].copy_from_slice(&mark.safe.to_le_bytes());
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
}

/// A stretch of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Where a whole payload is, and what its frame says.
    Whole(Mark, Range<usize>),
    /// Bytes that hold no whole frame.
    Damaged(Range<usize>),
}

/// The frames of a segment, in order and without gaps.
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Length and checksum of the payload and its mark, if a good header is at `at` and its payload fits.
    fn header(&self, at: usize) -> Option<(usize, u32, Mark)> {
        let header = self.bytes.get(at..at + HEADER_BYTES)?;
        let word = |i: usize| {
            let bytes = header[4 * i..4 * i + 4].try_into();
            u32::from_le_bytes(bytes.expect("four bytes"))
        };
        let good = word(0) == MAGIC && word(7) == crc32fast::hash(&header[..28]);
        let len = word(1) as usize;
        let fits = at + HEADER_BYTES + len <= self.bytes.len();
        let long = |i: usize| u64::from(word(i)) | u64::from(word(i + 1)) << 32;
        let mark = Mark {
            number: long(2),
            safe: long(4),
        };
        (good && fits).then_some((len, word(6), mark))
    }
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let start = self.at;
        if start >= self.bytes.len() {
            return None;
        }
        if let Some((len, crc, mark)) = self.header(start) {
            let payload = start + HEADER_BYTES..start + HEADER_BYTES + len;
            self.at = payload.end;
            let whole = crc32fast::hash(&self.bytes[payload.clone()]) == crc;
            return Some(if whole {
                Frame::Whole(mark, payload)
            } else {
                Frame::Damaged(start..self.at)
            });
        }
        let next = (start + 1..self.bytes.len()).find(|&at| self.header(at).is_some());
        self.at = next.unwrap_or(self.bytes.len());
        Some(Frame::Damaged(start..self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, payload) in (1..).zip([&b"first"[..], b"", b"third"]) {
            let mark = Mark { number, safe: 0 };
            append(&mut bytes, mark, |buffer| buffer.extend_from_slice(payload));
        }
        bytes
    }

    fn whole(bytes: &[u8]) -> Vec<&[u8]> {
        let frames = Frames::new(bytes);
        frames
            .filter_map(|frame| match frame {
                Frame::Whole(_, range) => Some(&bytes[range]),
                Frame::Damaged(_) => None,
            })
            .collect()
    }

    #[test]
    fn a_cut_anywhere_costs_only_what_is_behind_it() {
        let bytes = segment();
        assert_eq!(whole(&bytes), [&b"first"[..], b"", b"third"]);
        for cut in 0..bytes.len() {
            let expected = [37, 69, 106].into_iter().filter(|&end| end <= cut).count();
            assert_eq!(whole(&bytes[..cut]).len(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_costs_only_the_frame_it_is_in() {
        let bytes = segment();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let left: Vec<&[u8]> = [(37, &b"first"[..]), (69, b""), (106, b"third")]
                    .into_iter()
                    .scan(0, |start, (end, payload)| {
                        let hit = (*start..end).contains(&at);
                        *start = end;
                        Some((!hit).then_some(payload))
                    })
                    .flatten()
                    .collect();
                assert_eq!(whole(&damaged), left, "bit {bit} of byte {at}");
            }
        }
    }
}
