//! Rows of a Parquet or Arrow file, as batches of columns.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_ipc::reader::FileReader;
use arrow_schema::{ArrowError, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pmpo_types::ConfigError;

use crate::columns::Columns;
use crate::error::{DataError, InFile, unreadable};

/// Rows that are decoded at a time.
const BATCH: usize = 8192;

/// How a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Parquet,
    Arrow,
}

impl Encoding {
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Parquet => "a whole Parquet file",
            Self::Arrow => "a whole Arrow file",
        }
    }

    /// Names and types of the columns.
    pub(crate) fn schema(self, path: &Path) -> Result<Schema, DataError> {
        let file = File::open(path).in_file(path)?;
        let schema = || -> Result<Schema, ArrowError> {
            match self {
                Self::Parquet => {
                    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
                    Ok(builder.schema().as_ref().clone())
                }
                Self::Arrow => {
                    let reader = FileReader::try_new(BufReader::new(file), None)?;
                    Ok(reader.schema().as_ref().clone())
                }
            }
        };
        guarded(self.expected(), schema).in_file(path)
    }

    /// The columns of these names, those that are there; of all rows, or of some of a Parquet file.
    pub(crate) fn read<'a>(
        self,
        path: &'a Path,
        names: &[&str],
        rows: Option<Range<usize>>,
    ) -> Result<Columns<'a>, DataError> {
        let file = File::open(path).in_file(path)?;
        let batches = || match self {
            Self::Parquet => parquet(file, names, rows),
            Self::Arrow => FileReader::try_new(BufReader::new(file), None)?.collect(),
        };
        let batches = guarded(self.expected(), batches).in_file(path)?;
        Ok(Columns { path, batches })
    }
}

fn parquet(
    file: File,
    names: &[&str],
    rows: Option<Range<usize>>,
) -> Result<Vec<RecordBatch>, ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let fields = builder.schema().fields().iter().enumerate();
    let wanted = fields.filter(|(_, field)| names.contains(&field.name().as_str()));
    let wanted: Vec<usize> = wanted.map(|(index, _)| index).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let builder = builder.with_projection(mask).with_batch_size(BATCH);
    match rows {
        Some(rows) => builder.with_offset(rows.start).with_limit(rows.len()),
        None => builder,
    }
    .build()?
    .collect()
}

/// What a decoder of others gives. Its refusals are ours, and so are its panics on bytes that nobody wrote, as
/// those of Arrow's reader where a file points beyond its own buffers.
pub(crate) fn guarded<T, E: ToString>(
    expected: &str,
    decode: impl FnOnce() -> Result<T, E>,
) -> Result<T, ConfigError> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.or_else(|error| unreadable(expected, error)),
        Err(_) => unreadable(expected, "bytes that its decoder cannot make sense of"),
    }
}
