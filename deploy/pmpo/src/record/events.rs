//! TensorBoard's event files: records of TensorFlow's `TFRecord` format (`lib/io/record_writer.h`), each
//! an `Event` (`tensorflow/core/util/event.proto`) with the scalars of one moment.
//!
//! A record is `length: u64, masked CRC32C of the length: u32, bytes, masked CRC32C of the bytes: u32`, all
//! little-endian. The file grows in place, record by record; a record that was cut off by a crash ends the
//! file for its readers, of which this module has one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::watch::files::read_bounded;

/// Name of the folder in a run's folder.
pub(crate) const FOLDER: &str = "tensorboard";
/// What TensorBoard looks for in a file's name.
const PREFIX: &str = "events.out.tfevents.";
/// With this version a restart drops what it overtakes, and nothing else does.
const VERSION: &str = "brain.Event:2";
/// `SessionLog.SessionStatus.START`: events of this step and later ones, of before, are void.
const START: i32 = 1;

/// Bytes of a record beside its content: length, its checksum, the content's checksum.
const HEADER: usize = 12;
const FOOTER: usize = 4;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Unix time in seconds.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A scalar of one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Unix time in seconds.
    pub(crate) wall_time: f64,
    /// Environment steps.
    pub(crate) step: u64,
    pub(crate) value: f32,
}

/// Scalars by tag, each in the order in which they were written.
pub(crate) type Series = BTreeMap<String, Vec<Point>>;

/// An event file that is being written.
pub(crate) struct EventWriter {
    file: File,
    /// Bytes of whole records.
    length: u64,
}

impl EventWriter {
    /// A new file in the run's folder, of a run that goes on from `step`: what former files have of this step
    /// and later ones is void.
    ///
    /// # Errors
    /// It cannot be made; there is none then.
    pub(crate) fn create(run_dir: &Path, step: u64) -> io::Result<Self> {
        let folder = run_dir.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let (seconds, process) = (now() as u64, std::process::id());
        // Names sort in the order of time.
        let name = |n: u32| format!("{PREFIX}{seconds:010}.pmpo.{process}.{n}");
        let mut made = (0..).map(|n| {
            let path = folder.join(name(n));
            File::create_new(&path).map(|file| (file, path))
        });
        let taken = |error: &io::Error| error.kind() == ErrorKind::AlreadyExists;
        let (file, path) = made
            .find(|made| !made.as_ref().is_err_and(taken))
            .expect("there are more numbers than files")?;
        let mut writer = Self { file, length: 0 };
        let begun = writer.begin(step);
        if begun.is_err() {
            // The next attempt makes another.
            fs::remove_file(&path)?;
        }
        begun.map(|()| writer)
    }

    fn begin(&mut self, step: u64) -> io::Result<()> {
        self.append(&Event {
            wall_time: now(),
            file_version: Some(VERSION.to_owned()),
            ..Event::default()
        })?;
        self.append(&Event {
            wall_time: now(),
            step: step as i64,
            session_log: Some(SessionLog { status: START }),
            ..Event::default()
        })
    }

    /// Scalars of one moment, those alone that are finite.
    ///
    /// # Errors
    /// The file cannot be written; it is as before then.
    pub(crate) fn write(&mut self, step: u64, scalars: &[(String, f64)]) -> io::Result<()> {
        let values = scalars.iter().map(|(tag, value)| Scalar {
            tag: tag.clone(),
            simple_value: *value as f32,
        });
        let values: Vec<_> = values.filter(|s| s.simple_value.is_finite()).collect();
        self.append(&Event {
            wall_time: now(),
            step: step as i64,
            summary: Some(Summary { values }),
            ..Event::default()
        })
    }

