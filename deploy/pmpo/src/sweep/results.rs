//! What the runs of a sweep came to: curves over seeds, and a table.

use std::fmt::Write;

use anyhow::Result;
use pmpo_figures::Point;
use pmpo_learner::progress::{self, Row};

use super::file::{Spread, SweepFile};
use super::job::{Job, State};
use crate::curve::Axis;

/// Places at which the curves of several seeds are averaged.
const GRID: usize = 100;

/// A number over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OverSeeds {
    pub(crate) mean: f64,
    /// Of the sample (`n - 1`); 0 for one seed.
    pub(crate) std: f64,
    least: f64,
    greatest: f64,
}

impl OverSeeds {
    fn new(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self {
            mean,
            std: (squares / (count - 1.0).max(1.0)).sqrt(),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            greatest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    pub(crate) fn point(&self, x: f64, spread: Spread) -> Point {
        let (low, high) = match spread {
            Spread::Std => (self.mean - self.std, self.mean + self.std),
            Spread::MinMax => (self.least, self.greatest),
        };
        Point {
            x,
            y: self.mean,
            low,
            high,
        }
    }
}

/// One seed's run, as far as it has come.
#[derive(Debug)]
struct Seed {
    seed: u64,
    rows: Vec<Row>,
    axis: Axis,
    env_steps: u64,
    wall_s: f64,
    finished: bool,
}

impl Seed {
    /// A run with at least one evaluation.
    fn read(job: &Job) -> Result<Option<Self>> {
        let state = job.state()?;
        if !job.run_dir.join(progress::FILE).is_file() {
            return Ok(None);
        }
        let rows = progress::read(&job.run_dir)?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        let (env_steps, wall_s) = match &state {
            State::Finished(outcome) => (outcome.env_steps, outcome.training_seconds),
            State::Interrupted | State::Fresh => (last.env_steps, last.wall_s),
        };
        Ok(Some(Self {
            seed: job.seed,
            env_steps,
            wall_s,
            finished: matches!(state, State::Finished(_)),
            axis: Axis::of(&rows),
            rows,
        }))
    }

    /// Where a row is on the curve.
    fn place(&self, row: &Row) -> u64 {
        self.axis.of_row(row)
    }

    /// Mean of the newest evaluations.
    fn last(&self, evaluations: usize) -> f64 {
        let rows = &self.rows[self.rows.len().saturating_sub(evaluations)..];
        rows.iter().map(|row| row.eval_return_mean).sum::<f64>() / rows.len() as f64
    }

    fn best(&self) -> f64 {
        let returns = self.rows.iter().map(|row| row.eval_return_mean);
        returns.fold(f64::NEG_INFINITY, f64::max)
    }

    /// Area under the curve, divided by its length: the mean return of the training.
    fn area(&self) -> f64 {
        let trapezoid = |pair: &[Row]| {
            let width = (self.place(&pair[1]) - self.place(&pair[0])) as f64;
            width * (pair[0].eval_return_mean + pair[1].eval_return_mean) / 2.0
        };
        let length = self.place(&self.rows[self.rows.len() - 1]) - self.place(&self.rows[0]);
        if length == 0 {
            return self.last(1);
        }
        self.rows.windows(2).map(trapezoid).sum::<f64>() / length as f64
    }

    /// The return at `x` steps, between evaluations by a straight line; `None` outside.
    fn at(&self, x: f64) -> Option<f64> {
        let place = |row: &Row| self.place(row) as f64;
        let after = self.rows.partition_point(|row| place(row) < x);
        let right = self.rows.get(after)?;
        let (x1, y1) = (place(right), right.eval_return_mean);
        if x1 == x {
            return Some(y1);
        }
        let left = &self.rows[after.checked_sub(1)?];
        let (x0, y0) = (place(left), left.eval_return_mean);
        Some(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
    }
}

/// All runs of one configuration.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) configuration: usize,
    name: String,
    seeds: Vec<Seed>,
    final_evaluations: usize,
}

impl Outcome {
    fn over_seeds(&self, of: impl Fn(&Seed) -> f64) -> Option<OverSeeds> {
        OverSeeds::new(&self.seeds.iter().map(of).collect::<Vec<_>>())
    }

    pub(crate) fn final_return(&self) -> Option<OverSeeds> {
        self.over_seeds(|seed| seed.last(self.final_evaluations))
    }

    /// Of its curve; `None` without data.
    pub(crate) fn axis(&self) -> Option<Axis> {
        self.seeds.first().map(|seed| seed.axis)
    }

    /// Number of seeds with data.
    pub(crate) fn seeds(&self) -> usize {
        self.seeds.len()
    }

    /// The mean curve where every finished seed has data, or every seed while none is finished; an
    /// unfinished one counts as far as it has come.
    pub(crate) fn curve(&self, spread: Spread) -> Vec<Point> {
        let finished = self.seeds.iter().any(|seed| seed.finished);
        let whole = || self.seeds.iter().filter(|seed| seed.finished == finished);
        let begin = whole().filter_map(|seed| Some(seed.place(seed.rows.first()?)));
        let end = whole().filter_map(|seed| Some(seed.place(seed.rows.last()?)));
        let (Some(begin), Some(end)) = (begin.max(), end.min()) else {
            return Vec::new();
        };
        let length = end.saturating_sub(begin) as f64;
        let place = |i: usize| begin as f64 + length * i as f64 / GRID as f64;
        let places = (0..=GRID).map(place);
        let point = |x: f64| {
            let values: Vec<f64> = self.seeds.iter().filter_map(|seed| seed.at(x)).collect();
            Some(OverSeeds::new(&values)?.point(x, spread))
        };
        places.filter_map(point).collect()
    }
}

/// All configurations, in the order of the file.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) outcomes: Vec<Outcome>,
}

impl Results {
    pub(crate) fn collect(file: &SweepFile, jobs: &[Job]) -> Result<Self> {
        let mut outcomes = Vec::new();
        for (configuration, entry) in file.configurations.iter().enumerate() {
            let of = jobs.iter().filter(|job| job.configuration == entry.name);
            let seeds = of.map(Seed::read).collect::<Result<Vec<_>>>()?;
            outcomes.push(Outcome {
                configuration,
                name: entry.name.clone(),
                seeds: seeds.into_iter().flatten().collect(),
                final_evaluations: file.final_evaluations,
            });
        }
        Ok(Self { outcomes })
    }

