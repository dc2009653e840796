//! Which choices of a destination are looked at, and what is told of them.
//!
//! Off the path but for a countdown and a branch: one choice in [`TIMED_EVERY`] is timed for the metrics, and where
//! there is a decision log a share of them, by the worker's own dice, is told with every candidate.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use plimsoll_config::model::DecisionLog;
use plimsoll_core::explain::{Candidate, DecidedBy, SetAside, candidates, decided};
use plimsoll_core::{
    Assignment, AttemptedSet, Name, NoDestination, PickRequest, Rng, Snapshot, Tick, balance_load,
};
use serde_json::{Value, json};

use crate::base::clock::Clock;
use crate::base::counters::PoolCounters;
use crate::base::log_writer::{self, Log, LogQueue, LogState, timestamp};

/// Two looks at the clock cost as much as some choices, so not every choice is timed.
const TIMED_EVERY: u32 = 1024;
/// Lines that may wait: fewer than of the access log, because each holds all candidates.
const QUEUE: usize = 4096;
/// Candidates told of one choice; the chosen one is always among them.
const CANDIDATES: usize = 64;

/// One worker's look at its choices.
#[derive(Debug)]
pub(crate) struct DecisionSampler {
    clock: Clock,
    /// Choices until the next is timed.
    untimed: Cell<u32>,
    log: Option<DecisionSender>,
}

/// A worker's end of the decision log.
#[derive(Clone, Debug)]
pub(crate) struct DecisionSender {
    lines: LogQueue<Line>,
    sample: f64,
}

#[derive(Debug)]
struct Line {
    time: SystemTime,
    snapshot: Arc<Snapshot>,
    candidates: Vec<Candidate>,
    chosen: Result<usize, NoDestination>,
    decided: DecidedBy,
    /// `hit` or `miss` where decisions are remembered and this one asked.
    cache: Option<&'static str>,
    tried: AttemptedSet,
    took: Duration,
}

/// Starts the writer; it ends when every sender is gone, with everything written.
///
/// # Errors
/// The file cannot be opened or the thread not started.
pub(crate) fn start(
    config: &DecisionLog,
    state: Arc<LogState>,
) -> io::Result<(DecisionSender, JoinHandle<()>)> {
    let log = Log { name: "decision-log", queue: QUEUE, text };
    let (lines, thread) = log_writer::start(log, &config.target, state)?;
    Ok((DecisionSender { lines, sample: config.sample }, thread))
}

impl DecisionSampler {
    pub(crate) fn new(clock: Clock, log: Option<DecisionSender>) -> Self {
        Self { clock, untimed: Cell::new(0), log }
    }

    /// Makes the choice, and looks at it if it is its turn.
    pub(crate) fn balance_load(
        &self,
        snapshot: &Arc<Snapshot>,
        want: &PickRequest<'_>,
        now: Tick,
        rng: &mut Rng,
        counters: impl FnOnce(&dyn Fn(&PoolCounters)),
    ) -> Result<Assignment, NoDestination> {
        let told = self.log.as_ref().filter(|log| rng.share() < log.sample);
        let untimed = self.untimed.get();
        if untimed > 0 && told.is_none() {
            self.untimed.set(untimed - 1);
            return balance_load(snapshot, want, now, rng);
        }
        self.untimed.set(TIMED_EVERY - 1);
        let explained = told.map(|log| (log, candidates(snapshot, want, now), remembered(snapshot, want)));
        let before = self.clock.now();
        let chosen = balance_load(snapshot, want, now, rng);
        let took = self.clock.now().since(before);
        counters(&|counters| counters.decision_took(took));
        if let Some((log, candidates, cached)) = explained {
            let on_trial = chosen.as_ref().is_ok_and(Assignment::is_trial);
            log.lines.push(Line {
                time: Clock::wall(),
                snapshot: snapshot.clone(),
                decided: if on_trial { DecidedBy::Trial } else { decided(want, &candidates) },
                cache: cache(cached, remembered(snapshot, want)),
                candidates: bounded(candidates, chosen.as_ref().ok().map(Assignment::member)),
                chosen: chosen.as_ref().map(Assignment::member).map_err(|why| *why),
                tried: want.tried.copied().unwrap_or_default(),
                took,
            });
        }
        chosen
    }
}

/// Decisions that this worker found made before, and that it did not.
fn remembered(snapshot: &Snapshot, want: &PickRequest<'_>) -> Option<(u64, u64)> {
    snapshot.key_cache.as_ref().map(|counters| counters.of(want.worker))
}

/// What the choice between two counts found.
fn cache(before: Option<(u64, u64)>, after: Option<(u64, u64)>) -> Option<&'static str> {
    let ((hits_before, misses_before), (hits, misses)) = (before?, after?);
    match (hits > hits_before, misses > misses_before) {
        (true, _) => Some("hit"),
        (_, true) => Some("miss"),
        _ => None,
    }
}

/// The first of them and whoever was chosen.
fn bounded(mut candidates: Vec<Candidate>, chosen: Option<usize>) -> Vec<Candidate> {
    let chosen = chosen.and_then(|member| candidates.get(member).cloned());
    candidates.truncate(CANDIDATES);
    if let Some(chosen) = chosen
        && chosen.member >= CANDIDATES
    {
        candidates.pop();
        candidates.push(chosen);
    }
    candidates.shrink_to_fit();
    candidates
}

/// One line of JSON: the fields of the topic `lb.decisions`, and what else explains the choice.
fn text(line: &Line) -> String {
    let name = |member: usize| -> &Name { &line.snapshot.members[member].destination.name };
    let tried = line.snapshot.members.iter().filter(|member| line.tried.contains(member.id));
    let tried: Vec<&str> = tried.map(|member| &*member.destination.name).collect();
    let candidates: Vec<Value> = line
        .candidates
        .iter()
        .map(|candidate| {
            let member = &line.snapshot.members[candidate.member];
            json!({
                "id": &*member.destination.name,
                "status": member.status.as_str(),
                "score": candidate.score,
                "set_aside": candidate.set_aside.map(SetAside::as_str),
                "in_flight": candidate.in_flight,
                "load": candidate.load,
                "slow_start": candidate.slow_start,
            })
        })
        .collect();
    let reason = match line.chosen {
        Ok(_) => line.decided.as_str(),
        Err(NoDestination::Empty) => "empty",
        Err(NoDestination::NoneServing) => "none_serving",
        Err(NoDestination::AllTried) => "all_tried",
        Err(NoDestination::Full) => "full",
    };
    json!({
        "time": timestamp(line.time),
        "pool": &*line.snapshot.pool,
        "algorithm": line.snapshot.algorithm,
        "candidates": candidates,
        "candidates_total": line.snapshot.members.len(),
        "chosen": line.chosen.ok().map(|member| &**name(member)),
        "reason": reason,
        "cache": line.cache,
        "tried": tried,
        "took_us": line.took.as_nanos() as f64 / 1e3,
        "generation": line.snapshot.generation,
    })
    .to_string()
}
