//! The file that `torch.save` writes for a state dict: an uncompressed ZIP archive with a pickle, which names
//! the tensors, and a file of raw numbers a tensor (PyTorch's `torch/serialization.py`, `_save`).

use anyhow::{Result, ensure};

/// A tensor of a state dict.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// The archive's bytes.
pub(super) fn archive(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut zip = Zip::default();
    zip.file("policy/data.pkl", &pickle(entries)?)?;
    zip.file("policy/byteorder", b"little")?;
    for (index, entry) in entries.iter().enumerate() {
        let bytes = entry.values.iter().flat_map(|value| value.to_le_bytes());
        let bytes: Vec<u8> = bytes.collect();
        zip.file(&format!("policy/data/{index}"), &bytes)?;
    }
    zip.file("policy/version", b"3\n")?;
    zip.finish()
}

/// `{name: torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())}`, in pickle's
/// protocol 2; opcodes as in Python's `pickletools`.
fn pickle(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut out = vec![0x80, 2];
    out.extend(b"}(");
    for (index, entry) in entries.iter().enumerate() {
        text(&mut out, &entry.name)?;
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        // What `persistent_load` gets: where the numbers are.
        text(&mut out, "storage")?;
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &index.to_string())?;
        text(&mut out, "cpu")?;
        integer(&mut out, entry.values.len())?;
        out.extend(b"tQ");
        integer(&mut out, 0)?;
        tuple(&mut out, &entry.shape)?;
        tuple(&mut out, &strides(&entry.shape))?;
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    Ok(out)
}

/// Elements between neighbours along each axis, row-major.
fn strides(shape: &[usize]) -> Vec<usize> {
    let inner = |axis: usize| shape[axis + 1..].iter().product();
    (0..shape.len()).map(inner).collect()
}

/// `BINUNICODE`.
fn text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    out.push(b'X');
    out.extend(u32::try_from(text.len())?.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

/// `BININT`.
fn integer(out: &mut Vec<u8>, value: usize) -> Result<()> {
    out.push(b'J');
    out.extend(i32::try_from(value)?.to_le_bytes());
    Ok(())
}

/// `MARK`, the numbers, `TUPLE`.
fn tuple(out: &mut Vec<u8>, values: &[usize]) -> Result<()> {
    out.push(b'(');
    for &value in values {
        integer(out, value)?;
    }
    out.push(b't');
    Ok(())
}

/// Files begin at multiples of this, as PyTorch's do, so that they can be mapped into memory.
const ALIGNMENT: usize = 64;

/// An archive of files as they are (APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16).
#[derive(Default)]
struct Zip {
    files: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Zip {
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let offset = u32::try_from(self.files.len())?;
        let mut header = Vec::new();
        // Version needed, flags, method: stored, time and date: 1980-01-01.
        for field in [10u16, 0, 0, 0, 0x21] {
            header.extend(field.to_le_bytes());
        }
        header.extend(crc32fast::hash(bytes).to_le_bytes());
        let size = u32::try_from(bytes.len())?.to_le_bytes();
        header.extend(size);
        header.extend(size);
        header.extend(u16::try_from(name.len())?.to_le_bytes());
        // An extra field of zeros up to where the bytes begin; it has an id and a length itself.
        let unpadded = self.files.len() + 30 + name.len() + 4;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        self.files.extend(b"PK\x03\x04");
        self.files.extend(&header);
        self.files.extend(u16::try_from(padding + 4)?.to_le_bytes());
        self.files.extend(name.as_bytes());
        self.files.extend(b"FB");
        self.files.extend(u16::try_from(padding)?.to_le_bytes());
        self.files.resize(self.files.len() + padding, 0);
        self.files.extend(bytes);

        self.directory.extend(b"PK\x01\x02\x0a\0");
        self.directory.extend(&header);
        // No extra field and no comment here, on the first disk, without attributes.
        self.directory.extend([0; 12]);
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count += 1;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        let (offset, size) = (self.files.len(), self.directory.len());
        ensure!(
            offset < u32::MAX as usize,
            "the policy is too large for a ZIP archive"
        );
        self.files.extend(&self.directory);
        self.files.extend(b"PK\x05\x06\0\0\0\0");
        self.files.extend(self.count.to_le_bytes());
        self.files.extend(self.count.to_le_bytes());
        self.files.extend(u32::try_from(size)?.to_le_bytes());
        self.files.extend(u32::try_from(offset)?.to_le_bytes());
        self.files.extend([0; 2]);
        Ok(self.files)
    }
}
