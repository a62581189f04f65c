//! How an event becomes one line: for people, or as a JSON object. Both say whose it is.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use crate::identity::{self, Identity};
use crate::telemetry::LogFormat;

/// Writes events in a format.
pub(crate) struct LogLine(pub(crate) LogFormat);

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        identity::with(|identity| match self.0 {
            LogFormat::Text => text(writer, &timestamp, identity, event),
            LogFormat::Json => json(writer, &timestamp, identity, event),
        })
    }
}

/// `time LEVEL role-index@run message key=value`, with what would break the line escaped.
fn text(
    mut writer: Writer<'_>,
    timestamp: &str,
    identity: &Identity,
    event: &Event<'_>,
) -> fmt::Result {
    let level = event.metadata().level();
    match colour(level).filter(|_| writer.has_ansi_escapes()) {
        Some(colour) => write!(writer, "{timestamp} \x1b[{colour}m{level:>5}\x1b[0m ")?,
        None => write!(writer, "{timestamp} {level:>5} ")?,
    }
    if !identity.role.is_empty() {
        writer.write_str(identity.role)?;
        if let Some(index) = identity.index {
            write!(writer, "-{index}")?;
        }
        if !identity.run.is_empty() {
            write!(writer, "@{}", identity.run)?;
        }
        writer.write_char(' ')?;
    }
    let mut fields = TextFields::default();
    event.record(&mut fields);
    for part in [&fields.message, &fields.others] {
        for c in part.chars() {
            if c.is_control() {
                write!(writer, "{}", c.escape_default())?;
            } else {
                writer.write_char(c)?;
            }
        }
    }
    writeln!(writer)
}

fn colour(level: &Level) -> Option<u8> {
    match *level {
        Level::ERROR => Some(31),
        Level::WARN => Some(33),
        Level::INFO => Some(32),
        _ => None,
    }
}

#[derive(Default)]
struct TextFields {
    message: String,
    others: String,
}

impl Visit for TextFields {
    /// What an event says comes as format arguments; a string called `message` is a field like others.
    fn record_str(&mut self, field: &Field, value: &str) {
        // A string takes whatever is written.
        let _: fmt::Result = write!(self.others, " {}={value:?}", field.name());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A string takes whatever is written.
        let _: fmt::Result = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}

/// An event with its fields beside the others; one that is called as those are gets another name.
#[derive(Serialize)]
struct Record<'a> {
    timestamp: &'a str,
    level: &'static str,
    role: &'a str,
    index: Option<u64>,
    run: &'a str,
    target: &'a str,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

const RECORD: [&str; 6] = ["timestamp", "level", "role", "index", "run", "target"];

fn json(
    mut writer: Writer<'_>,
    timestamp: &str,
    identity: &Identity,
    event: &Event<'_>,
) -> fmt::Result {
    let mut fields = JsonFields(Map::new());
    event.record(&mut fields);
    let record = Record {
        timestamp,
        level: event.metadata().level().as_str(),
        role: identity.role,
        index: identity.index,
        run: &identity.run,
        target: event.metadata().target(),
        fields: fields.0,
    };
    let line = serde_json::to_string(&record).map_err(|_| fmt::Error)?;
    writeln!(writer, "{line}")
}

struct JsonFields(Map<String, Value>);

impl JsonFields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = match field.name() {
            name if RECORD.contains(&name) => format!("event.{name}"),
            name => name.to_owned(),
        };
        self.0.insert(name, value.into());
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => drop(self.0.insert("event.message".to_owned(), value.into())),
            _ => self.put(field, value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}
