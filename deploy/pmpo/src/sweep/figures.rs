//! The figures of a sweep: learning curves in a grid of panels, and the summary.

use pmpo_figures::{Figure, Horizontal, Line, Panel, Point};

use super::file::{Configuration, Label, Spread, Summary, SweepFile};
use super::results::{Outcome, Results};
use crate::curve::Axis;

/// Return against environment steps, or learner steps where nobody acts: a panel for each `panel` of the file, a line a configuration.
pub(crate) fn curves(file: &SweepFile, results: &Results) -> Figure {
    let line = |(configuration, outcome): (&Configuration, &Outcome)| Line {
        label: configuration.label().to_owned(),
        detail: match outcome.seeds() {
            1 => " (1 seed)".to_owned(),
            seeds => format!(" ({seeds} seeds)"),
        },
        points: outcome.curve(file.spread),
    };
    let panel = |title: &String| Panel {
        title: title.clone(),
        x_label: of_panel(file, results, title)
            .find_map(|(_, outcome)| outcome.axis())
            .unwrap_or(Axis::EnvironmentSteps)
            .label()
            .to_owned(),
        y_label: "mean evaluation return".to_owned(),
        horizontal: Horizontal::Counts,
        logarithmic: false,
        lines: of_panel(file, results, title).map(line).collect(),
    };
    figure(file, panels(file).into_iter().map(panel).collect())
}

/// Final return against one label, a line for each value of another.
pub(crate) fn summary(file: &SweepFile, summary: &Summary, results: &Results) -> Figure {
    let values = |label: &str| {
        let values = file.configurations.iter().map(|c| c.labels[label].clone());
        distinct(values)
    };
    let (xs, series) = (values(&summary.x), values(&summary.series));
    let numbers = xs.iter().all(|x| matches!(x, Label::Number(_)));
    let place = |x: &Label| match x {
        Label::Number(number) if numbers => *number,
        name => xs.iter().position(|x| x == name).unwrap_or_default() as f64,
    };
    let line = |title: &String, value: &Label| {
        let of_line = of_panel(file, results, title)
            .filter(|(configuration, _)| configuration.labels[&summary.series] == *value);
        let mut points: Vec<Point> = of_line
            .filter_map(|(configuration, outcome)| {
                let x = place(&configuration.labels[&summary.x]);
                Some(outcome.final_return()?.point(x, file.spread))
            })
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Line {
            label: format!("{} = {value}", summary.series),
            detail: String::new(),
            points,
        }
    };
    let panel = |title: &String| Panel {
        title: title.clone(),
        x_label: summary.x.clone(),
        y_label: "final evaluation return".to_owned(),
        horizontal: if numbers {
            Horizontal::Numbers
        } else {
            Horizontal::Names(xs.iter().map(ToString::to_string).collect())
        },
        logarithmic: false,
        lines: series.iter().map(|value| line(title, value)).collect(),
    };
    figure(file, panels(file).into_iter().map(panel).collect())
}

fn figure(file: &SweepFile, panels: Vec<Panel>) -> Figure {
    let note = match file.spread {
        Spread::Std => "line: mean over seeds; band: one standard deviation to each side",
        Spread::MinMax => "line: mean over seeds; band: from the least seed to the greatest",
    };
    Figure {
        panels,
        columns: file.columns,
        note: note.to_owned(),
    }
}

/// The panels' names, in the order of the file.
fn panels(file: &SweepFile) -> Vec<&String> {
    distinct(file.configurations.iter().map(|c| &c.panel))
}

fn of_panel<'a>(
    file: &'a SweepFile,
    results: &'a Results,
    title: &'a str,
) -> impl Iterator<Item = (&'a Configuration, &'a Outcome)> {
    results
        .outcomes
        .iter()
        .map(|outcome| (&file.configurations[outcome.configuration], outcome))
        .filter(move |(configuration, _)| configuration.panel == title)
}

fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}
