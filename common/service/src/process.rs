//! What the kernel accounts to a process, from `/proc`, and lets it have, and its clock.

use std::fs::read_to_string;
use std::io;

use rustix::process::Resource;
use rustix::time::{ClockId, clock_gettime};

/// User and system time of all its threads, in seconds; the kernel counts in hundredths.
///
/// # Errors
/// There is no such process, or no `/proc`.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name, in brackets, may hold anything; fields 14 and 15 are the times.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Vec<f64> = numbers(fields.split_whitespace().skip(11).take(2))?;
    Ok(ticks.iter().sum::<f64>() / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory it holds, in bytes.
///
/// # Errors
/// There is no such process, or no `/proc`.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let statm = read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: Vec<u64> = numbers(statm.split_whitespace().skip(1).take(1))?;
    Ok(pages.iter().sum::<u64>() * rustix::param::page_size() as u64)
}

/// Nanoseconds of the clock that all processes of the machine share and nobody sets.
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets this process have as many files and sockets open as it may, and says how many those are.
///
/// # Errors
/// The system refuses.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    Ok(limit.current)
}

fn numbers<'a, T: std::str::FromStr>(fields: impl Iterator<Item = &'a str>) -> io::Result<Vec<T>> {
    let parsed = fields.map(|field| field.parse().map_err(|_| io::ErrorKind::InvalidData.into()));
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).unwrap() > 100_000);
        let before = cpu_seconds(pid).unwrap();
        while cpu_seconds(pid).unwrap() < before + 0.02 {
            std::hint::black_box(resident_bytes(pid).unwrap());
        }
        assert!(cpu_seconds(u32::MAX).is_err());
    }
}
