//! Files in parts with a digest: weights are larger than a message may be.

use bytes::Bytes;
use pmpo_proto::v1::FilePart;
use sha2::{Digest, Sha256};

/// What a part holds: with the rest of its message below what gRPC's libraries take unless told otherwise.
const PART_BYTES: usize = 2 << 20;

/// A file that is sent; copies share its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    name: &'static str,
    version: u64,
    bytes: Bytes,
    sha256: Bytes,
}

impl Outgoing {
    pub(crate) fn new(name: &'static str, version: u64, bytes: Bytes) -> Self {
        Self {
            sha256: Sha256::digest(&bytes).to_vec().into(),
            name,
            version,
            bytes,
        }
    }

    /// The parts in their order, at least one.
    pub(crate) fn parts(&self) -> impl Iterator<Item = FilePart> + '_ {
        let size = self.bytes.len();
        let offsets = (0..size.max(1)).step_by(PART_BYTES);
        offsets.map(move |offset| FilePart {
            name: self.name.to_owned(),
            offset: offset as u64,
            size: size as u64,
            sha256: self.sha256.clone(),
            data: self.bytes.slice(offset..size.min(offset + PART_BYTES)),
            version: self.version,
        })
    }
}

/// A file that has come whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Puts the parts of one stream together.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// The first part of the file under way, without its data, and what has come of it.
    file: Option<(FilePart, Vec<u8>)>,
}

impl Incoming {
    /// Takes the next part; answers the file that is whole with it.
    ///
    /// # Errors
    /// It does not follow the one before, or the file is not what its digest says; in words.
    pub(crate) fn take(&mut self, mut part: FilePart) -> Result<Option<Arrived>, String> {
        let data = std::mem::take(&mut part.data);
        let (file, mut bytes) = self
            .file
            .take()
            .unwrap_or_else(|| (part.clone(), Vec::new()));
        let same = |file: &FilePart| {
            (&file.name, file.size, &file.sha256, file.version)
                == (&part.name, part.size, &part.sha256, part.version)
        };
        let end = bytes.len() as u64 + data.len() as u64;
        if !same(&file) || part.offset != bytes.len() as u64 || end > part.size {
            let (expected, got) = (bytes.len(), part.offset);
            return Err(format!(
                "{}: a part does not follow the one before: expected offset {expected} of {} bytes, got {got} with {} \
                 bytes of {:?}",
                file.name,
                file.size,
                data.len(),
                part.name
            ));
        }
        if data.is_empty() && end < part.size {
            return Err(format!("{}: an empty part", part.name));
        }
        bytes.extend_from_slice(&data);
        if end < file.size {
            self.file = Some((file, bytes));
            return Ok(None);
        }
        if Sha256::digest(&bytes)[..] != file.sha256[..] {
            return Err(format!(
                "{}: its bytes are not those of its digest",
                file.name
            ));
        }
        Ok(Some(Arrived {
            name: file.name,
            version: file.version,
            bytes,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(size: usize) -> (Vec<u8>, Vec<FilePart>) {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let file = Outgoing::new("weights", 7, bytes.clone().into());
        let parts = file.parts().collect();
        (bytes, parts)
    }

    #[test]
    fn files_of_any_size_arrive_whole() {
        for size in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES - 1] {
            let (bytes, parts) = parts(size);
            assert_eq!(parts.len(), size.div_ceil(PART_BYTES).max(1));
            let mut incoming = Incoming::default();
            let last = parts.len() - 1;
            for (i, part) in parts.into_iter().enumerate() {
                let whole = incoming.take(part).unwrap();
                assert_eq!(whole.is_some(), i == last, "{size} bytes");
                assert!(whole.is_none_or(|file| file.bytes == bytes && file.version == 7));
            }
        }
    }

    #[test]
    fn what_is_cut_mixed_or_changed_is_refused() {
        let (_, whole) = parts(2 * PART_BYTES);
        let take = |parts: &[FilePart]| {
            let mut incoming = Incoming::default();
            let taken: Result<Vec<_>, _> = parts
                .iter()
                .map(|part| incoming.take(part.clone()))
                .collect();
            taken.unwrap_err()
        };
        let [first, second] = [whole[0].clone(), whole[1].clone()];
        assert!(take(std::slice::from_ref(&second)).contains("does not follow"));
        assert!(take(&[first.clone(), first.clone()]).contains("does not follow"));
        let newer = FilePart {
            version: 8,
            ..second.clone()
        };
        assert!(take(&[first.clone(), newer]).contains("does not follow"));
        let empty = FilePart {
            data: Bytes::new(),
            ..second.clone()
        };
        assert!(take(&[first.clone(), empty]).contains("empty"));
        let mut data = second.data.to_vec();
        data[5] ^= 1;
        let flipped = FilePart {
            data: data.into(),
            ..second
        };
        assert!(take(&[first, flipped]).contains("digest"));
    }
}
