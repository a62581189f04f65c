//! Where LeRobot's episodes are: the tables of `meta/episodes`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::error::{DataError, InFile, refused};
use crate::table::Encoding;

/// Where an episode is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) chunk: usize,
    pub(super) file: usize,
    /// Its first row in the file.
    pub(super) start: usize,
    pub(super) steps: usize,
}

impl Place {
    /// The file that it is in.
    pub(super) fn path(&self) -> String {
        data_path(self.chunk, self.file)
    }
}

pub(super) fn data_path(chunk: usize, file: usize) -> String {
    format!("data/chunk-{chunk:03}/file-{file:03}.parquet")
}

/// Where each episode is, by the tables of `meta/episodes`.
pub(super) fn places(folder: &Path) -> Result<Vec<Place>, DataError> {
    let mut places: Vec<Place> = Vec::new();
    // The first row of each file, counted over all files.
    let mut starts = HashMap::new();
    for path in tables(&folder.join("meta/episodes"))? {
        let names = [
            "episode_index",
            "length",
            "data/chunk_index",
            "data/file_index",
            "dataset_from_index",
        ];
        let columns = Encoding::Parquet.read(&path, &names, None)?;
        let column = |name: &str| columns.numbers::<f64>(&[name.to_owned()], 1);
        let [index, length, chunk, file, from] = names.map(column);
        let (index, length, chunk, file, from) = (index?, length?, chunk?, file?, from?);
        for row in 0..columns.rows() {
            let first = *starts
                .entry((chunk[row] as usize, file[row] as usize))
                .or_insert(from[row]);
            let place = Place {
                chunk: chunk[row] as usize,
                file: file[row] as usize,
                start: (from[row] - first) as usize,
                steps: length[row] as usize,
            };
            let fits = index[row] == places.len() as f64 && from[row] >= first;
            if !fits || place.steps == 0 || place.start.max(place.steps) > u32::MAX as usize {
                let expected = format!("episode {} with its place", places.len());
                let got = format!(
                    "episode {} of {} steps at {}",
                    index[row], length[row], from[row]
                );
                return refused(&path, format!("row {row}"), expected, got);
            }
            places.push(place);
        }
    }
    Ok(places)
}

/// The Parquet files in the folders of a folder, in the order of their names.
fn tables(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut found = Vec::new();
    for chunk in entries(folder)? {
        let files = entries(&chunk)?.into_iter();
        found.extend(files.filter(|file| file.extension().is_some_and(|e| e == "parquet")));
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(folder).in_file(folder)?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.in_file(folder)?;
    paths.sort();
    Ok(paths)
}
