//! Models of the concurrent parts, checked by loom in every interleaving of their threads.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p plimsoll-core --test loom --release`
//!
//! Without `--cfg loom` this file is empty.

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering::SeqCst};
use loom::thread;

use plimsoll_core::limit::Limit;
use plimsoll_core::stats::TrialSlot;

fn limit(max: u32) -> Arc<Limit> {
    let limit = Limit::default();
    limit.set_max(max);
    Arc::new(limit)
}

#[test]
fn a_limit_is_never_exceeded_and_all_is_released() {
    loom::model(|| {
        let (limit, held) = (limit(1), Arc::new(AtomicU32::new(0)));
        let message = |limit: Arc<Limit>, held: Arc<AtomicU32>| {
            move || {
                let acquired = limit.try_acquire().is_some();
                if acquired {
                    assert_eq!(held.fetch_add(1, SeqCst), 0, "two messages hold a limit of one");
                    held.fetch_sub(1, SeqCst);
                    limit.release();
                }
                acquired
            }
        };
        let other = thread::spawn(message(limit.clone(), held.clone()));
        let here = message(limit.clone(), held)();
        let there = other.join().expect("no panic");
        assert!(here || there, "one of them finds it free");
        assert_eq!(limit.current(), 0);
    });
}

#[test]
fn a_lower_maximum_admits_nothing_while_more_is_held() {
    loom::model(|| {
        let limit = limit(2);
        limit.try_acquire().expect("free");
        let message = {
            let limit = limit.clone();
            thread::spawn(move || limit.try_acquire().is_some())
        };
        limit.set_max(1);
        assert!(limit.try_acquire().is_none(), "the maximum of one is reached");
        let acquired = message.join().expect("no panic");
        assert_eq!(limit.current(), 1 + u32::from(acquired));
        limit.release();
        if acquired {
            assert!(limit.try_acquire().is_none());
            limit.release();
        }
        assert_eq!((limit.try_acquire(), limit.try_acquire()), (Some(0), None));
    });
}

#[test]
fn a_released_place_is_seen_by_a_message_that_was_queued_before() {
    loom::model(|| {
        let (limit, waiting) = (limit(1), Arc::new(AtomicU32::new(0)));
        limit.try_acquire().expect("free");
        let queued = {
            let (limit, waiting) = (limit.clone(), waiting.clone());
            thread::spawn(move || {
                waiting.fetch_add(1, SeqCst);
                limit.try_acquire().is_some()
            })
        };
        limit.release();
        // What `PoolLimiter::wake_waiters` reads. Missing both would leave a message in the queue for good.
        let woken = waiting.fetch_add(0, SeqCst) > 0;
        assert!(queued.join().expect("no panic") || woken);
    });
}

#[test]
fn exactly_one_message_takes_the_trial() {
    loom::model(|| {
        let trial = Arc::new(TrialSlot::default());
        trial.open();
        let threads = [0; 2].map(|_| {
            let trial = trial.clone();
            thread::spawn(move || trial.take().is_some())
        });
        let here = trial.take().is_some();
        let taken = threads.map(|thread| thread.join().expect("no panic"));
        assert_eq!(u32::from(here) + u32::from(taken[0]) + u32::from(taken[1]), 1);
        assert!(!trial.is_open());
    });
}

#[test]
fn a_cancelled_trial_is_open_again() {
    loom::model(|| {
        let trial = Arc::new(TrialSlot::default());
        trial.open();
        let message = {
            let trial = trial.clone();
            thread::spawn(move || trial.take().map(|taken| trial.give_back(taken)).is_some())
        };
        let here = trial.take();
        let there = message.join().expect("no panic");
        assert!(there || here.is_some());
        assert_eq!(trial.is_open(), here.is_none());
        assert!(here.is_none_or(|taken| trial.is_current(taken)));
    });
}

#[test]
fn a_late_message_neither_reopens_nor_decides_a_later_trial() {
    loom::model(|| {
        let trial = Arc::new(TrialSlot::default());
        trial.open();
        let early = trial.take().expect("open");
        let message = {
            let trial = trial.clone();
            thread::spawn(move || trial.give_back(early))
        };
        trial.close();
        assert!(!trial.is_open() && trial.take().is_none(), "a closed trial stays closed");
        trial.open();
        let late = trial.take().expect("the second trial is open");
        assert!(trial.is_current(late) && !trial.is_current(early));
        message.join().expect("no panic");
        assert!(trial.is_current(late) && !trial.is_open(), "the first message changes nothing");
    });
}
