//! What was measured, by name, and what can be said of it: medians, spread, ratios of pairs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Everything measured.
#[derive(Default)]
pub struct Samples {
    figures: BTreeMap<String, Figure>,
    notes: Vec<String>,
}

/// All samples of one figure, in the order they were taken.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// The unit.
    pub unit: String,
    /// The values; with the place on the horizontal axis where they are points of a curve.
    pub values: Vec<(Option<f64>, f64)>,
}

impl Samples {
    /// Takes in a line of the lab's output; anything else than a line of it is ignored.
    ///
    /// # Errors
    /// A line of the lab's that lacks something.
    pub fn take(&mut self, line: &str, prefix: &str) -> Result<()> {
        let Ok(Value::Object(line)) = serde_json::from_str(line) else { return Ok(()) };
        if let Some(note) = line.get("note").and_then(Value::as_str) {
            if !self.notes.iter().any(|known| known == note) {
                self.notes.push(note.to_owned());
            }
            return Ok(());
        }
        let text = |key: &str| line.get(key).and_then(Value::as_str);
        let number = |key: &str| line.get(key).and_then(Value::as_f64);
        let name = text("name").context("a sample without a name")?;
        let value = number("value").with_context(|| format!("{name} has no value"))?;
        let unit = text("unit").with_context(|| format!("{name} has no unit"))?;
        self.add(&format!("{prefix}{name}"), unit, number("x"), value);
        Ok(())
    }

    /// Adds one value.
    pub fn add(&mut self, name: &str, unit: &str, x: Option<f64>, value: f64) {
        let figure = self.figures.entry(name.to_owned()).or_default();
        unit.clone_into(&mut figure.unit);
        figure.values.push((x, value));
    }

    /// Adds the middle of each figure as one value: what one turn of several measured.
    pub fn add_medians(&mut self, turn: &Self) {
        for (name, figure) in &turn.figures {
            if let Some(median) = figure.median() {
                self.add(name, &figure.unit, None, median.value);
            }
        }
    }

    /// All figures, in order of their names.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Figure)> {
        self.figures.iter().map(|(name, figure)| (name.as_str(), figure))
    }

    /// Takes what an area measured instead of what is known of it.
    pub fn replace(&mut self, area: &str, measured: Self) {
        let of_area = |name: &str| {
            let rest = name.strip_prefix("run/").unwrap_or(name).strip_prefix(area);
            // What a virtual machine measured lies below its name, such as `machine 6.12`.
            rest.is_some_and(|rest| rest.starts_with(['/', ' ']))
        };
        self.figures.retain(|name, _| !of_area(name));
        self.figures.extend(measured.figures);
        self.notes.extend(measured.notes);
        self.notes.sort();
        self.notes.dedup();
    }

    /// Reads what [`Samples::save`] kept.
    ///
    /// # Errors
    /// Those of reading; lines that are damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("nothing was kept: cannot read {}", path.display()))?;
        let mut samples = Self::default();
        text.lines().try_for_each(|line| samples.take(line, ""))?;
        Ok(samples)
    }

    /// One figure.
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.figures.get(name)
    }

    /// The figures below a name, each with what follows it, in order of their names.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Figure)> {
        self.figures.iter().filter_map(move |(name, figure)| {
            Some((name.strip_prefix(prefix)?.strip_prefix('/')?, figure))
        })
    }

    /// The kernels of the virtual machines that figures come from.
    pub fn machines(&self) -> Vec<String> {
        let names = self.figures.keys().filter_map(|name| name.strip_prefix("machine "));
        let mut all: Vec<String> =
            names.filter_map(|name| Some(name.split_once('/')?.0.to_owned())).collect();
        all.dedup();
        all
    }

    /// What the reader has to know beside the figures.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Keeps every single value, one JSON object a line.
    ///
    /// # Errors
    /// Those of writing.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut out = BufWriter::new(file);
        for (name, figure) in &self.figures {
            for (x, value) in &figure.values {
                let line = json!({ "name": name, "unit": figure.unit, "x": x, "value": value });
                writeln!(out, "{line}")?;
            }
        }
        for note in &self.notes {
            writeln!(out, "{}", json!({ "note": note }))?;
        }
        Ok(out.flush()?)
    }
}

impl Figure {
    /// The median, and half the distance between the quartiles as a share of it.
    pub fn median(&self) -> Option<Median> {
        median(self.values.iter().map(|(_, value)| *value).collect())
    }

