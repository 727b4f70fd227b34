//! Long calls: without the GIL, but with an ear for Ctrl-C and for whoever shows progress.

use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// How often Python is asked: well under the 100 ms after which a person notices.
const LISTEN_EVERY: Duration = Duration::from_millis(20);

/// Runs `work` without the GIL. Its argument returns false when the work should stop, because a signal came or `progress`
/// raised.
///
/// # Errors
/// What the signal handler (`KeyboardInterrupt`) or `progress` raised.
pub fn detached<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(i64) -> bool) -> T + Send,
) -> PyResult<T> {
    let mut raised = None;
    let result = py.detach(|| {
        let mut heard = Instant::now();
        let mut go_on = |now_ms: i64| {
            if heard.elapsed() < LISTEN_EVERY {
                return true;
            }
            heard = Instant::now();
            let answer = Python::attach(|py| {
                py.check_signals()?;
                progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (now_ms,)).map(drop))
            });
            match answer {
                Ok(()) => true,
                Err(error) => {
                    raised = Some(error);
                    false
                }
            }
        };
        work(&mut go_on)
    });
    match raised {
        Some(error) => Err(error),
        None => Ok(result),
    }
}
