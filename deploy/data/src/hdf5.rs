//! Rows of the datasets of an HDF5 file, as h5py writes them: flat or chunked, compressed or not.

use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5_pure::{Dataset, File};
use pmpo_types::ConfigError;

use crate::columns::Number;
use crate::error::{DataError, InFile};
use crate::table::guarded;

/// Deflate makes at best this many bytes of one: a file that promises more is damaged.
const MAX_RATIO: u64 = 1100;

/// An open file.
pub(crate) struct Hdf5 {
    path: PathBuf,
    file: File,
}

impl std::fmt::Debug for Hdf5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.path)
    }
}

impl Hdf5 {
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        std::fs::File::open(path).in_file(path)?;
        let file = guarded("a whole HDF5 file", || File::open_streaming(path)).in_file(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        guarded("a dataset", || self.file.dataset(name)).is_ok()
    }

    /// Rows of a dataset, and values a row.
    pub(crate) fn shape(&self, name: &str) -> Result<(usize, usize), DataError> {
        let shape = guarded("a dataset", || self.file.dataset(name)?.shape());
        let shape = shape
            .map_err(|error| error.within(name))
            .in_file(&self.path)?;
        let values = shape
            .iter()
            .try_fold(1_u64, |product, &n| product.checked_mul(n));
        let most = self.file.file_size().saturating_mul(MAX_RATIO);
        let refused = || {
            let expected = format!("a shape of rows, of at most {most} values");
            ConfigError::new(name, expected, format!("{shape:?}"))
        };
        let fits = values.is_some_and(|values| values <= most) && !shape.is_empty();
        fits.then(|| {
            (
                shape[0] as usize,
                shape[1..].iter().product::<u64>() as usize,
            )
        })
        .ok_or_else(refused)
        .in_file(&self.path)
    }

    /// `[rows, width]`, flat, of a dataset of numbers that has so many rows in all.
    pub(crate) fn numbers<T: Number>(
        &self,
        name: &str,
        rows: Range<usize>,
        shape: (usize, usize),
    ) -> Result<Vec<T>, DataError> {
        let read = |dataset: &Dataset| dataset.read_f64_rows(rows.start as u64, rows.len() as u64);
        let values = self.read(name, shape, "numbers", read)?;
        let wanted = (rows.len() * shape.1, "numbers");
        self.whole(name, values, wanted)
            .map(|values| values.into_iter().map(T::of).collect())
    }

    /// `[rows]` of a dataset of Booleans, which are bytes, that has so many rows in all.
    pub(crate) fn flags(
        &self,
        name: &str,
        rows: Range<usize>,
        total: usize,
    ) -> Result<Vec<bool>, DataError> {
        let read = |dataset: &Dataset| dataset.read_raw_rows(rows.start as u64, rows.len() as u64);
        let bytes = self.read(name, (total, 1), "Booleans", read)?;
        let bytes = self.whole(name, bytes, (rows.len(), "Booleans of a byte"))?;
        Ok(bytes.into_iter().map(|byte| byte != 0).collect())
    }

    fn read<T>(
        &self,
        name: &str,
        shape: (usize, usize),
        expected: &str,
        read: impl FnOnce(&Dataset) -> Result<Vec<T>, hdf5_pure::Error>,
    ) -> Result<Vec<T>, DataError> {
        let found = self.shape(name)?;
        if found != shape {
            let expected = format!("{} rows of {}", shape.0, shape.1);
            let got = format!("{} rows of {}", found.0, found.1);
            return Err(ConfigError::new(name, expected, got)).in_file(&self.path);
        }
        let values = guarded(expected, || read(&self.file.dataset(name)?));
        values
            .map_err(|error| error.within(name))
            .in_file(&self.path)
    }

    fn whole<T>(
        &self,
        name: &str,
        values: Vec<T>,
        (wanted, what): (usize, &str),
    ) -> Result<Vec<T>, DataError> {
        if values.len() == wanted {
            return Ok(values);
        }
        let expected = format!("{wanted} {what}");
        Err(ConfigError::new(name, expected, values.len())).in_file(&self.path)
    }
}
