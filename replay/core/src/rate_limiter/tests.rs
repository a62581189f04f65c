//! The bounds, at their edges and under any calls.

use proptest::prelude::*;

use super::*;

fn limiter(samples_per_insert: f64, min_size_to_sample: usize, error_buffer: f64) -> RateLimiter {
    let config = TableConfig {
        samples_per_insert,
        min_size_to_sample,
        error_buffer: Some(error_buffer),
        ..TableConfig::default()
    };
    config.validate().unwrap();
    RateLimiter::new(&config)
}

fn check(limiter: &RateLimiter, items: u64) -> Result<(), Blocked> {
    limiter.check_sample(items).map_err(|hold| hold.reason)
}

fn ratio(limiter: &RateLimiter) -> Ratio {
    match limiter.rule {
        Rule::Ratio { ratio, .. } => ratio,
        _ => panic!("another rule"),
    }
}

#[test]
fn inserts_are_free_until_min_size_then_bounded_above() {
    // offset 20, max_diff 24: after 10 inserts, 2 more of 2 samples each fit.
    let mut limiter = limiter(2.0, 10, 4.0);
    assert_eq!(limiter.insertable(100, 0), 12);
    limiter.inserted(12);
    assert_eq!(limiter.insertable(100, 0), 0);
    limiter.sampled(1);
    assert_eq!(limiter.insertable(100, 0), 0);
    limiter.sampled(1);
    assert_eq!(limiter.insertable(100, 0), 1);
    assert_eq!(limiter.insertable(0, 0), 0);
}

#[test]
fn samples_wait_for_min_size_then_are_bounded_below() {
    // offset 20, min_diff 16: after 10 inserts, 4 samples fit.
    let mut limiter = limiter(2.0, 10, 4.0);
    limiter.inserted(9);
    assert_eq!(check(&limiter, 1), Err(Blocked::MinSize));
    limiter.inserted(1);
    assert_eq!(check(&limiter, 4), Ok(()));
    assert_eq!(check(&limiter, 5), Err(Blocked::Inserts));
    limiter.sampled(4);
    assert_eq!(check(&limiter, 1), Err(Blocked::Inserts));
    limiter.inserted(1);
    assert_eq!(check(&limiter, 2), Ok(()));
    assert_eq!(check(&limiter, 3), Err(Blocked::Inserts));
}

#[test]
fn removals_lower_the_size_but_not_the_ratio() {
    let mut limiter = limiter(1.0, 2, 2.0);
    limiter.inserted(2);
    limiter.removed(1);
    assert_eq!(limiter.size(), 1);
    assert_eq!(check(&limiter, 1), Err(Blocked::MinSize));
    assert_eq!(limiter.insertable(9, 0), 2);
}

#[test]
fn the_largest_batch_leaves_room_for_one_insert() {
    for (samples_per_insert, error_buffer, expected) in [
        (64.0, 6_400.0, 12_736),
        (1.0, 1.0, 1),
        (0.1, 1.0, 1),
        (0.5, 1.25, 2),
        (256.0, 256.0, 256),
    ] {
        let limiter = limiter(samples_per_insert, 10, error_buffer);
        assert_eq!(
            limiter.max_batch().0,
            expected,
            "{samples_per_insert} {error_buffer}"
        );
    }
}

#[test]
fn a_queue_is_full_or_empty_and_the_others_hold_no_insert() {
    let of = |limiter| {
        RateLimiter::new(&TableConfig {
            limiter,
            max_size: 3,
            min_size_to_sample: 2,
            max_times_sampled: 1,
            ..TableConfig::default()
        })
    };
    let mut queue = of(LimiterKind::Queue);
    assert_eq!(check(&queue, 1), Err(Blocked::MinSize));
    assert_eq!(queue.insertable(5, 0), 3);
    queue.inserted(3);
    assert_eq!(queue.insertable(5, 0), 0);
    assert_eq!(
        queue.insert_hold().to_string(),
        "waiting for samples: size is 3, at most 2 is needed"
    );
    assert_eq!((check(&queue, 3), queue.max_batch().0), (Ok(()), 3));
    queue.removed(1);
    assert_eq!(queue.insertable(5, 0), 1);
    let mut min_size = of(LimiterKind::MinSize);
    min_size.inserted(1);
    assert_eq!(check(&min_size, 1), Err(Blocked::MinSize));
    min_size.inserted(1);
    assert_eq!(
        (check(&min_size, 1_000), min_size.insertable(9, 0)),
        (Ok(()), 9)
    );
    let mut none = of(LimiterKind::None);
    assert_eq!(check(&none, 1), Err(Blocked::MinSize));
    none.inserted(1);
    assert_eq!((check(&none, 1_000), none.insertable(9, 0)), (Ok(()), 9));
}