    fn append(&mut self, event: &Event) -> io::Result<()> {
        let content = event.encode_to_vec();
        let length = (content.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(HEADER + content.len() + FOOTER);
        record.extend(length);
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(&content);
        record.extend(masked_crc32c(&content).to_le_bytes());
        if let Err(error) = self.file.write_all(&record) {
            // Half a record would hide all that comes after it.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += record.len() as u64;
        Ok(())
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// The scalars of a run, at most `limit` bytes of its files, the first ones; none where there is no file.
///
/// # Errors
/// Those of the file system. Damage is none: what is before it counts.
pub(crate) fn read(run_dir: &Path, limit: u64) -> io::Result<Series> {
    let folder = run_dir.join(FOLDER);
    let mut names = Vec::new();
    match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        entries => {
            for entry in entries? {
                let name = entry?.file_name();
                names.extend(
                    name.to_str()
                        .filter(|n| n.starts_with(PREFIX))
                        .map(str::to_owned),
                );
            }
        }
    }
    names.sort();
    let (mut series, mut left) = (Series::new(), limit);
    for name in names {
        let Some(bytes) = read_bounded(&folder.join(name), left)? else {
            continue;
        };
        left -= bytes.len() as u64;
        events(&bytes).for_each(|event| take_in(&mut series, event));
    }
    Ok(series)
}

fn take_in(series: &mut Series, event: Event) {
    let step = u64::try_from(event.step).unwrap_or_default();
    if event.session_log.is_some_and(|log| log.status == START) {
        for points in series.values_mut() {
            points.retain(|point| point.step < step);
        }
    }
    for Scalar { tag, simple_value } in event.summary.into_iter().flat_map(|s| s.values) {
        series.entry(tag).or_default().push(Point {
            wall_time: event.wall_time,
            step,
            value: simple_value,
        });
    }
}

/// The events of a file, up to its end or the first that is damaged.
fn events(mut bytes: &[u8]) -> impl Iterator<Item = Event> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let (length, checksum) = header.split_at(8);
        let is_whole = |bytes: &[u8], sum: &[u8]| masked_crc32c(bytes).to_le_bytes() == *sum;
        if !is_whole(length, checksum) {
            return None;
        }
        let length = u64::from_le_bytes(length.try_into().ok()?);
        let (content, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let (checksum, rest) = rest.split_at_checked(FOOTER)?;
        if !is_whole(content, checksum) {
            return None;
        }
        bytes = rest;
        Event::decode(content).ok()
    })
}

/// CRC32C, rotated and offset, as TensorFlow stores checksums of bytes that hold checksums.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The Castagnoli polynomial, reflected; RFC 3720, appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (0x82f6_3b78 * (value & 1));
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let step = |crc: u32, &byte: &u8| (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize];
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 20;

    fn scalars(value: f64) -> Vec<(String, f64)> {
        vec![("a".to_owned(), value), ("b/c".to_owned(), -value)]
    }

    fn steps(series: &Series, tag: &str) -> Vec<u64> {
        series[tag].iter().map(|point| point.step).collect()
    }

    fn only_file(run_dir: &Path) -> std::path::PathBuf {
        let mut entries = fs::read_dir(run_dir.join(FOLDER)).unwrap();
        let path = entries.next().unwrap().unwrap().path();
        assert!(entries.next().is_none());
        path
    }

    /// RFC 3720, appendix B.4, and TensorFlow's `crc32c_test.cc` for the mask's inverse.
    #[test]
    fn checksums_are_castagnolis() {
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, expected) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
        ] {
            assert_eq!(crc32c(bytes), expected, "{bytes:?}");
        }
        let masked = masked_crc32c(b"123456789");
        assert_eq!(
            masked.wrapping_sub(0xa282_ead8).rotate_left(15),
            0xe306_9283
        );
    }

    #[test]
    fn what_is_written_is_read_back_in_order_without_what_is_not_finite() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(read(run.path(), LIMIT).unwrap(), Series::new());
        let mut writer = EventWriter::create(run.path(), 0).unwrap();
        for step in [10, 20, 30] {
            writer.write(step, &scalars(step as f64)).unwrap();
        }
        writer
            .write(40, &[("a".to_owned(), f64::NAN), ("b/c".to_owned(), 1.0)])
            .unwrap();
        let series = read(run.path(), LIMIT).unwrap();
        assert_eq!(steps(&series, "a"), [10, 20, 30]);
        assert_eq!(steps(&series, "b/c"), [10, 20, 30, 40]);
        assert_eq!(series["b/c"][1].value, -20.0);
        assert!((series["a"][0].wall_time - now()).abs() < 60.0);
    }

    #[test]
    fn a_run_that_goes_on_voids_what_it_overtakes() {
        let run = tempfile::tempdir().unwrap();
        let mut first = EventWriter::create(run.path(), 0).unwrap();
        for step in [10, 20, 30] {
            first.write(step, &scalars(1.0)).unwrap();
        }
        let mut second = EventWriter::create(run.path(), 20).unwrap();
        second.write(25, &scalars(2.0)).unwrap();
        assert_eq!(steps(&read(run.path(), LIMIT).unwrap(), "a"), [10, 25]);
    }

    #[test]
    fn damage_ends_a_file_and_a_limit_its_reading() {
        let run = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(run.path(), 0).unwrap();
        for step in [10, 20, 30] {
            writer.write(step, &scalars(1.0)).unwrap();
        }
        let path = only_file(run.path());
        let bytes = fs::read(&path).unwrap();
        assert_eq!(
            steps(&read(run.path(), bytes.len() as u64 - 1).unwrap(), "a"),
            [10, 20]
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let found = events(&damaged).count();
            assert!(found < 5, "byte {at} changed and nothing noticed");
        }
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert_eq!(steps(&read(run.path(), LIMIT).unwrap(), "a"), [10, 20]);
    }
}