    /// A row a configuration; `final_by_seed` lists the seeds' own numbers.
    pub(crate) fn csv(&self) -> Result<String> {
        let mut text =
            "name,seeds,finished,final_mean,final_std,best_mean,best_std,auc_mean,auc_std,\
                        env_steps_mean,wall_s_mean,final_by_seed\n"
                .to_owned();
        for outcome in &self.outcomes {
            let finished = outcome.seeds.iter().filter(|seed| seed.finished).count();
            write!(text, "{},{},{finished}", outcome.name, outcome.seeds())?;
            for number in [
                outcome.final_return(),
                outcome.over_seeds(Seed::best),
                outcome.over_seeds(Seed::area),
            ] {
                match number {
                    Some(OverSeeds { mean, std, .. }) => write!(text, ",{mean},{std}")?,
                    None => text.push_str(",,"),
                }
            }
            for number in [
                outcome.over_seeds(|seed| seed.env_steps as f64),
                outcome.over_seeds(|seed| seed.wall_s),
            ] {
                match number {
                    Some(OverSeeds { mean, .. }) => write!(text, ",{mean}")?,
                    None => text.push(','),
                }
            }
            let seeds = outcome.seeds.iter();
            let finals: Vec<String> = seeds
                .map(|seed| format!("{}:{}", seed.seed, seed.last(outcome.final_evaluations)))
                .collect();
            writeln!(text, ",{}", finals.join(" "))?;
        }
        Ok(text)
    }

