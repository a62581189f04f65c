//! What the bandit experiments came to: a table, and the paper's Figure 1.

use std::fmt;

use serde::Serialize;

use super::{Algorithm, Function, Recorded};
use pmpo_figures::{Figure, Horizontal, Line, Panel, Point};

/// The powers of ten that a report speaks of.
const EXPONENTS: std::ops::RangeInclusive<i32> = -12..=9;
/// A median that has fallen by this factor is progress.
const PROGRESS: f64 = 10.0;

/// All functions.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Number of coordinates.
    pub dimension: usize,
    /// Number of seeds.
    pub seeds: usize,
    /// Iterations, each of four samples.
    pub iterations: usize,
    /// A report for each function.
    pub functions: Vec<FunctionReport>,
}

/// One function.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionReport {
    /// The function.
    pub function: Function,
    /// A report for each algorithm.
    pub algorithms: Vec<AlgorithmReport>,
}

/// What an algorithm reached on a function.
#[derive(Clone, Debug, Serialize)]
pub struct AlgorithmReport {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Median over seeds of the best value of the first iteration.
    pub start_median: f64,
    /// Median over seeds of the best value.
    pub best_median: f64,
    /// The best value of each seed.
    pub best_by_seed: Vec<f64>,
    /// The least power of ten that every seed reached, as its exponent.
    pub all_reach: Option<i32>,
    /// The greatest power of ten that no seed reached, as its exponent.
    pub none_reaches: Option<i32>,
    /// The course, for the figure.
    #[serde(skip)]
    course: Vec<Recorded>,
}

impl FunctionReport {
    pub(crate) fn new(
        function: Function,
        courses: impl Iterator<Item = (Algorithm, Vec<Recorded>)>,
    ) -> Self {
        Self {
            function,
            algorithms: courses
                .map(|(algorithm, course)| AlgorithmReport::new(algorithm, course))
                .collect(),
        }
    }
}

impl AlgorithmReport {
    fn new(algorithm: Algorithm, course: Vec<Recorded>) -> Self {
        let best = course[course.len() - 1].best.clone();
        let [least, median, greatest] = spread(&best);
        let power = |exponent: &i32| 10f64.powi(*exponent);
        Self {
            algorithm,
            start_median: spread(&course[0].best)[1],
            best_median: median,
            all_reach: EXPONENTS.clone().find(|e| greatest <= power(e)),
            none_reaches: EXPONENTS.clone().rev().find(|e| least > power(e)),
            best_by_seed: best,
            course,
        }
    }

    /// Whether the median fell at least tenfold.
    pub fn makes_progress(&self) -> bool {
        self.best_median * PROGRESS <= self.start_median
    }
}

impl Report {
    /// The paper's Figure 1: a panel a function, a line an algorithm.
    pub fn figure(&self) -> Figure {
        let point = |recorded: &Recorded| {
            let [low, y, high] = spread(&recorded.best);
            Point {
                x: recorded.iteration as f64,
                y,
                low,
                high,
            }
        };
        let line = |report: &AlgorithmReport| Line {
            label: report.algorithm.to_string(),
            detail: String::new(),
            points: report.course.iter().map(point).collect(),
        };
        let panel = |report: &FunctionReport| Panel {
            title: report.function.to_string(),
            x_label: "iterations".to_owned(),
            y_label: "best value so far".to_owned(),
            horizontal: Horizontal::Counts,
            logarithmic: true,
            lines: report.algorithms.iter().map(line).collect(),
        };
        let Self {
            dimension, seeds, ..
        } = self;
        Figure {
            panels: self.functions.iter().map(panel).collect(),
            columns: 3,
            note: format!(
                "{dimension} dimensions, {seeds} seeds; line: median, band: from the least seed to \
                 the greatest; four samples an iteration"
            ),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            dimension,
            seeds,
            iterations,
            ..
        } = self;
        writeln!(
            f,
            "{dimension} dimensions, {seeds} seeds, {iterations} iterations of four samples; best \
             values: median (least to greatest)"
        )?;
        for FunctionReport {
            function,
            algorithms,
        } in &self.functions
        {
            for report in algorithms {
                let [least, median, greatest] = spread(&report.best_by_seed);
                write!(
                    f,
                    "{function:<11}{:<8} {:8.1e} -> {median:8.1e} ({least:.1e} to {greatest:.1e}); ",
                    report.algorithm, report.start_median
                )?;
                match report.all_reach {
                    Some(exponent) => write!(f, "all seeds reach 1e{exponent}")?,
                    None => write!(f, "not all seeds reach 1e{}", EXPONENTS.end())?,
                }
                if let Some(exponent) = report.none_reaches {
                    write!(f, ", none 1e{exponent}")?;
                }
                if !report.makes_progress() {
                    write!(f, "; NO PROGRESS")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Least, median and greatest.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (below, above) = ((sorted.len() - 1) / 2, sorted.len() / 2);
    let median = (sorted[below] + sorted[above]) / 2.0;
    [sorted[0], median, sorted[sorted.len() - 1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(start: &[f64], end: &[f64]) -> AlgorithmReport {
        let recorded = |(iteration, best): (usize, &[f64])| Recorded {
            iteration,
            best: best.to_vec(),
        };
        AlgorithmReport::new(
            Algorithm::PmpoR,
            [(1, start), (100, end)].map(recorded).to_vec(),
        )
    }

    #[test]
    fn the_report_says_what_is_reached_and_what_is_not() {
        let report = report(&[50.0, 70.0, 10.0, 90.0], &[3e-3, 0.2, 0.05, 4e-3]);
        assert_eq!(report.start_median, 60.0);
        assert!((report.best_median - 0.027).abs() < 1e-12);
        assert_eq!((report.all_reach, report.none_reaches), (Some(0), Some(-3)));
        let text = Report {
            dimension: 2,
            seeds: 4,
            iterations: 100,
            functions: vec![FunctionReport {
                function: Function::Elli,
                algorithms: vec![report],
            }],
        }
        .to_string();
        assert!(text.ends_with("all seeds reach 1e0, none 1e-3\n"), "{text}");
    }

    #[test]
    fn a_median_that_hardly_falls_is_no_progress() {
        assert!(report(&[50.0], &[5.0]).makes_progress());
        assert!(!report(&[50.0], &[6.0]).makes_progress());
    }
}
