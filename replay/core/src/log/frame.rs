//! Frames: what makes a record's bytes trustworthy.
//!
//! ```text
//! magic u32 | length u32 | crc of the payload u32 | crc of these twelve bytes u32 | payload
//! ```
//!
//! All little-endian, CRC-32 as in zlib. The header has a checksum of its own: where only a payload is
//! damaged, its length can still be trusted and reading goes on behind it; where the header is, the
//! next good header is looked for. So damage costs the records it touches and no others.

use std::ops::Range;

const MAGIC: u32 = 0x4c50_4d50;
/// Bytes of a frame beside its payload.
pub(crate) const HEADER_BYTES: usize = 16;

/// Appends a frame whose payload `write` appends.
pub(crate) fn append(buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
    write(buffer);
    let payload = &buffer[start + HEADER_BYTES..];
    let len = u32::try_from(payload.len()).expect("records are bounded by the messages they hold");
    let crc = crc32fast::hash(payload);
    let header = &mut buffer[start..start + HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
}

/// A stretch of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Where a whole payload is.
    Whole(Range<usize>),
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

    /// Length and checksum of the payload, if a good header is at `at` and its payload fits.
    fn header(&self, at: usize) -> Option<(usize, u32)> {
        let header = self.bytes.get(at..at + HEADER_BYTES)?;
        let word = |i: usize| {
            let bytes = header[4 * i..4 * i + 4].try_into();
            u32::from_le_bytes(bytes.expect("four bytes"))
        };
        let good = word(0) == MAGIC && word(3) == crc32fast::hash(&header[..12]);
        let len = word(1) as usize;
        let fits = at + HEADER_BYTES + len <= self.bytes.len();
        (good && fits).then_some((len, word(2)))
    }
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let start = self.at;
        if start >= self.bytes.len() {
            return None;
        }
        if let Some((len, crc)) = self.header(start) {
            let payload = start + HEADER_BYTES..start + HEADER_BYTES + len;
            self.at = payload.end;
            let whole = crc32fast::hash(&self.bytes[payload.clone()]) == crc;
            return Some(if whole {
                Frame::Whole(payload)
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
        for payload in [&b"first"[..], b"", b"third"] {
            append(&mut bytes, |buffer| buffer.extend_from_slice(payload));
        }
        bytes
    }

    fn whole(bytes: &[u8]) -> Vec<&[u8]> {
        let frames = Frames::new(bytes);
        frames
            .filter_map(|frame| match frame {
                Frame::Whole(range) => Some(&bytes[range]),
                Frame::Damaged(_) => None,
            })
            .collect()
    }

    #[test]
    fn a_cut_anywhere_costs_only_what_is_behind_it() {
        let bytes = segment();
        assert_eq!(whole(&bytes), [&b"first"[..], b"", b"third"]);
        for cut in 0..bytes.len() {
            let expected = [21, 37, 58].into_iter().filter(|&end| end <= cut).count();
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
                let left: Vec<&[u8]> = [(21, &b"first"[..]), (37, b""), (58, b"third")]
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