    /// The same for people: mean ± standard deviation over seeds.
    pub(crate) fn markdown(&self) -> String {
        let mut text = "| configuration | seeds (finished) | final return | best | area under the \
                        curve | environment steps | seconds |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
        for outcome in &self.outcomes {
            let finished = outcome.seeds.iter().filter(|seed| seed.finished).count();
            let spread = |number: Option<OverSeeds>| {
                number.map_or_else(
                    || "-".to_owned(),
                    |OverSeeds { mean, std, .. }| match outcome.seeds() {
                        1 => format!("{mean:.1}"),
                        _ => format!("{mean:.1} ± {std:.1}"),
                    },
                )
            };
            let mean = |number: Option<OverSeeds>| {
                number.map_or_else(|| "-".to_owned(), |number| format!("{:.0}", number.mean))
            };
            text.push_str(&format!(
                "| {} | {} ({finished}) | {} | {} | {} | {} | {} |\n",
                outcome.name,
                outcome.seeds(),
                spread(outcome.final_return()),
                spread(outcome.over_seeds(Seed::best)),
                spread(outcome.over_seeds(Seed::area)),
                mean(outcome.over_seeds(|seed| seed.env_steps as f64)),
                mean(outcome.over_seeds(|seed| seed.wall_s)),
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(number: u64, evaluations: &[(u64, f64)]) -> Seed {
        let row = |&(env_steps, eval_return_mean): &(u64, f64)| Row {
            wall_s: 1.0,
            env_steps,
            learner_steps: env_steps,
            policy_version: 1,
            eval_return_mean,
            eval_return_std: 0.0,
            train_return_mean: None,
        };
        let rows: Vec<Row> = evaluations.iter().map(row).collect();
        Seed {
            seed: number,
            env_steps: rows[rows.len() - 1].env_steps,
            axis: Axis::EnvironmentSteps,
            wall_s: 10.0 * number as f64,
            finished: true,
            rows,
        }
    }

    fn outcome() -> Outcome {
        Outcome {
            configuration: 0,
            name: "ar".to_owned(),
            seeds: vec![
                seed(1, &[(0, 0.0), (100, 10.0), (200, 20.0), (400, 20.0)]),
                seed(2, &[(0, 2.0), (200, 42.0), (404, 40.0)]),
            ],
            final_evaluations: 2,
        }
    }

    /// Finals 20 and 41, bests 20 and 42; areas (500 + 1500 + 4000) / 400 = 15 and
    /// (4400 + 8364) / 404 = 31.594; standard deviation of two numbers: their distance / sqrt 2.
    #[test]
    fn the_table_holds_means_and_deviations_over_seeds() {
        let outcome = outcome();
        let expect = |number: Option<OverSeeds>, mean: f64, distance: f64| {
            let OverSeeds {
                mean: m, std: s, ..
            } = number.unwrap();
            assert!((m - mean).abs() < 1e-9, "{m} against {mean}");
            assert!((s - distance / 2f64.sqrt()).abs() < 1e-9, "{s}");
        };
        expect(outcome.final_return(), 30.5, 21.0);
        expect(outcome.over_seeds(Seed::best), 31.0, 22.0);
        let area = 12764.0 / 404.0;
        expect(
            outcome.over_seeds(Seed::area),
            (15.0 + area) / 2.0,
            area - 15.0,
        );
        let results = Results {
            outcomes: vec![outcome],
        };
        let line = "| ar | 2 (2) | 30.5 ± 14.8 | 31.0 ± 15.6 | 23.3 ± 11.7 | 402 | 15 |";
        assert!(results.markdown().contains(line), "{}", results.markdown());
        let csv = results.csv().unwrap();
        assert!(csv.ends_with(",402,15,1:20 2:41\n"), "{csv}");
    }

    #[test]
    fn curves_are_averaged_at_the_same_environment_steps() {
        let outcome = outcome();
        let curve = outcome.curve(Spread::MinMax);
        let (first, last) = (curve[0], curve[curve.len() - 1]);
        assert_eq!((first.x, first.y), (0.0, 1.0));
        // As far as both have come.
        assert_eq!((last.x, last.low), (400.0, 20.0));
        let point = curve[25];
        assert_eq!(point.x, 100.0);
        let (first, second) = (10.0, 22.0);
        assert!((point.low - first).abs() < 1e-9 && (point.high - second).abs() < 1e-9);
        assert!((point.y - (first + second) / 2.0).abs() < 1e-9);
    }
}
