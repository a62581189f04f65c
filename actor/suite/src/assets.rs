//! Finds the Control Suite's model files, which `make setup` fetches.

use std::path::{Path, PathBuf};

use crate::SuiteError;

/// Environment variable that names the folder of the models.
pub const ASSETS_VARIABLE: &str = "PMPO_ASSETS";

const RELATIVE: &str = "third_party/dm_control/suite";

/// The folder with the suite's MJCF files: `PMPO_ASSETS` if it is set, otherwise
/// `third_party/dm_control/suite` in the workspace this crate was built from, beside the executable
/// or in a folder above it, or in the current folder.
///
/// # Errors
/// [`SuiteError::MissingAssets`] when no candidate holds the models.
pub fn directory() -> Result<PathBuf, SuiteError> {
    let searched = candidates();
    match searched
        .iter()
        .find(|candidate| candidate.join("cartpole.xml").is_file())
    {
        Some(found) => Ok(found.clone()),
        None => Err(SuiteError::MissingAssets { searched }),
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(chosen) = std::env::var_os(ASSETS_VARIABLE) {
        return vec![chosen.into()];
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let executable = std::env::current_exe().unwrap_or_default();
    let current = std::env::current_dir().unwrap_or_default();
    let mut found: Vec<PathBuf> = workspace
        .into_iter()
        .chain(executable.ancestors().skip(1))
        .chain([current.as_path()])
        .map(|base| base.join(RELATIVE))
        .collect();
    found.dedup();
    found
}
