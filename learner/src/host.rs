//! What the learner's machine has left: room in the run's file system, and, where the update runs on a
//! GPU, what `nvidia-smi` says of the machine's GPUs. Both are for the operator; nothing depends on them.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::Builder;
use std::time::Duration;

use ::metrics::gauge;
use pmpo_service::files;

use crate::{LearnerError, metrics};

const PERIOD: Duration = Duration::from_secs(15);
const NVIDIA_SMI: &str = "nvidia-smi";
const MIB: f64 = (1 << 20) as f64;

/// Keeps the metrics up to date until what it answers is dropped. The thread is not joined: a driver
/// that hangs must not keep the learner from ending.
pub(crate) fn watch(run_dir: &Path, gpus: bool) -> Result<mpsc::Sender<()>, LearnerError> {
    let (watched, gone) = mpsc::channel::<()>();
    let folder = run_dir.to_owned();
    Builder::new()
        .name("host".to_owned())
        .spawn(move || keep(&folder, gpus, &gone))
        .map_err(LearnerError::file(run_dir))?;
    Ok(watched)
}

fn keep(run_dir: &Path, gpus: bool, gone: &mpsc::Receiver<()>) {
    let mut gpus = gpus;
    loop {
        if let Ok(space) = files::space(run_dir) {
            gauge!(metrics::FREE_BYTES).set(space.free_bytes as f64);
            gauge!(metrics::SIZE_BYTES).set(space.size_bytes as f64);
        }
        if gpus {
            match ask(NVIDIA_SMI) {
                Ok(found) => found.iter().for_each(Gpu::tell),
                Err(reason) => {
                    tracing::info!(reason, "no metrics of GPUs");
                    gpus = false;
                }
            }
        }
        if gone.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// One line of its answer; what a GPU does not tell (`[N/A]`) is `None`.
#[derive(Debug, PartialEq)]
struct Gpu {
    index: String,
    utilization: Option<f64>,
    used_bytes: Option<f64>,
    size_bytes: Option<f64>,
}

impl Gpu {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(',').map(str::trim);
        let index = fields.next().filter(|index| !index.is_empty())?.to_owned();
        let mut number = || fields.next()?.parse::<f64>().ok();
        let [percent, used, size] = [number(), number(), number()];
        Some(Self {
            index,
            utilization: percent.map(|percent| percent / 100.0),
            used_bytes: used.map(|mib| mib * MIB),
            size_bytes: size.map(|mib| mib * MIB),
        })
    }

    fn tell(&self) {
        for (name, value) in [
            (metrics::GPU_UTILIZATION, self.utilization),
            (metrics::GPU_MEMORY_USED, self.used_bytes),
            (metrics::GPU_MEMORY_SIZE, self.size_bytes),
        ] {
            if let Some(value) = value {
                gauge!(name, "gpu" => self.index.clone()).set(value);
            }
        }
    }
}

/// The machine's GPUs, or why they are not known.
fn ask(program: &str) -> Result<Vec<Gpu>, String> {
    let output = Command::new(program)
        .arg("--query-gpu=index,utilization.gpu,memory.used,memory.total")
        .arg("--format=csv,noheader,nounits")
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} ended with {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(Gpu::parse).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A stand-in for `nvidia-smi`, that fails unless it is asked as it would be.
    #[test]
    fn gpus_are_read_from_what_the_program_prints() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("smi");
        let script = "#!/bin/sh\n[ $# = 2 ] || exit 9\necho '0, 35, 1024, 24576'\n\
                      echo '1, [N/A], 512, 8192'\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let gpu = |index: &str, utilization, used, size| Gpu {
            index: index.to_owned(),
            utilization,
            used_bytes: Some(used * MIB),
            size_bytes: Some(size * MIB),
        };
        assert_eq!(
            ask(&program.display().to_string()).unwrap(),
            [
                gpu("0", Some(0.35), 1024.0, 24576.0),
                gpu("1", None, 512.0, 8192.0)
            ]
        );
        assert!(ask("/no/such/program").is_err());
        assert!(ask("false").unwrap_err().contains("ended with"));
    }
}
