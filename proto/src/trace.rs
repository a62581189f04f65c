//! Traces in messages, as W3C Trace Context's `traceparent`. Streams live long, so what a message is
//! part of cannot stand in the headers of its call.

use pmpo_types::TraceContext;

/// The wire's form; empty where there is no trace.
pub fn trace_to_wire(context: Option<TraceContext>) -> String {
    context.map_or_else(String::new, |TraceContext { trace_id, span_id }| {
        format!("00-{trace_id:032x}-{span_id:016x}-01")
    })
}

/// Reads it; `None` where there is no trace, it is not sampled, or what is there is no `traceparent`:
/// as the standard has it, a trace that cannot be continued is no error.
pub fn trace_from_wire(traceparent: &str) -> Option<TraceContext> {
    let mut parts = traceparent.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let valid = part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| u128::from_str_radix(part, 16).ok())?
    };
    let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let context = TraceContext {
        trace_id,
        span_id: span_id as u64,
    };
    (version != 0xff && flags & 1 == 1 && trace_id != 0 && span_id != 0).then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_the_wire_in_the_standards_form() {
        let context = TraceContext {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0x00f0_67aa_0ba9_02b7,
        };
        let wire = trace_to_wire(Some(context));
        assert_eq!(
            wire,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        );
        assert_eq!(trace_from_wire(&wire), Some(context));
        assert_eq!(trace_to_wire(None), "");
    }

    #[test]
    fn what_cannot_be_continued_is_passed_over() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let (none, span) = ("0".repeat(32), "00f067aa0ba902b7");
        let cases = [
            String::new(),
            "traceparent".to_owned(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-00"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{none}-{span}-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-+{}-{span}-01", &trace[1..]),
            format!("00-{trace}é-{span}-01"),
        ];
        for wire in cases {
            assert_eq!(trace_from_wire(&wire), None, "{wire}");
        }
    }
}
