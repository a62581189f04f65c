//! Traces for whoever collects OpenTelemetry's, by its standard variables `OTEL_*`: one trace leads
//! from a batch of an actor's steps over the replay and the update to the weights that the actors act
//! with next.
//!
//! Nothing is traced unless the environment names an exporter or an endpoint, and then one batch in a
//! hundred unless `OTEL_TRACES_SAMPLER` says otherwise: the actor decides when it begins a trace, and the
//! others continue those that reach them. What is not traced costs the look at one variable.

use std::env;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags,
    TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use pmpo_types::TraceContext;

use crate::identity;

/// Traces begun for each batch, where the environment does not say.
const DEFAULT_RATIO: f64 = 0.01;

/// How long the last spans may take to be exported.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

static TRACING: OnceLock<Tracing> = OnceLock::new();

struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Begins to trace if the environment asks for it and this process does not yet; to be called once the
/// run is known, within a tokio runtime.
pub fn start() {
    if TRACING.get().is_some() || !wanted() {
        return;
    }
    // Another thread may be faster; its provider stays.
    match provider() {
        Ok(provider) => {
            let tracer = provider.tracer("pmpo");
            drop(TRACING.set(Tracing { provider, tracer }));
        }
        Err(error) => tracing::warn!(%error, "no traces: the exporter cannot be made"),
    }
}

/// Whether anything may be traced.
pub fn on() -> bool {
    TRACING.get().is_some()
}

/// Exports what is left, and ends tracing. Blocks for two seconds at most, with the runtime running.
pub fn stop() {
    if let Some(tracing) = TRACING.get()
        && let Err(error) = tracing.provider.shutdown_with_timeout(FLUSH_TIMEOUT)
    {
        tracing::warn!(%error, "the last traces were not exported");
    }
}

/// A variable's value; by the standard an empty one counts as absent.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn wanted() -> bool {
    if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return false;
    }
    let wanted = match set("OTEL_TRACES_EXPORTER").as_deref() {
        None => [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ]
        .iter()
        .any(|name| set(name).is_some()),
        Some("none") => false,
        Some("otlp") => true,
        Some(other) => {
            tracing::warn!("OTEL_TRACES_EXPORTER: expected otlp or none, got {other}; no traces");
            false
        }
    };
    let variables = [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ];
    let protocol = variables.iter().find_map(|name| Some((name, set(name)?)));
    match protocol.filter(|(_, protocol)| wanted && protocol != "grpc") {
        None => wanted,
        Some((name, other)) => {
            tracing::warn!("{name}: expected grpc, got {other}; no traces");
            false
        }
    }
}

fn provider() -> Result<SdkTracerProvider, opentelemetry_otlp::ExporterBuildError> {
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let builder = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource());
    let builder = match set("OTEL_TRACES_SAMPLER") {
        Some(_) => builder,
        None => {
            let sampler = Sampler::TraceIdRatioBased(ratio());
            builder.with_sampler(Sampler::ParentBased(Box::new(sampler)))
        }
    };
    Ok(builder.build())
}

/// Share of the batches that are traced where no sampler is chosen.
fn ratio() -> f64 {
    let Some(said) = set("OTEL_TRACES_SAMPLER_ARG") else {
        return DEFAULT_RATIO;
    };
    said.parse().unwrap_or_else(|_| {
        tracing::warn!(
            "OTEL_TRACES_SAMPLER_ARG: expected a number, got {said}; {DEFAULT_RATIO} it is"
        );
        DEFAULT_RATIO
    })
}

/// Who this process is; what `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say comes with it.
fn resource() -> Resource {
    let identity = identity::get();
    let role = identity.role;
    let instance = identity::instance(role, identity.index, std::process::id());
    let mut attributes = vec![
        KeyValue::new("service.instance.id", instance),
        KeyValue::new("pmpo.run.id", identity.run),
    ];
    attributes.extend(
        identity
            .index
            .map(|index| KeyValue::new("pmpo.index", index as i64)),
    );
    let builder = Resource::builder().with_attributes(attributes);
    match set("OTEL_SERVICE_NAME") {
        Some(_) => builder.build(),
        None => builder.with_service_name(format!("pmpo-{role}")).build(),
    }
}

/// What a span is to its neighbours in the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It hands something over that is taken later.
    Producer,
    /// It takes what was handed over before.
    Consumer,
    /// It waits for another process.
    Client,
    /// Another process waits for it.
    Server,
}

impl Kind {
    fn to_otel(self) -> SpanKind {
        match self {
            Self::Producer => SpanKind::Producer,
            Self::Consumer => SpanKind::Consumer,
            Self::Client => SpanKind::Client,
            Self::Server => SpanKind::Server,
        }
    }
}

/// A part of a trace; ends when it is dropped.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// What others continue the trace from.
    pub fn context(&self) -> TraceContext {
        let context = self.0.span_context();
        TraceContext {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        }
    }

    /// Notes a number.
    pub fn set(&mut self, key: &'static str, value: u64) {
        // The protocol's integers are signed.
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.set_attribute(KeyValue::new(key, value));
    }
}

/// Begins a trace with what has gone on since `since`, if this one is among those to be traced.
pub fn root(name: &'static str, since: SystemTime) -> Option<Span> {
    let tracing = TRACING.get()?;
    let builder = SpanBuilder::from_name(name)
        .with_kind(SpanKind::Producer)
        .with_start_time(since);
    begun(tracing.tracer.build_with_context(builder, &Context::new()))
}

/// Continues a trace.
pub fn child(name: &'static str, kind: Kind, parent: TraceContext) -> Option<Span> {
    joined(name, kind, &[parent])
}

/// Continues the first of these traces, with links to where the others are; `None` if there are none.
pub fn joined(name: &'static str, kind: Kind, traces: &[TraceContext]) -> Option<Span> {
    let tracing = TRACING.get()?;
    let (parent, others) = traces.split_first()?;
    let links = others
        .iter()
        .map(|&other| Link::with_context(remote(other)));
    let builder = SpanBuilder::from_name(name)
        .with_kind(kind.to_otel())
        .with_links(links.collect());
    let context = Context::new().with_remote_span_context(remote(*parent));
    begun(tracing.tracer.build_with_context(builder, &context))
}

fn begun(span: opentelemetry_sdk::trace::Span) -> Option<Span> {
    (span.is_recording() && span.span_context().is_sampled()).then_some(Span(span))
}

fn remote(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    )
}

/// A span that several may end; the first does.
#[derive(Clone)]
pub struct SharedSpan(Arc<Mutex<Option<Span>>>);

impl SharedSpan {
    /// Shares a span.
    pub fn new(span: Span) -> Self {
        Self(Arc::new(Mutex::new(Some(span))))
    }

    /// Ends it, unless that was done.
    pub fn end(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl fmt::Debug for SharedSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSpan")
    }
}
