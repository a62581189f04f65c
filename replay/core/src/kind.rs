//! Which steps a table takes: those of the signature that the first one stored gave it.

use pmpo_types::{ColumnSpec, Signature, WriterId};

use crate::Error;
use crate::table::Table;

impl Table {
    /// Refuses steps of another signature than the table has, if it has one.
    ///
    /// # Errors
    /// [`Error::Signature`] names the first difference.
    pub fn check_signature(&self, signature: &Signature) -> Result<(), Error> {
        match self.signature() {
            Some(own) if own != signature => Err(mismatch(own, signature)),
            _ => Ok(()),
        }
    }

    /// The first step that is stored gives the table its signature. A writer that opened it before must
    /// have the one that it has by now.
    pub(crate) fn agree(&mut self, writer: WriterId) -> Result<(), Error> {
        let Some(signature) = self.writers.get(writer)?.signature.take() else {
            // It has opened a table with a signature; one that has none by now has forgotten it.
            return match self.signature() {
                Some(_) => Ok(()),
                None => Err(Error::UnknownWriter(writer)),
            };
        };
        let agreed = self.check_signature(&signature);
        match &agreed {
            Ok(()) => self.adopt(&signature),
            // Asked again, it says so again.
            Err(_) => self.writers.get(writer)?.signature = Some(signature),
        }
        agreed
    }

    pub(crate) fn check_kind(
        &self,
        signature: &Signature,
        sequence_length: usize,
    ) -> Result<(), Error> {
        if sequence_length != self.config.sequence_length {
            return Err(Error::SequenceLength {
                expected: self.config.sequence_length,
                got: sequence_length,
            });
        }
        self.check_signature(signature)?;
        match self.signature() {
            Some(_) => Ok(()),
            None => Ok(self.config.validate_bytes(signature.item_bytes())?),
        }
    }
}

/// Names the first difference.
fn mismatch(own: &Signature, other: &Signature) -> Error {
    let describe = |spec: &ColumnSpec| {
        let dtype = spec.dtype.as_str();
        let values = if spec.allow_nonfinite {
            ", finite or not,"
        } else {
            ""
        };
        format!("`{}` {dtype} {:?}{values}", spec.name, spec.shape)
    };
    let pairs = own.columns.iter().zip(&other.columns);
    match pairs.enumerate().find(|(_, (own, other))| own != other) {
        Some((i, (own, other))) => Error::Signature {
            field: format!("columns[{i}]"),
            expected: describe(own),
            got: describe(other),
        },
        None => Error::Signature {
            field: "columns".to_owned(),
            expected: format!("{} columns", own.columns.len()),
            got: format!("{} columns", other.columns.len()),
        },
    }
}
