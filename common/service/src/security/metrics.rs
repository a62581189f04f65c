//! Names of the metrics of a server's door.

use ::metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Connections and calls refused, by `reason`.
pub const REFUSALS: &str = "pmpo_security_refusals_total";
/// Connections open.
pub const CONNECTIONS: &str = "pmpo_security_connections";
/// Times that changed credential files were read again.
pub const RELOADS: &str = "pmpo_security_reloads_total";
/// Times that changed credential files could not be used; the former ones stay in force.
pub const RELOAD_FAILURES: &str = "pmpo_security_reload_failures_total";

/// Registers the descriptions with the installed recorder.
pub fn describe() {
    describe_counter!(REFUSALS, Unit::Count, "Connections and calls refused");
    describe_gauge!(CONNECTIONS, Unit::Count, "Connections open");
    describe_counter!(
        RELOADS,
        Unit::Count,
        "Times that changed credential files were read again"
    );
    describe_counter!(
        RELOAD_FAILURES,
        Unit::Count,
        "Times that changed credential files could not be used"
    );
    for name in [RELOADS, RELOAD_FAILURES] {
        counter!(name).absolute(0);
    }
    gauge!(CONNECTIONS).increment(0.0);
}
