//! Learning curves: mean evaluation return against environment steps, or learner steps where nobody acts, with
//! a band of one standard deviation over the evaluation's episodes; as SVG while a run goes, as SVG or PNG on
//! request, one line a run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use pmpo_figures::{Figure, Horizontal, Line, Panel, Point};
use pmpo_learner::progress::{self, Row};

/// Name of the figure in a run's folder.
pub(crate) const FILE: &str = "learning_curve.svg";

/// What returns are drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    EnvironmentSteps,
    /// Of runs in which nobody acts.
    LearnerSteps,
}

impl Axis {
    /// That of runs with these rows.
    pub(crate) fn of<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let (mut acts, mut learns) = (false, false);
        for row in rows {
            acts |= row.env_steps > 0;
            learns |= row.learner_steps > 0;
        }
        if learns && !acts {
            Self::LearnerSteps
        } else {
            Self::EnvironmentSteps
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::EnvironmentSteps => "environment steps",
            Self::LearnerSteps => "learner steps",
        }
    }

    pub(crate) fn of_row(self, row: &Row) -> u64 {
        match self {
            Self::EnvironmentSteps => row.env_steps,
            Self::LearnerSteps => row.learner_steps,
        }
    }
}

/// One run in a figure.
struct Curve<'a> {
    label: String,
    rows: &'a [Row],
}

/// Draws the curves of `run_dirs` into one figure; `out` ends in `.svg` or `.png`.
///
/// # Errors
/// A folder has no readable `progress.csv`, or the figure cannot be drawn or written.
pub(crate) fn plot(run_dirs: &[PathBuf], out: &Path) -> Result<()> {
    let rows = run_dirs
        .iter()
        .map(|run_dir| progress::read(run_dir))
        .collect::<Result<Vec<_>, _>>()?;
    let curves: Vec<Curve<'_>> = labels(run_dirs)
        .into_iter()
        .zip(&rows)
        .map(|(label, rows)| Curve { label, rows })
        .collect();
    write(&curves, out)
}

/// Draws the curve of a run into its folder.
pub(crate) fn draw(run_dir: &Path) -> Result<()> {
    plot(&[run_dir.to_owned()], &run_dir.join(FILE))
}

/// The folders' own names, with as many of the folders above them as it takes to tell them apart; a label
/// is a colour. One that is given twice has a number.
fn labels(run_dirs: &[PathBuf]) -> Vec<String> {
    let resolved: Vec<PathBuf> = run_dirs
        .iter()
        .map(|run_dir| run_dir.canonicalize().unwrap_or_else(|_| run_dir.clone()))
        .collect();
    let deepest = resolved.iter().map(|path| path.components().count());
    let deepest = deepest.max().unwrap_or(1);
    let others = resolved.iter().collect::<BTreeSet<_>>().len();
    let named = |parts: usize| -> Vec<String> {
        let tail = |path: &PathBuf| {
            let count = path.components().count();
            let kept: PathBuf = path
                .components()
                .skip(count.saturating_sub(parts))
                .collect();
            kept.display().to_string()
        };
        resolved.iter().map(tail).collect()
    };
    let apart = |labels: &Vec<String>| labels.iter().collect::<BTreeSet<_>>().len() == others;
    let mut labels = (1..=deepest).map(named).find(apart).unwrap_or_default();
    for later in 1..labels.len() {
        let times = labels[..later]
            .iter()
            .filter(|label| **label == labels[later])
            .count();
        if times > 0 {
            labels[later] += &format!(" ({})", times + 1);
        }
    }
    labels
}

