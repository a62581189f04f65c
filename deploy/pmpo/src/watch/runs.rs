//! The runs below one folder: those in it and, for sweeps, in the folders in it. Nothing outside of it is
//! read, and nothing is written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use pmpo_learner::RunOutcome;
use pmpo_learner::progress::{self, Row};
use pmpo_service::folder_lock::FolderLock;
use serde::Serialize;

use super::files::read_bounded;
use crate::record::events::{self, Point};
use crate::run_folder::{CONFIG, OUTCOME};

/// Entries that are looked at for runs, runs that are listed (the newest), and how deep they may lie.
const MAX_ENTRIES: usize = 10_000;
const MAX_RUNS: usize = 200;
const MAX_DEPTH: usize = 2;

/// Bytes of a run's files that are read.
const MAX_CONFIG_BYTES: u64 = 256 << 10;
const MAX_OUTCOME_BYTES: u64 = 64 << 10;
const MAX_LOCK_BYTES: u64 = 4 << 10;
const MAX_PROGRESS_BYTES: u64 = 8 << 20;
const MAX_EVENT_BYTES: u64 = 64 << 20;

/// Points that are handed out of a curve: more than a screen has columns for.
const MAX_ROWS: usize = 1000;
const MAX_POINTS: usize = 400;

/// A folder of runs.
pub(crate) struct Runs {
    root: PathBuf,
}

/// A run's folder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    /// Its path from the root.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// A process holds its folder.
    Running,
    /// It has an outcome.
    Ended,
    /// Neither: it was killed or failed.
    Broken,
}

/// A line in the list of runs.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) name: String,
    pub(crate) task: String,
    pub(crate) seed: Option<i64>,
    pub(crate) state: State,
    /// How it ended, in words.
    outcome: Option<String>,
    /// Unix times in seconds: of its configuration, and of its newest evaluation.
    began: f64,
    changed: f64,
    evaluations: usize,
    best: Option<f64>,
    pub(crate) last: Option<Row>,
}

impl Runs {
    /// # Errors
    /// There is no such folder.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        fs::read_dir(&root)?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The runs, those begun last first.
    pub(crate) fn list(&self) -> Vec<Run> {
        let mut found = Vec::new();
        let mut entries = MAX_ENTRIES;
        self.look_in(&self.root, MAX_DEPTH, &mut entries, &mut found);
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
        found.truncate(MAX_RUNS);
        found.into_iter().map(|(_, run)| run).collect()
    }

