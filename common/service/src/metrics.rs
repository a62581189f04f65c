//! Names of the metrics every process has: those that Prometheus' own clients share, read from the
//! kernel at each scrape, and what was built.

use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::process;

/// User and system time, in whole seconds.
pub const CPU_SECONDS: &str = "process_cpu_seconds_total";
/// Memory the process holds.
pub const RESIDENT_BYTES: &str = "process_resident_memory_bytes";
/// File descriptors open.
pub const OPEN_FDS: &str = "process_open_fds";
/// File descriptors that may be open.
pub const MAX_FDS: &str = "process_max_fds";
/// When the process started, in Unix time; how often it changes is how often it was restarted.
pub const START_TIME: &str = "process_start_time_seconds";
/// Always 1; label `version`.
pub const BUILD_INFO: &str = "pmpo_build_info";

/// Unix time, in seconds.
pub fn unix_seconds() -> f64 {
    seconds_of(SystemTime::now())
}

/// A time as Unix time, in seconds.
pub fn seconds_of(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Registers the descriptions with the installed recorder, and what stays as it is.
pub(crate) fn describe() {
    describe_counter!(CPU_SECONDS, Unit::Seconds, "User and system time");
    let gauges = [
        (RESIDENT_BYTES, Unit::Bytes, "Memory the process holds"),
        (OPEN_FDS, Unit::Count, "File descriptors open"),
        (MAX_FDS, Unit::Count, "File descriptors that may be open"),
        (START_TIME, Unit::Seconds, "Unix time of the start"),
        (BUILD_INFO, Unit::Count, "Always 1; what was built"),
    ];
    for (name, unit, description) in gauges {
        describe_gauge!(name, unit, description);
    }
    gauge!(START_TIME).set(unix_seconds());
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Reads what the kernel accounts to this process. What it does not tell is left out: a system
/// without `/proc` has no such metrics.
pub(crate) fn sample_process() {
    let pid = std::process::id();
    if let Ok(seconds) = process::cpu_seconds(pid) {
        counter!(CPU_SECONDS).absolute(seconds as u64);
    }
    if let Ok(bytes) = process::resident_bytes(pid) {
        gauge!(RESIDENT_BYTES).set(bytes as f64);
    }
    if let Ok(files) = process::open_files(pid) {
        gauge!(OPEN_FDS).set(files as f64);
    }
    if let Some(files) = process::max_open_files() {
        gauge!(MAX_FDS).set(files as f64);
    }
}
