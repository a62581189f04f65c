//! The flat observation: tasks write named fields in dm_control's order into one buffer that is
//! reused, so that a step allocates nothing.

use std::borrow::Borrow;

use pmpo_types::ObservationField;

/// Collects the fields of one observation.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    values: Vec<f64>,
    /// Filled by the first observation; later ones have the same fields.
    fields: Vec<ObservationField>,
    described: bool,
}

impl Observation {
    /// Appends a field.
    pub(crate) fn field<V: Borrow<f64>>(
        &mut self,
        name: &'static str,
        values: impl IntoIterator<Item = V>,
    ) {
        let start = self.values.len();
        self.values
            .extend(values.into_iter().map(|value| *value.borrow()));
        if !self.described {
            let size = self.values.len() - start;
            self.fields.push(ObservationField {
                name: name.to_owned(),
                size,
            });
        }
    }

    /// Replaces the observation by what `write` writes.
    pub(crate) fn rewrite(&mut self, write: impl FnOnce(&mut Self)) {
        self.values.clear();
        write(self);
        self.described = true;
    }

    /// The observation, `[observation_size]`.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// Names and sizes of the fields, in order.
    pub(crate) fn fields(&self) -> &[ObservationField] {
        &self.fields
    }
}
