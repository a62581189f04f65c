//! Columns of a table as flat vectors: of one type, of one width, without holes.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use pmpo_types::ConfigError;

use crate::error::{DataError, InFile};

/// What a text in a label column says.
pub(crate) const ACCEPT: &str = "accept";
/// The other one; any other text is refused, but for the empty one.
pub(crate) const REJECT: &str = "reject";

/// Some columns of one file.
pub(crate) struct Columns<'a> {
    pub(crate) path: &'a Path,
    pub(crate) batches: Vec<RecordBatch>,
}

impl Columns<'_> {
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// `[rows, width]`, flat, of a column of numbers or of lists of them, at the end of `path` within structs.
    pub(crate) fn numbers<T: Number>(
        &self,
        path: &[String],
        width: usize,
    ) -> Result<Vec<T>, DataError> {
        let mut flat = Vec::with_capacity(self.rows() * width);
        self.each(path, |name, first_row, array| {
            let values = elements(name, first_row, array, width)?;
            let place = |index: usize| format!("row {} of {name}", first_row + index / width);
            if let Some(hole) = (0..values.len()).find(|&index| values.is_null(index)) {
                return Err(ConfigError::new(place(hole), "a number", "nothing"));
            }
            append(values.as_ref(), &mut flat)
                .ok_or_else(|| ConfigError::new(name, "numbers", values.data_type()))
        })?;
        Ok(flat)
    }

    /// `[rows]` of a column of Booleans.
    pub(crate) fn flags(&self, name: &str) -> Result<Vec<bool>, DataError> {
        let mut flags = Vec::with_capacity(self.rows());
        self.each(&[name.to_owned()], |name, first_row, array| {
            let values = elements(name, first_row, array, 1)?;
            let values = values
                .as_boolean_opt()
                .ok_or_else(|| ConfigError::new(name, "true or false", values.data_type()))?;
            for (row, value) in values.iter().enumerate() {
                flags.push(value.ok_or_else(|| {
                    let place = format!("row {} of {name}", first_row + row);
                    ConfigError::new(place, "true or false", "nothing")
                })?);
            }
            Ok(())
        })?;
        Ok(flags)
    }

    /// `[rows]` of a column of labels: Booleans or 0 and 1, with holes, or the texts `accept`, `reject` and none.
    pub(crate) fn labels(&self, path: &[String]) -> Result<Vec<Option<bool>>, DataError> {
        let mut labels = Vec::with_capacity(self.rows());
        self.each(path, |name, first_row, array| {
            let values = match array.data_type() {
                DataType::FixedSizeList(..) => elements(name, first_row, array, 1)?,
                _ => array.clone(),
            };
            for row in 0..values.len() {
                labels.push(label(values.as_ref(), row).map_err(|got| {
                    let place = format!("row {} of {name}", first_row + row);
                    let expected = format!("a Boolean, `{ACCEPT}`, `{REJECT}` or nothing");
                    ConfigError::new(place, expected, got)
                })?);
            }
            Ok(())
        })?;
        Ok(labels)
    }

    /// Calls `take` with the column's name, the number of rows before, and its next part.
    fn each(
        &self,
        path: &[String],
        mut take: impl FnMut(&str, usize, &ArrayRef) -> Result<(), ConfigError>,
    ) -> Result<(), DataError> {
        let name = path.join("/");
        let mut row = 0;
        for batch in &self.batches {
            let array = find(batch, path)
                .ok_or_else(|| ConfigError::new(&name, "a column", "none of that name"))
                .in_file(self.path)?;
            take(&name, row, &array).in_file(self.path)?;
            row += batch.num_rows();
        }
        Ok(())
    }
}

fn find(batch: &RecordBatch, path: &[String]) -> Option<ArrayRef> {
    let (first, rest) = path.split_first()?;
    let mut array = batch.column_by_name(first)?;
    for name in rest {
        array = array.as_struct_opt()?.column_by_name(name)?;
    }
    Some(array.clone())
}

/// The elements of a column of lists, all of one width; of a plain column, itself.
fn elements(
    name: &str,
    first_row: usize,
    array: &ArrayRef,
    width: usize,
) -> Result<ArrayRef, ConfigError> {
    let expected = format!("a list of {width}");
    let check = |row: usize, length: usize| match length == width && array.is_valid(row) {
        true => Ok(()),
        false => {
            let got = if array.is_valid(row) {
                format!("one of {length}")
            } else {
                "nothing".to_owned()
            };
            let place = format!("row {} of {name}", first_row + row);
            Err(ConfigError::new(place, &expected, got))
        }
    };
    // Where no row is null and all are of one width, they lie side by side.
    match array.data_type() {
        DataType::FixedSizeList(..) => {
            let lists = array.as_fixed_size_list();
            let length = usize::try_from(lists.value_length()).unwrap_or(0);
            (0..lists.len()).try_for_each(|row| check(row, length))?;
            Ok(lists.values().slice(0, lists.len() * length))
        }
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            (0..lists.len()).try_for_each(|row| check(row, lists.value_length(row) as usize))?;
            let start = lists.value_offsets()[0] as usize;
            Ok(lists.values().slice(start, lists.len() * width))
        }
        _ if width == 1 => Ok(array.clone()),
        other => Err(ConfigError::new(name, expected, other)),
    }
}

/// The label in a row, or what is there instead.
fn label(values: &dyn Array, row: usize) -> Result<Option<bool>, String> {
    if values.is_null(row) {
        return Ok(None);
    }
    if let Some(texts) = values.as_string_opt::<i32>() {
        return match texts.value(row) {
            "" => Ok(None),
            ACCEPT => Ok(Some(true)),
            REJECT => Ok(Some(false)),
            other => Err(format!("{other:?}")),
        };
    }
    let mut number = Vec::with_capacity(1);
    match append::<f64>(values.slice(row, 1).as_ref(), &mut number).map(|()| number[0]) {
        Some(0.0) => Ok(Some(false)),
        Some(1.0) => Ok(Some(true)),
        Some(other) => Err(other.to_string()),
        None => Err(values.data_type().to_string()),
    }
}

/// What numbers of all types become; one too large for it is not finite, and refused as such later.
pub(crate) trait Number: Copy {
    fn of(value: f64) -> Self;
}

impl Number for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

impl Number for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
}

/// Appends the values of an array of numbers; `None` where it is something else.
fn append<T: Number>(array: &dyn Array, to: &mut Vec<T>) -> Option<()> {
    macro_rules! append {
        ($($kind:ty),*) => {
            $(if let Some(array) = array.as_primitive_opt::<$kind>() {
                to.extend(array.values().iter().map(|&value| T::of(value as f64)));
                return Some(());
            })*
        };
    }
    append!(
        Float32Type,
        Float64Type,
        Int8Type,
        Int16Type,
        Int32Type,
        Int64Type
    );
    append!(UInt8Type, UInt16Type, UInt32Type, UInt64Type);
    let flags = array.as_boolean_opt()?.values();
    to.extend(flags.iter().map(|flag| T::of(f64::from(u8::from(flag)))));
    Some(())
}
