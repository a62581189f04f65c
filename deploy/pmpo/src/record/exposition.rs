//! What a process's `/metrics` says: Prometheus' text format, as far as our own processes write it.

/// One answer of `/metrics`.
pub(super) struct Exposition(pub(super) String);

impl Exposition {
    /// The sum of a metric's series; `None` where there is none.
    pub(super) fn sum(&self, metric: &str) -> Option<f64> {
        self.series(metric)
            .map(|(_, value)| value)
            .reduce(|a, b| a + b)
    }

    /// The series of a metric by the value of one label.
    pub(super) fn by_label<'a>(
        &'a self,
        metric: &'a str,
        label: &'a str,
    ) -> impl Iterator<Item = (&'a str, f64)> {
        self.series(metric).filter_map(move |(labels, value)| {
            let labelled = labels.split([',', '{', '}']).find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                (name == label).then(|| value.trim_matches('"'))
            });
            Some((labelled?, value))
        })
    }

    /// Labels, braces included, and values.
    fn series<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (labels, value) = line.strip_prefix(metric)?.rsplit_once(' ')?;
            let whole = labels.is_empty() || labels.starts_with('{');
            Some((labels, value.parse().ok()?)).filter(|_| whole)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP pmpo_steps Steps
# TYPE pmpo_steps gauge
pmpo_steps 12
pmpo_steps_other 5
pmpo_seconds_total{state=\"waiting\",table=\"a\"} 3
pmpo_seconds_total{state=\"waiting\",table=\"b\"} 4
pmpo_seconds_total{state=\"updating\"} 2.5
pmpo_bad NaN words
";

    #[test]
    fn series_are_told_apart_by_their_whole_name_and_by_labels() {
        let text = Exposition(TEXT.to_owned());
        assert_eq!(text.sum("pmpo_steps"), Some(12.0));
        assert_eq!(text.sum("pmpo_step"), None);
        assert_eq!(text.sum("pmpo_seconds_total"), Some(9.5));
        assert_eq!(text.sum("pmpo_bad"), None);
        let by_state: Vec<_> = text.by_label("pmpo_seconds_total", "state").collect();
        assert_eq!(
            by_state,
            [("waiting", 3.0), ("waiting", 4.0), ("updating", 2.5)]
        );
        assert_eq!(text.by_label("pmpo_steps", "state").count(), 0);
    }
}
