//! Films of a run's newest policy, drawn by `pmpo render` in a child process: one at a time, at the lowest
//! priority, when somebody looks at the run, and of a run that goes on seldom enough to take little from it.
//! They are kept in memory. Where nothing can be drawn, the reason is kept in place of a film.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pmpo_learner::{best, checkpoint};
use rustix::process::{Pid, setpriority_process};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::files::read_bounded;
use super::runs::Run;

/// What a film is like: seconds of simulated time, frames a second, pixels.
const FORM: [&str; 8] = [
    "--seconds",
    "10",
    "--fps",
    "15",
    "--width",
    "320",
    "--height",
    "240",
];
/// The lowest priority that there is.
const NICE: i32 = 19;
/// Longest that drawing may take.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
/// Of a run that goes on, a film is followed by a pause of so many times what drawing it took, at least
/// [`LEAST_PAUSE`]. After a failure the pause is [`LEAST_PAUSE`] too.
const PAUSES: u32 = 10;
const LEAST_PAUSE: Duration = Duration::from_secs(10);
/// Largest film that is kept, in bytes, and runs whose films are.
const MAX_BYTES: u64 = 16 << 20;
const MAX_FILMS: usize = 8;
const MAX_WORDS: u64 = 4 << 10;

/// Films of the runs that were looked at last.
#[derive(Clone, Default)]
pub(crate) struct Films {
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    films: VecDeque<Film>,
    drawing: Option<String>,
}

/// The newest attempt to film a run.
struct Film {
    run: String,
    step: u64,
    /// The GIF, or why there is none.
    drawn: Result<Arc<Vec<u8>>, String>,
    ended: Instant,
    took: Duration,
}

/// What there is to see of a run.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Look {
    /// Learner steps of the policy in the film; absent without one.
    pub(crate) step: Option<u64>,
    /// Whether one is being drawn.
    pub(crate) drawing: bool,
    /// Why there is none.
    pub(crate) reason: Option<String>,
}

impl Films {
    /// What there is of a run; has a new film drawn if it is time for one, until `stop`.
    pub(crate) fn look(&self, run: &Run, stop: &CancellationToken) -> Look {
        let newest = newest_policy(&run.folder);
        let mut shelf = self.lock();
        let film = shelf.films.iter().find(|film| film.run == run.name);
        let wanted = newest.as_ref().filter(|(step, _)| {
            film.is_none_or(|film| film.step != *step && film.is_over(run.is_running()))
        });
        let mut look = match film {
            Some(Film { step, drawn, .. }) => Look {
                step: drawn.is_ok().then_some(*step),
                drawing: false,
                reason: drawn.as_ref().err().cloned(),
            },
            None if newest.is_none() => Look {
                reason: Some("there is no policy to film yet".to_owned()),
                ..Look::default()
            },
            None => Look::default(),
        };
        if let (Some((step, choice)), None) = (wanted, &shelf.drawing)
            && !stop.is_cancelled()
        {
            shelf.drawing = Some(run.name.clone());
            let (films, run, stop) = (self.clone(), run.clone(), stop.clone());
            let (step, choice) = (*step, choice.clone());
            let work = move || films.draw(&run, step, &choice, &stop);
            let spawned = std::thread::Builder::new()
                .name("film".to_owned())
                .spawn(work);
            if let Err(error) = spawned {
                shelf.drawing = None;
                look.reason = Some(error.to_string());
            }
        }
        look.drawing = shelf.drawing.as_ref() == Some(&run.name);
        look
    }

    /// The film of this step of a run, a GIF.
    pub(crate) fn film(&self, run: &Run, step: u64) -> Option<Arc<Vec<u8>>> {
        let shelf = self.lock();
        let film = shelf.films.iter().find(|film| film.run == run.name)?;
        film.drawn.clone().ok().filter(|_| film.step == step)
    }

