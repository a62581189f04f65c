//! Replaces the labels of a data set, all or none of them.
//!
//! The other columns of a Parquet file are copied as they are, compressed and encoded by whoever wrote them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{
    ARROW_SCHEMA_META_KEY, ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata,
};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};
use serde_json::json;

use crate::dataset::{DataSet, Layout};
use crate::episode::Episode;
use crate::error::{DataError, InFile, refused};
use crate::folder::Draft;
use crate::json;
use crate::lerobot::writer::text;
use crate::lerobot::{self, LeRobot};
use crate::minari;
use crate::table::guarded;

type Labels = Vec<Option<bool>>;
/// The files with steps, each with its episodes.
type Tables = Vec<(PathBuf, Vec<usize>)>;

/// Gives every step of a data set the label that `label` says, in the order of episodes; what was there goes.
///
/// # Errors
/// An episode cannot be read, it got another number of labels than it has steps, the layout keeps none, or the
/// file system refused. The data set is then as it was.
pub fn relabel(
    path: &Path,
    mut label: impl FnMut(usize, &Episode) -> Labels,
) -> Result<(), DataError> {
    let path = &path.canonicalize().in_file(path)?;
    let data = DataSet::open(path)?;
    let (kind, files) = tables(&data, path)?;
    let mut labels = HashMap::new();
    for (file, episodes) in files {
        let mut rows = Labels::new();
        for episode in episodes {
            let read = data.read(episode)?;
            let given = label(episode, &read);
            if given.len() != read.steps() {
                let field = format!("labels of episode {episode}");
                return refused(path, field, read.steps().to_string(), given.len());
            }
            rows.extend(given);
            // The row where the episode ended.
            rows.extend((kind == Kind::Boolean).then_some(None));
        }
        labels.insert(file, rows);
    }
    let draft = Draft::beside(path)?;
    mirror(path, draft.path(), &labels, kind)?;
    if kind == Kind::Text {
        let info = draft.path().join("meta/info.json");
        let mut content = json::read(&info)?;
        if let Some(features) = content.get_mut("features") {
            features[lerobot::LABEL] = json!({ "dtype": "string", "shape": [1], "names": null });
        }
        let content = serde_json::Value::from(content);
        fs::write(&info, format!("{content:#}")).in_file(&info)?;
    }
    draft.replace()
}

/// How labels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Minari's layout: true, false or nothing.
    Boolean,
    /// LeRobot's: texts.
    Text,
}

impl Kind {
    /// Name and type of the column.
    fn column(self) -> (&'static str, DataType) {
        match self {
            Self::Boolean => (minari::LABEL, DataType::Boolean),
            Self::Text => (lerobot::LABEL, DataType::Utf8),
        }
    }
}

/// How labels are stored, and where.
fn tables(data: &DataSet, path: &Path) -> Result<(Kind, Tables), DataError> {
    let files = match data.inner() {
        Layout::LeRobot(data) => return Ok((Kind::Text, LeRobot::files(data))),
        Layout::Minari(data) => data.parquet_files(),
        Layout::D4rl(_) => None,
    };
    match files {
        Some(files) => {
            let files = files.into_iter().enumerate();
            Ok((
                Kind::Boolean,
                files.map(|(episode, file)| (file, vec![episode])).collect(),
            ))
        }
        None => {
            let expected =
                "one that keeps labels: import it first, which writes Minari's in Parquet";
            refused(path, "layout", expected, data.layout())
        }
    }
}

/// Copies a folder, the files with steps with their new labels.
fn mirror(
    from: &Path,
    to: &Path,
    labels: &HashMap<PathBuf, Labels>,
    kind: Kind,
) -> Result<(), DataError> {
    for entry in fs::read_dir(from).in_file(from)? {
        let source = entry.in_file(from)?.path();
        let Some(name) = source.file_name() else {
            continue;
        };
        let target = to.join(name);
        if source.is_dir() {
            fs::create_dir(&target).in_file(&target)?;
            mirror(&source, &target, labels, kind)?;
        } else if let Some(labels) = labels.get(&source) {
            let read = File::open(&source).in_file(&source)?;
            let write = File::create_new(&target).in_file(&target)?;
            let rewrite = || rewrite(read, write, labels, kind);
            guarded("a Parquet file whose columns can be copied", rewrite).in_file(&source)?;
        } else {
            fs::copy(&source, &target).in_file(&source)?;
        }
    }
    Ok(())
}

