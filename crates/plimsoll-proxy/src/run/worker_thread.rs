//! Threads of workers, and the CPUs that they run on.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::run::worker;

/// Starts the thread of a worker; `pin` binds it to a CPU.
///
/// # Errors
/// The operating system starts no thread.
pub(crate) fn spawn_worker(
    start: worker::Start,
    pin: bool,
    ended: mpsc::UnboundedSender<usize>,
) -> io::Result<JoinHandle<()>> {
    let number = start.number;
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        if pin {
            pin_to(number);
        }
        match tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()) {
            Ok(runtime) => runtime.block_on(worker::run(start)),
            Err(error) => tracing::error!(%error, "cannot start the runtime of a worker"),
        }
        let _proxy_dropped = ended.send(number);
    })
}

/// Returns the number of CPUs that this process may run on. A quota of CPU time may allow fewer threads.
pub(crate) fn allowed_cpus() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(0, |allowed| allowed.count() as usize)
}

/// Pins this thread to the `number`-th CPU it may use. Only done with one worker on each of them: programs with fewer
/// workers, such as those with a quota of CPU time, would all be on the first CPUs.
fn pin_to(number: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if let Some(cpu) = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).nth(number) {
        let mut only = CpuSet::new();
        only.set(cpu);
        let _an_optimisation_only = sched_setaffinity(None, &only);
    }
}