#[test]
fn a_call_held_back_says_by_which_counter() {
    let mut limiter = limiter(2.0, 10, 4.0);
    limiter.inserted(9);
    assert_eq!(
        limiter.check_sample(3).unwrap_err().to_string(),
        "waiting for min_size_to_sample items: size is 9, at least 10 is needed"
    );
    limiter.inserted(3);
    assert_eq!(
        limiter.insert_hold().to_string(),
        "waiting for samples: inserts * samples_per_insert - samples is 24, at most 22 is needed"
    );
    limiter.sampled(7);
    assert_eq!(
        limiter.check_sample(3).unwrap_err().to_string(),
        "waiting for inserts: inserts * samples_per_insert - samples is 17, at least 19 is \
         needed"
    );
}

/// Without a new base, `inserts * samples_per_insert` would jump by a million here and block one
/// side for as long.
#[test]
fn a_new_ratio_counts_from_where_it_begins() {
    let mut config = TableConfig {
        samples_per_insert: 2.0,
        min_size_to_sample: 10,
        error_buffer: Some(40.0),
        ..TableConfig::default()
    };
    let mut limiter = RateLimiter::new(&config);
    limiter.inserted(1_000_000);
    limiter.sampled(2_000_000 - 20 - 30);
    assert_eq!(limiter.insertable(100, 0), 5, "30 of 40 ahead");
    config.samples_per_insert = 1.0;
    limiter.reconfigure(&config);
    assert_eq!(limiter.insertable(100, 0), 10, "still 30 of 40 ahead");
    config.error_buffer = Some(8.0);
    limiter.reconfigure(&config);
    assert_eq!(limiter.insertable(100, 0), 0, "as far ahead as can be");
    assert_eq!(check(&limiter, 16), Ok(()));
    let stored = limiter.state();
    let mut restored = RateLimiter::new(&config);
    restored.restore(stored, &config, &config);
    assert_eq!(restored, limiter);
    assert_eq!(restored.state(), stored, "the same rules keep their base");
    config.min_size_to_sample = 2_000_000;
    limiter.reconfigure(&config);
    assert_eq!(check(&limiter, 1), Err(Blocked::MinSize));
    limiter.inserted(1_000_000);
    assert_eq!(
        (limiter.insertable(100, 0), check(&limiter, 8)),
        (8, Ok(()))
    );
}

proptest! {
    /// Whatever is asked in whatever order: the bounds hold once `min_size_to_sample` is reached,
    /// and as long as the batch is one the limiter can serve, someone can always go on.
    #[test]
    fn bounds_hold_and_nobody_waits_for_ever(
        samples_per_insert in prop_oneof![(1u32..100).prop_map(f64::from), 0.01f64..100.0],
        min_size in 1usize..50,
        slack in 0.0f64..200.0,
        asks in prop::collection::vec((any::<bool>(), 1u64..40), 1..200),
    ) {
        let mut limiter =
            limiter(samples_per_insert, min_size, (samples_per_insert + 1.0) / 2.0 + slack);
        let max_batch = limiter.max_batch().0;
        let ratio = ratio(&limiter);
        for (insert, items) in asks {
            let batch = items.min(max_batch);
            if insert {
                let inserted = limiter.insertable(items, 0);
                prop_assert!(inserted <= items);
                limiter.inserted(inserted);
            } else if limiter.check_sample(batch).is_ok() {
                limiter.sampled(batch);
            }
            prop_assert!(limiter.size() <= min_size as u64 || limiter.diff(&ratio) <= ratio.max_diff() + 2.0 * ROUNDING);
            prop_assert!(limiter.samples() == 0 || limiter.diff(&ratio) >= ratio.min_diff() - 2.0 * ROUNDING);
            prop_assert!(limiter.samples() == 0 || limiter.size() >= min_size as u64);
            prop_assert!(limiter.insertable(1, 0) == 1 || limiter.check_sample(max_batch).is_ok());
        }
    }
}