/// One file with a new label column.
fn rewrite(from: File, to: File, labels: &[Option<bool>], kind: Kind) -> ParquetResult<()> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(from.try_clone()?)?;
    let groups = reader.metadata().row_groups();
    let rows: usize = groups.iter().map(rows_of).sum();
    if rows != labels.len() {
        let message = format!("{rows} rows for {} labels", labels.len());
        return Err(ParquetError::General(message));
    }
    let (schema, properties) = described(&reader, kind)?;
    let mut writer = SerializedFileWriter::new(to, schema, Arc::new(properties))?;
    let mut rest = labels;
    for group in groups {
        let (labels, later) = rest.split_at(rows_of(group));
        rest = later;
        let mut output = writer.next_row_group()?;
        copy(&from, group, &mut output, kind)?;
        write(labels, &mut output, kind)?;
        output.close()?;
    }
    writer.close()?;
    Ok(())
}

fn rows_of(group: &RowGroupMetaData) -> usize {
    usize::try_from(group.num_rows()).unwrap_or(0)
}

/// The types of a file's columns with labels as the last, in Parquet's own words and in Arrow's.
fn described(
    reader: &ParquetRecordBatchReaderBuilder<File>,
    kind: Kind,
) -> ParquetResult<(TypePtr, WriterProperties)> {
    let (name, data_type) = kind.column();
    let label = Field::new(name, data_type, true);
    let label_schema = ArrowSchemaConverter::new().convert(&Schema::new(vec![label.clone()]))?;
    let root = reader.parquet_schema().root_schema();
    let fields = [root, label_schema.root_schema()].map(Type::get_fields);
    let kept = fields[0].iter().filter(|field| field.name() != name);
    let fields = kept.chain(fields[1]).cloned().collect();
    let types = Type::group_type_builder(root.name())
        .with_fields(fields)
        .build()?;

    let arrow = reader.schema();
    let kept = arrow
        .fields()
        .iter()
        .filter(|field| field.name() != name)
        .cloned();
    let fields: Vec<_> = kept.chain([Arc::new(label)]).collect();
    let others = reader.metadata().file_metadata().key_value_metadata();
    let others = others
        .into_iter()
        .flatten()
        .filter(|entry| entry.key != ARROW_SCHEMA_META_KEY);
    let mut properties = WriterProperties::builder()
        .set_key_value_metadata(Some(others.cloned().collect()))
        .build();
    let arrow = Schema::new_with_metadata(fields, arrow.metadata().clone());
    add_encoded_arrow_schema_to_metadata(&arrow, &mut properties);
    Ok((Arc::new(types), properties))
}

/// The columns as they are, but for the labels.
fn copy(
    from: &File,
    group: &RowGroupMetaData,
    to: &mut SerializedRowGroupWriter<'_, File>,
    kind: Kind,
) -> ParquetResult<()> {
    for column in group.columns() {
        if column.column_path().parts()[0] == kind.column().0 {
            continue;
        }
        to.append_column(
            from,
            ColumnCloseResult {
                bytes_written: column.compressed_size() as u64,
                rows_written: group.num_rows() as u64,
                metadata: column.clone(),
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            },
        )?;
    }
    Ok(())
}

/// The labels of a row group, which has no column after them.
fn write(
    labels: &[Option<bool>],
    to: &mut SerializedRowGroupWriter<'_, File>,
    kind: Kind,
) -> ParquetResult<()> {
    let Some(mut column) = to.next_column()? else {
        return Err(ParquetError::General("no column for labels".to_owned()));
    };
    match kind {
        Kind::Boolean => {
            let given: Vec<bool> = labels.iter().filter_map(|label| *label).collect();
            let is_given: Vec<i16> = labels.iter().map(|label| label.is_some().into()).collect();
            column
                .typed::<BoolType>()
                .write_batch(&given, Some(&is_given), None)?;
        }
        Kind::Text => {
            let texts: Vec<ByteArray> = labels.iter().map(|label| text(*label).into()).collect();
            let all = vec![1; labels.len()];
            column
                .typed::<ByteArrayType>()
                .write_batch(&texts, Some(&all), None)?;
        }
    }
    column.close()
}