    fn draw(&self, run: &Run, step: u64, choice: &str, stop: &CancellationToken) {
        let began = Instant::now();
        let drawn = render(&run.folder, choice, stop);
        let film = Film {
            run: run.name.clone(),
            step,
            drawn: drawn.map(Arc::new),
            ended: Instant::now(),
            took: began.elapsed(),
        };
        let mut shelf = self.lock();
        shelf.drawing = None;
        shelf.films.retain(|film| film.run != run.name);
        shelf.films.push_back(film);
        if shelf.films.len() > MAX_FILMS {
            shelf.films.pop_front();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Film {
    /// Whether another may follow it.
    fn is_over(&self, running: bool) -> bool {
        let pause = match running {
            true => LEAST_PAUSE.max(self.took * PAUSES),
            false if self.drawn.is_err() => LEAST_PAUSE,
            false => Duration::ZERO,
        };
        self.ended.elapsed() >= pause
    }
}

/// Learner steps of the newest policy that the run's folder holds, and what `--checkpoint` calls it: the best
/// one while evaluations rise, else that of the newest checkpoint.
fn newest_policy(run_dir: &Path) -> Option<(u64, String)> {
    let best = best::read(run_dir).ok().flatten();
    let best = best.map(|(_, best)| (best.evaluation.learner_steps, "best".to_owned()));
    let newest = checkpoint::newest_step(run_dir).map(|step| (step, step.to_string()));
    let found = best.into_iter().chain(newest);
    // Nobody wants to see what has learned nothing.
    found
        .filter(|(step, _)| *step > 0)
        .max_by_key(|(step, _)| *step)
}

/// The GIF of an episode, or the last line of what went wrong.
fn render(run_dir: &Path, choice: &str, stop: &CancellationToken) -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let [out, words] = ["film.gif", "words"].map(|name| folder.path().join(name));
    let mut child = start(run_dir, choice, &out, &words).map_err(|error| error.to_string())?;
    let began = Instant::now();
    let success = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if stop.is_cancelled() || began.elapsed() > PATIENCE => {
                end(&mut child);
                return Err(format!("was not drawn within {PATIENCE:?}"));
            }
            Ok(None) => std::thread::sleep(POLL),
            Err(error) => return Err(error.to_string()),
        }
    };
    let read = |path: &Path, limit| match read_bounded(path, limit) {
        Ok(found) => Ok(found.unwrap_or_default()),
        Err(error) => Err(error.to_string()),
    };
    if success {
        let film = read(&out, MAX_BYTES + 1)?;
        return match film.len() as u64 {
            0..=MAX_BYTES => Ok(film),
            bytes => Err(format!(
                "expected at most {MAX_BYTES} bytes, got {bytes} or more"
            )),
        };
    }
    let words = read(&words, MAX_WORDS)?;
    let words = String::from_utf8_lossy(&words);
    let last = words.lines().rev().find(|line| !line.trim().is_empty());
    Err(last.unwrap_or("drawing failed and said nothing").to_owned())
}

fn start(run_dir: &Path, choice: &str, out: &Path, words: &Path) -> std::io::Result<Child> {
    let child = Command::new(std::env::current_exe()?)
        .arg("render")
        .arg(run_dir)
        .args(["--checkpoint", choice, "--out"])
        .arg(out)
        .args(FORM)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(words)?)
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Err(error) = setpriority_process(pid, NICE) {
        tracing::debug!(%error, "a film at ordinary priority");
    }
    Ok(child)
}

fn end(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::debug!(%error, "a film's process could not be ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn film(drawn: bool, ended_s: u64, took_s: u64) -> Film {
        Film {
            run: "a".to_owned(),
            step: 1,
            drawn: if drawn {
                Ok(Arc::default())
            } else {
                Err(String::new())
            },
            ended: Instant::now() - Duration::from_secs(ended_s),
            took: Duration::from_secs(took_s),
        }
    }

    #[test]
    fn a_run_that_goes_on_is_filmed_for_a_tenth_of_its_time_at_most() {
        for (ended, took, over) in [(9, 0, false), (11, 0, true), (29, 3, false), (31, 3, true)] {
            assert_eq!(
                film(true, ended, took).is_over(true),
                over,
                "{ended} {took}"
            );
        }
        assert!(film(true, 0, 3).is_over(false));
        assert!(!film(false, 9, 3).is_over(false));
        assert!(film(false, 11, 3).is_over(false));
    }

    #[test]
    fn a_run_without_a_policy_has_no_film_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run {
            name: "a".to_owned(),
            folder: folder.path().to_owned(),
        };
        let films = Films::default();
        let look = films.look(&run, &CancellationToken::new());
        assert_eq!((look.step, look.drawing), (None, false));
        assert_eq!(
            look.reason.as_deref(),
            Some("there is no policy to film yet")
        );
        assert!(films.film(&run, 1).is_none());
    }
}