    fn look_in(
        &self,
        folder: &Path,
        depth: usize,
        entries: &mut usize,
        found: &mut Vec<(f64, Run)>,
    ) {
        // One that this user may not read holds no runs of theirs.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if *entries == 0 {
                return;
            }
            *entries -= 1;
            // Of links this is false.
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_folder || entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match self.run_at(&path) {
                Some(run) => found.push((modified(&path.join(CONFIG)), run)),
                None if depth > 1 => self.look_in(&path, depth - 1, entries, found),
                None => {}
            }
        }
    }

    /// The run in a folder below the root, if it is one's.
    pub(crate) fn run_at(&self, folder: &Path) -> Option<Run> {
        let is_run = fs::symlink_metadata(folder.join(CONFIG)).is_ok_and(|found| found.is_file());
        let name = folder.strip_prefix(&self.root).ok()?.to_str()?;
        (is_run && !name.is_empty()).then(|| Run {
            name: name.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// The run of a name that somebody sent.
    pub(crate) fn find(&self, name: &str) -> Option<Run> {
        let parts: Vec<&str> = name.split('/').collect();
        let plain =
            |part: &&str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
        if parts.len() > MAX_DEPTH || !parts.iter().all(plain) {
            return None;
        }
        let mut folder = self.root.clone();
        for part in parts {
            folder.push(part);
            // A link may lead out of the root.
            if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
                return None;
            }
        }
        self.run_at(&folder)
    }
}

impl Run {
    pub(crate) fn summary(&self) -> Summary {
        let rows = self.rows().unwrap_or_default();
        let config = self.config_table();
        let of_run = |key: &str| config.get("run")?.get(key);
        let outcome = self.outcome();
        let best = rows.iter().map(|row| row.eval_return_mean).reduce(f64::max);
        Summary {
            name: self.name.clone(),
            task: of_run("task")
                .and_then(|t| t.as_str())
                .unwrap_or_default()
                .to_owned(),
            seed: of_run("seed").and_then(toml::Value::as_integer),
            state: match &outcome {
                Some(_) => State::Ended,
                None if self.is_held() => State::Running,
                None => State::Broken,
            },
            outcome: outcome.map(|outcome| outcome.to_string()),
            began: modified(&self.folder.join(CONFIG)),
            changed: modified(&self.folder.join(progress::FILE)),
            evaluations: rows.len(),
            best,
            last: rows.last().cloned(),
        }
    }

    fn outcome(&self) -> Option<RunOutcome> {
        let bytes = read_bounded(&self.folder.join(OUTCOME), MAX_OUTCOME_BYTES);
        serde_json::from_slice(&bytes.ok()??).ok()
    }

    /// Whether a process goes on with it.
    pub(crate) fn is_running(&self) -> bool {
        self.outcome().is_none() && self.is_held()
    }

    fn is_held(&self) -> bool {
        let lock = fs::symlink_metadata(self.folder.join(".lock"));
        let usual = lock.is_ok_and(|found| found.is_file() && found.len() <= MAX_LOCK_BYTES);
        usual && FolderLock::holder(&self.folder).is_some()
    }

    /// Its evaluations, thinned out evenly where there are many.
    ///
    /// # Errors
    /// The file is there and is not what it should be.
    pub(crate) fn progress(&self) -> Result<Vec<Row>, String> {
        Ok(thinned(&self.rows()?, MAX_ROWS))
    }

    fn rows(&self) -> Result<Vec<Row>, String> {
        let path = self.folder.join(progress::FILE);
        match read_bounded(&path, MAX_PROGRESS_BYTES) {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(bytes)) => progress::parse(&path, &bytes).map_err(|error| error.to_string()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Scalars by tag, thinned out evenly.
    ///
    /// # Errors
    /// The event files cannot be read.
    pub(crate) fn series(&self) -> Result<BTreeMap<String, Vec<Plain>>, String> {
        let series = events::read(&self.folder, MAX_EVENT_BYTES)
            .map_err(|error| format!("{}: {error}", self.folder.display()))?;
        let plain = |point: Point| (point.wall_time, point.step, point.value);
        let thin = |points: Vec<Point>| {
            let kept = thinned(&points, MAX_POINTS);
            kept.into_iter().map(plain).collect()
        };
        Ok(series
            .into_iter()
            .map(|(tag, points)| (tag, thin(points)))
            .collect())
    }

    /// Every key of its configuration with its value in TOML.
    pub(crate) fn config(&self) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        flatten("", &self.config_table(), &mut keys);
        keys
    }

    fn config_table(&self) -> toml::Table {
        let bytes = read_bounded(&self.folder.join(CONFIG), MAX_CONFIG_BYTES);
        let bytes = bytes.ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&bytes).parse().unwrap_or_default()
    }
}

/// Unix time in seconds, environment steps, value.
pub(crate) type Plain = (f64, u64, f32);

fn flatten(prefix: &str, table: &toml::Table, keys: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(&format!("{prefix}{key}."), inner, keys),
            leaf => drop(keys.insert(format!("{prefix}{key}"), leaf.to_string())),
        }
    }
}

/// At most `limit` and one, the last among them.
fn thinned<T: Clone>(points: &[T], limit: usize) -> Vec<T> {
    let stride = points.len().div_ceil(limit).max(1);
    let last = points.len().wrapping_sub(1);
    let kept = |&(i, _): &(usize, &T)| i.is_multiple_of(stride) || i == last;
    let kept = points.iter().enumerate().filter(kept);
    kept.map(|(_, point)| point.clone()).collect()
}

