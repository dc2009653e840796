//! The decision log and the timing of decisions.
//!
//! The request path pays a countdown and a branch: one decision in [`TIMED_EVERY`] is timed for metrics, and a random
//! share is logged with all candidates if there is a decision log.

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

/// One decision in this many is timed, because two clock reads cost as much as some decisions.
const TIMED_EVERY: u32 = 1024;
/// Queue size in records: less than for the access log, because each record holds all candidates.
const QUEUE: usize = 4096;
/// Maximum number of candidates in a record; the chosen one is always included.
const CANDIDATES: usize = 64;

/// Samples the decisions of one worker.
#[derive(Debug)]
pub(crate) struct DecisionSampler {
    clock: Clock,
    /// Number of decisions until the next one is timed.
    untimed: Cell<u32>,
    log: Option<DecisionSender>,
}

/// Sender of decision log records.
#[derive(Clone, Debug)]
pub(crate) struct DecisionSender {
    queue: LogQueue<DecisionRecord>,
    sample: f64,
}

#[derive(Debug)]
struct DecisionRecord {
    time: SystemTime,
    snapshot: Arc<Snapshot>,
    candidates: Vec<Candidate>,
    chosen: Result<usize, NoDestination>,
    decided: DecidedBy,
    /// `hit` or `miss` if the pool caches decisions and this one used the cache.
    cache: Option<&'static str>,
    tried: AttemptedSet,
    took: Duration,
}

/// Starts the writer thread. It ends when all senders are dropped and everything is written.
///
/// # Errors
/// The file cannot be opened, or the thread cannot be started.
pub(crate) fn start(
    config: &DecisionLog,
    state: Arc<LogState>,
) -> io::Result<(DecisionSender, JoinHandle<()>)> {
    let log = Log { name: "decision-log", queue: QUEUE, text };
    let (queue, thread) = log_writer::start(log, &config.target, state)?;
    Ok((DecisionSender { queue, sample: config.sample }, thread))
}

impl DecisionSampler {
    pub(crate) fn new(clock: Clock, log: Option<DecisionSender>) -> Self {
        Self { clock, untimed: Cell::new(0), log }
    }

    /// Makes a decision, and times or logs it if it is sampled.
    pub(crate) fn balance_load(
        &self,
        snapshot: &Arc<Snapshot>,
        want: &PickRequest<'_>,
        now: Tick,
        rng: &mut Rng,
        counters: impl FnOnce(&dyn Fn(&PoolCounters)),
    ) -> Result<Assignment, NoDestination> {
        let sampled = self.log.as_ref().filter(|log| rng.share() < log.sample);
        let untimed = self.untimed.get();
        if untimed > 0 && sampled.is_none() {
            self.untimed.set(untimed - 1);
            return balance_load(snapshot, want, now, rng);
        }
        self.untimed.set(TIMED_EVERY - 1);
        let explained =
            sampled.map(|log| (log, candidates(snapshot, want, now), cache_counts(snapshot, want)));
        let before = self.clock.now();
        let chosen = balance_load(snapshot, want, now, rng);
        let took = self.clock.now().since(before);
        counters(&|counters| counters.decision_took(took));
        if let Some((log, candidates, cached)) = explained {
            let on_trial = chosen.as_ref().is_ok_and(Assignment::is_trial);
            log.queue.push(DecisionRecord {
                time: Clock::wall(),
                snapshot: snapshot.clone(),
                decided: if on_trial { DecidedBy::Trial } else { decided(want, &candidates) },
                cache: cache(cached, cache_counts(snapshot, want)),
                candidates: bounded(candidates, chosen.as_ref().ok().map(Assignment::member)),
                chosen: chosen.as_ref().map(Assignment::member).map_err(|why| *why),
                tried: want.tried.copied().unwrap_or_default(),
                took,
            });
        }
        chosen
    }
}

/// Returns the cache hits and misses of this worker.
fn cache_counts(snapshot: &Snapshot, want: &PickRequest<'_>) -> Option<(u64, u64)> {
    snapshot.key_cache.as_ref().map(|counters| counters.of(want.worker))
}

/// Returns the cache result of a decision, from the counts before and after it.
fn cache(before: Option<(u64, u64)>, after: Option<(u64, u64)>) -> Option<&'static str> {
    let ((hits_before, misses_before), (hits, misses)) = (before?, after?);
    match (hits > hits_before, misses > misses_before) {
        (true, _) => Some("hit"),
        (_, true) => Some("miss"),
        _ => None,
    }
}

/// Limits the candidates, and keeps the chosen one.
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

/// Formats a record as a line of JSON: the fields of the topic `lb.decisions`, and further ones that explain the
/// decision.
fn text(record: &DecisionRecord) -> String {
    let name = |member: usize| -> &Name { &record.snapshot.members[member].destination.name };
    let tried = record.snapshot.members.iter().filter(|member| record.tried.contains(member.id));
    let tried: Vec<&str> = tried.map(|member| &*member.destination.name).collect();
    let candidates: Vec<Value> = record
        .candidates
        .iter()
        .map(|candidate| {
            let member = &record.snapshot.members[candidate.member];
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
    let reason = match record.chosen {
        Ok(_) => record.decided.as_str(),
        Err(NoDestination::Empty) => "empty",
        Err(NoDestination::NoneServing) => "none_serving",
        Err(NoDestination::AllTried) => "all_tried",
        Err(NoDestination::Full) => "full",
    };
    json!({
        "time": timestamp(record.time),
        "pool": &*record.snapshot.pool,
        "algorithm": record.snapshot.algorithm,
        "candidates": candidates,
        "candidates_total": record.snapshot.members.len(),
        "chosen": record.chosen.ok().map(|member| &**name(member)),
        "reason": reason,
        "cache": record.cache,
        "tried": tried,
        "took_us": record.took.as_nanos() as f64 / 1e3,
        "generation": record.snapshot.generation,
    })
    .to_string()
}