    /// The points of a curve, by place.
    pub fn points(&self) -> Vec<(f64, f64)> {
        let mut points: Vec<_> =
            self.values.iter().filter_map(|(x, value)| Some(((*x)?, *value))).collect();
        points.sort_by(|one, two| one.0.total_cmp(&two.0));
        points
    }
}

/// A middle value and how far the others are from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    /// Half are no larger.
    pub value: f64,
    /// Half the distance between the quartiles.
    pub spread: f64,
    /// Of so many.
    pub count: usize,
}

/// The median of some values; `None` if there are none.
pub fn median(mut values: Vec<f64>) -> Option<Median> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        let (low, part) = (place.floor() as usize, place.fract());
        values[low] + (values[(low + 1).min(last)] - values[low]) * part
    };
    let spread = (at(0.75) - at(0.25)) / 2.0;
    Some(Median { value: at(0.5), spread, count: values.len() })
}

/// The ratios of pairs: of what was measured one right after the other.
pub fn ratios(of: &Figure, to: &Figure) -> Vec<f64> {
    of.values.iter().zip(&to.values).map(|((_, one), (_, other))| one / other).collect()
}

/// Between which of the values the median of endlessly many would lie, in nineteen of twenty
/// such series, whatever their distribution; `None` if they are too few to say.
///
/// That fewer than `k` of `n` values lie on one side of that median has the probability of fewer
/// than `k` heads in `n` throws; both ends together may have one in twenty.
pub fn interval(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let mut term = 0.5_f64.powi(i32::try_from(n).ok()?);
    let (mut below, mut from) = (term, None);
    for k in 0..n / 2 {
        if below > 0.025 {
            break;
        }
        from = Some(k);
        term *= (n - k) as f64 / (k + 1) as f64;
        below += term;
    }
    from.map(|from| (values[from], values[n - 1 - from]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_lie_between_neighbours() {
        let even = median(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((even.value, even.spread, even.count), (2.5, 0.75, 4));
        assert_eq!(median(vec![7.0]).unwrap().spread, 0.0);
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let figure = |values: &[f64]| Figure {
            values: values.iter().map(|value| (None, *value)).collect(),
            ..Figure::default()
        };
        // The machine slowed down to a half between the pairs; the ratio does not notice.
        let (with, without) = (figure(&[99.0, 49.5, 99.0]), figure(&[100.0, 50.0, 100.0]));
        assert_eq!(ratios(&with, &without), [0.99, 0.99, 0.99]);
    }

    #[test]
    fn few_values_tell_less_of_the_median_than_many() {
        let values = |n: u32| (1..=n).map(f64::from).collect::<Vec<_>>();
        assert_eq!(interval(values(5)), None, "1 of 16 such series lies on one side");
        assert_eq!(interval(values(6)), Some((1.0, 6.0)));
        // From the usual tables of the sign test.
        assert_eq!(interval(values(9)), Some((2.0, 8.0)));
        assert_eq!(interval(values(20)), Some((6.0, 15.0)));
    }

    #[test]
    fn an_area_measured_again_replaces_its_own_figures_alone() {
        let series = |names: &[&str], value: f64| {
            let mut samples = Samples::default();
            names.iter().for_each(|name| samples.add(name, "", None, value));
            samples
        };
        let mut samples = series(&["kernel/a", "run/kernel/took", "machine 6.12/kernel/a"], 1.0);
        samples.replace("kernel", series(&["kernel/b"], 2.0));
        let names: Vec<_> = samples.figures.keys().map(String::as_str).collect();
        assert_eq!(names, ["kernel/b", "machine 6.12/kernel/a"]);
        samples.replace("machine", Samples::default());
        assert_eq!(samples.figures.len(), 1);
    }

    #[test]
    fn samples_are_read_and_other_lines_are_not() {
        let mut samples = Samples::default();
        samples.take(r#"{"name":"a/b","unit":"ns","value":2}"#, "").unwrap();
        samples.take("booting", "").unwrap();
        samples.take(r#"{"note":"no ab here"}"#, "").unwrap();
        assert_eq!(samples.get("a/b").unwrap().values, [(None, 2.0)]);
        assert_eq!(samples.below("a").map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
        assert_eq!(samples.notes(), ["no ab here"]);
        assert!(samples.take(r#"{"name":"a"}"#, "").is_err());
    }
}