fn modified(path: &Path) -> f64 {
    let time = fs::symlink_metadata(path).and_then(|found| found.modified());
    let since = time
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, name: &str, toml: &str) -> PathBuf {
        let folder = root.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(CONFIG), toml).unwrap();
        folder
    }

    fn names(runs: &Runs) -> Vec<String> {
        let mut names: Vec<_> = runs.list().into_iter().map(|run| run.name).collect();
        names.sort();
        names
    }

    #[test]
    fn runs_are_found_two_deep_and_never_through_links_or_names_that_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let secret = make(outside.path(), "secret", "");
        let root = outside.path().join("runs");
        for name in [
            "a",
            "sweep/seed-1",
            "sweep/seed-2",
            "x/y/too-deep",
            ".hidden",
        ] {
            make(&root, name, "");
        }
        fs::create_dir(root.join("empty")).unwrap();
        std::os::unix::fs::symlink(&secret, root.join("link")).unwrap();
        fs::create_dir(root.join("linked")).unwrap();
        std::os::unix::fs::symlink(secret.join(CONFIG), root.join("linked").join(CONFIG)).unwrap();
        let runs = Runs::open(&root).unwrap();
        let expected = ["a", "sweep/seed-1", "sweep/seed-2"];
        assert_eq!(names(&runs), expected);
        for name in expected {
            assert_eq!(runs.find(name).unwrap().folder, runs.root().join(name));
        }
        let refused = [
            "",
            ".",
            "..",
            "../secret",
            "sweep/../a",
            "a/",
            "/a",
            "link",
            "linked",
            "empty",
            "x/y/too-deep",
            ".hidden",
            "sweep",
            "a\0",
            "none",
            "sweep//seed-1",
            "a/../../secret",
        ];
        for name in refused {
            assert_eq!(runs.find(name), None, "{name:?}");
        }
        let absolute = secret.display().to_string();
        assert_eq!(runs.find(&absolute), None);
        assert!(Runs::open(&root.join("none")).is_err());
    }

    #[test]
    fn files_that_are_missing_damaged_or_links_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let folder = make(
            root.path(),
            "a",
            "[run]\ntask = \"walker-walk\"\nseed = 3\n[b.c]\nd = [1]\n",
        );
        let runs = Runs::open(root.path()).unwrap();
        let run = runs.find("a").unwrap();
        let summary = run.summary();
        assert_eq!(
            (summary.task.as_str(), summary.seed),
            ("walker-walk", Some(3))
        );
        assert_eq!((summary.state, summary.evaluations), (State::Broken, 0));
        assert_eq!(run.config()["b.c.d"], "[1]");
        fs::write(folder.join(progress::FILE), "wall_s,env_steps\n1.0,x\n").unwrap();
        assert!(run.progress().unwrap_err().contains("line: 2"));
        assert_eq!(run.summary().evaluations, 0);
        fs::write(folder.join(CONFIG), [0xff, 0xfe]).unwrap();
        assert_eq!(run.summary().task, "");
        let target = root.path().join("target.csv");
        fs::rename(folder.join(progress::FILE), &target).unwrap();
        std::os::unix::fs::symlink(&target, folder.join(progress::FILE)).unwrap();
        assert_eq!(run.progress(), Ok(Vec::new()));
    }

    #[test]
    fn a_run_goes_on_while_a_process_holds_it_and_ends_with_an_outcome() {
        let root = tempfile::tempdir().unwrap();
        let folder = make(root.path(), "a", "");
        let run = Runs::open(root.path()).unwrap().find("a").unwrap();
        let lock = FolderLock::take(&folder, "a test").unwrap();
        assert_eq!(run.summary().state, State::Running);
        drop(lock);
        assert_eq!(run.summary().state, State::Broken);
        let outcome = "{\"reason\":\"env_steps\",\"learner_steps\":2,\"env_steps\":3,\
                       \"policy_version\":1,\"training_seconds\":4.0,\"last_return_mean\":5.0}";
        fs::write(folder.join(OUTCOME), outcome).unwrap();
        let summary = run.summary();
        assert_eq!(summary.state, State::Ended);
        let words = "reached its limit of environment steps after 3 environment steps and 2 learner \
                     steps in 4 s; last evaluation 5.0";
        assert_eq!(summary.outcome.as_deref(), Some(words));
    }

    #[test]
    fn curves_are_thinned_evenly_with_their_last_point() {
        let points: Vec<u32> = (0..1003).collect();
        let thin = thinned(&points, 100);
        assert_eq!(thin.len(), 93);
        assert_eq!((thin[1], thin[91], thin[92]), (11, 1001, 1002));
    }

    #[test]
    fn short_curves_stay_as_they_are() {
        assert_eq!(thinned(&[1, 2, 3], 3), [1, 2, 3]);
        assert!(thinned::<u32>(&[], 3).is_empty());
    }
}