/// Draws `curves` into the file `out`.
fn write(curves: &[Curve<'_>], out: &Path) -> Result<()> {
    let axis = Axis::of(curves.iter().flat_map(|curve| curve.rows));
    let point = |row: &Row| Point {
        x: axis.of_row(row) as f64,
        y: row.eval_return_mean,
        low: row.eval_return_mean - row.eval_return_std,
        high: row.eval_return_mean + row.eval_return_std,
    };
    let line = |curve: &Curve<'_>| Line {
        label: curve.label.clone(),
        detail: String::new(),
        points: curve.rows.iter().map(point).collect(),
    };
    let panel = Panel {
        title: String::new(),
        x_label: axis.label().to_owned(),
        y_label: "mean evaluation return".to_owned(),
        horizontal: Horizontal::Counts,
        logarithmic: false,
        lines: curves.iter().map(line).collect(),
    };
    let figure = Figure {
        panels: vec![panel],
        columns: 1,
        note: String::new(),
    };
    Ok(figure.write(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pmpo_learner::progress::Progress;

    fn row(learner_steps: u64, eval_return_mean: f64) -> Row {
        Row {
            wall_s: 0.0,
            env_steps: learner_steps,
            learner_steps,
            policy_version: 1,
            eval_return_mean,
            eval_return_std: 0.25,
            train_return_mean: None,
        }
    }

    fn run(parent: &Path, name: &str, returns: &[f64]) -> PathBuf {
        let run_dir = parent.join(name);
        std::fs::create_dir(&run_dir).unwrap();
        let mut progress = Progress::create(&run_dir).unwrap();
        for (i, &value) in returns.iter().enumerate() {
            progress.append(row(1000 * i as u64, value)).unwrap();
        }
        run_dir
    }

    #[test]
    fn several_runs_are_drawn_with_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [
            run(folder.path(), "first-run", &[1.0, 300.0, 800.0]),
            run(folder.path(), "second-run", &[2.0, 250.0]),
            run(folder.path(), "empty-run", &[]),
        ];
        let out = folder.path().join("curve.svg");
        plot(&runs, &out).unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        for expected in ["first-run", "second-run", "environment steps", "polyline"] {
            assert!(text.contains(expected), "no `{expected}` in the figure");
        }
    }

    #[test]
    fn where_nobody_acts_learner_steps_are_the_axis() {
        let row = |env_steps, learner_steps| Row {
            env_steps,
            ..row(learner_steps, 0.0)
        };
        assert_eq!(Axis::of(&[row(0, 0), row(0, 10)]), Axis::LearnerSteps);
        assert_eq!(Axis::of(&[row(0, 0), row(8, 10)]), Axis::EnvironmentSteps);
        assert_eq!(Axis::of(&[row(0, 0)]), Axis::EnvironmentSteps);
        assert_eq!(Axis::LearnerSteps.of_row(&row(8, 10)), 10);
    }

    #[test]
    fn runs_of_one_name_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for parent in ["a", "b"] {
            std::fs::create_dir(path(parent)).unwrap();
            run(&path(parent), "seed-1", &[1.0]);
        }
        let runs = [path("a/seed-1"), path("b/seed-1")];
        assert_eq!(labels(&runs[..1]), ["seed-1"]);
        assert_eq!(labels(&runs), ["a/seed-1", "b/seed-1"]);
        let twice = [runs[0].clone(), runs[0].join("."), runs[1].clone()];
        assert_eq!(labels(&twice), ["a/seed-1", "a/seed-1 (2)", "b/seed-1"]);
    }

    /// Black on white is the text and the axes alone; without a font there is far less of it.
    #[test]
    fn a_png_has_text() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [run(folder.path(), "a", &[1.0, 300.0, 800.0])];
        let out = folder.path().join("curve.png");
        plot(&runs, &out).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&out).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let (width, height) = (900, 560);
        assert_eq!(pixels.len(), (width * height * 3) as usize);
        // Below the axis there is nothing but labels.
        let labels = &pixels[((height - 40) * width * 3) as usize..];
        let dark = labels
            .chunks_exact(3)
            .filter(|rgb| rgb.iter().all(|&c| c < 128))
            .count();
        assert!(dark > 200, "{dark} dark pixels below the axis");
    }

    #[test]
    fn other_formats_and_missing_runs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [run(folder.path(), "a", &[1.0])];
        let message = plot(&runs, &folder.path().join("curve.pdf"))
            .unwrap_err()
            .to_string();
        assert!(message.contains(".svg or .png"), "{message}");
        let missing = [folder.path().join("b")];
        let message = plot(&missing, &folder.path().join("c.svg"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("progress.csv"), "{message}");
    }
}
