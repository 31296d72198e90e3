//! Memory of replayed processes: time is counted here and nowhere waited for.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

const MIB: f64 = 1_048_576.0;
/// How often the replayed process is looked at, in seconds.
const STEP: u64 = 5;

fn at(seconds: u64) -> Nanos {
    Duration::from_secs(seconds).into()
}

/// What was told each minute, of a process that began at second 0 and is looked at from then on.
struct Replay {
    estimator: Estimator,
    /// The first second in which it was said to grow.
    reported: Option<u64>,
    /// How many minutes it was said to grow in.
    minutes: u64,
    known: Option<u64>,
}

fn replay(seconds: u64, memory: impl Fn(u64) -> f64) -> Replay {
    let mut replay = Replay { estimator: Estimator::new(at(0), at(0)), reported: None, minutes: 0, known: None };
    for second in (0..seconds).step_by(STEP as usize) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes of memory are positive")]
        replay.estimator.add(at(second), memory(second) as u64);
        let Some(growth) = replay.estimator.growth() else { continue };
        replay.known.get_or_insert(second);
        if growth.since.is_some() {
            replay.reported.get_or_insert(second);
            replay.minutes += u64::from(second % 60 == 0);
        }
    }
    replay
}

/// From 0 to 1, again each `period`.
fn tooth(second: u64, period: u64) -> f64 {
    float(second % period) / float(period)
}

/// The same number for the same second, from -1 to 1.
fn noise(second: u64, seed: u64) -> f64 {
    let mut x = second.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    float((x ^ (x >> 31)) >> 12) / float(1 << 51) - 1.0
}

#[test]
fn a_leak_of_10_mib_an_hour_is_reported_within_half_an_hour() {
    let leak = |second: u64| (80.0 + 10.0 * float(second) / 3600.0) * MIB;
    let replay = replay(2 * 3600, leak);
    let reported = replay.reported.expect("it leaks");
    assert!(reported <= 30 * 60, "after {reported} s");
    let growth = replay.estimator.growth().expect("it is known");
    assert!((growth.bytes_per_hour / MIB - 10.0).abs() < 0.05, "{growth:?}");
    let since = growth.since.expect("it grows");
    assert!(since <= at(6 * 60), "since {since:?}, and it has ever since it began");
}

#[test]
fn so_it_is_beneath_noise_and_small_teeth() {
    for seed in 0..10 {
        let leak = |second: u64| {
            (80.0 + 10.0 * float(second) / 3600.0 + 0.4 * noise(second, seed) + 0.8 * tooth(second, 240)) * MIB
        };
        let replay = replay(3600, leak);
        assert!(replay.reported.is_some_and(|second| second <= 30 * 60), "seed {seed}: {:?}", replay.reported);
        let growth = replay.estimator.growth().expect("it is known");
        assert!((growth.bytes_per_hour / MIB - 10.0).abs() < 0.5, "seed {seed}: {growth:?}");
    }
}

#[test]
fn a_leak_that_begins_after_a_day_is_known_half_an_hour_later_and_since_when() {
    const START: u64 = 86_400;
    let leak = |second: u64| (80.0 + 10.0 * float(second.saturating_sub(START)) / 3600.0) * MIB;
    let replay = replay(START + 3600, leak);
    let reported = replay.reported.expect("it leaks");
    assert!((START..=START + 30 * 60).contains(&reported), "{} s after it began", reported - START);
    let since = replay.estimator.growth().and_then(|growth| growth.since).expect("it grows");
    assert!(since >= at(START - 120) && since <= at(START + 15 * 60), "since {since:?}");
}

#[test]
fn a_healthy_sawtooth_never_is() {
    for period in [30, 60, 119, 300, 421, 600, 900, 1200, 1500] {
        for height in [2.0, 300.0] {
            let replay = replay(4 * 3600, |second| (80.0 + height * tooth(second, period)) * MIB);
            assert_eq!(replay.reported, None, "teeth of {height} MiB each {period} s");
            assert!(replay.known.is_some(), "and that is known");
        }
    }
}

#[test]
fn teeth_of_hours_are_no_leak_once_one_has_ended() {
    for period in [2400, 3600, 6000] {
        let memory = |second: u64| (80.0 + 50.0 * tooth(second, period)) * MIB;
        let before = replay(period, memory).minutes;
        assert!(before > 0, "nothing tells it from a leak: {period} s");
        let after = replay(86_400, memory).minutes;
        assert!(after <= before + 2, "{before} minutes before the first ended, {after} in a day: {period} s");
    }
}

/// Nothing is seen of the one before it, so that it looks like a leak until it ends.
#[test]
fn a_first_tooth_of_25_minutes_is_no_leak_whenever_it_begins() {
    for period in [1446, 1499] {
        for begins in (120..=300).step_by(10) {
            let memory = |second: u64| (10.0 + 750.0 * tooth(second + period - begins, period)) * MIB;
            assert_eq!(replay(50 * 60, memory).reported, None, "{period} s from {begins} s on");
        }
    }
}

#[test]
fn a_leak_shows_beneath_teeth_that_are_larger() {
    let memory = |second: u64| (80.0 + 10.0 * float(second) / 3600.0 + 15.0 * tooth(second, 480)) * MIB;
    let replay = replay(3 * 3600, memory);
    assert!(replay.reported.is_some_and(|second| second <= 2 * 3600), "{:?}", replay.reported);
    let growth = replay.estimator.growth().expect("it is known");
    assert!((growth.bytes_per_hour / MIB - 10.0).abs() < 0.1, "{growth:?}");
}

#[test]
fn a_start_a_step_and_noise_are_no_leak() {
    let start = |second: u64| 400.0 * (1.0 - (-float(second) / 60.0).exp());
    let step = |second: u64| if second > 10_000 { 900.0 } else { 100.0 };
    for seed in 0..2 {
        for sigma in [0.5, 5.0] {
            let noise = |second: u64| sigma * noise(second, seed);
            for (name, memory) in [("start", &start as &dyn Fn(u64) -> f64), ("step", &step), ("flat", &|_| 500.0)] {
                let replay = replay(8 * 3600, |second| (memory(second) + noise(second)) * MIB);
                assert_eq!(replay.reported, None, "{name} with noise of {sigma} MiB, seed {seed}");
            }
        }
    }
}

#[test]
fn growth_that_stops_is_growth_no_more() {
    let memory = |second: u64| (80.0 + 60.0 * float(second.min(7200)) / 3600.0) * MIB;
    let replay = replay(5 * 3600, memory);
    assert!(replay.reported.is_some());
    let growth = replay.estimator.growth().expect("it is known");
    assert_eq!((growth.since, growth.bytes_per_hour), (None, 0.0));
}

#[test]
fn nothing_is_told_before_it_is_known_and_after_a_pause() {
    let mut replay = replay(30 * 60, |second| (80.0 + float(second)) * MIB);
    assert_eq!(replay.known, None);
    replay.estimator.add(at(30 * 60), 100);
    assert!(replay.estimator.growth().is_some());
    replay.estimator.add(at(30 * 60 + 15 * 60), 100);
    assert_eq!(replay.estimator.growth(), None);
}

#[test]
fn what_a_process_loads_as_it_begins_is_not_looked_at() {
    let mut estimator = Estimator::new(at(0), at(60));
    let warm_up = WARM_UP.as_secs();
    for (second, resident) in [(warm_up - 1, 1), (warm_up, 5), (warm_up + 1, 7), (warm_up + 60, 9), (warm_up + 120, 9)]
    {
        estimator.add(at(second), resident);
    }
    let bins: Vec<_> = estimator.bins.iter().map(|bin| (bin.low, bin.high)).collect();
    assert_eq!(bins, [(5, 7), (9, 9)]);
}

#[test]
fn a_pause_of_more_than_ten_minutes_makes_everything_begin_anew() {
    for (pause, known) in [(PAUSE_MAX, true), (PAUSE_MAX + 1, false)] {
        let mut replay = replay(3600, |_| 80.0 * MIB);
        // The last look was in the minute before.
        replay.estimator.add(at(3600 + 60 * (pause - 1)), 80 << 20);
        assert_eq!(replay.estimator.growth().is_some(), known, "after {pause} minutes");
    }
}

#[test]
fn a_tooth_is_as_long_as_it_was_not_so_low_and_as_high_as_it_fell() {
    let mut estimator = Estimator::new(at(0), at(0));
    for (low, high) in [(10, 10), (12, 13), (15, 18), (11, 12), (5, 6)] {
        estimator.push(low, high);
    }
    let teeth: Vec<_> = estimator.bins.iter().map(|bin| (bin.tooth, bin.height, bin.peak)).collect();
    // The last is lower than all before, so that it is only as high as it fell from the one before.
    assert_eq!(teeth, [(0, 0, 10), (1, 0, 13), (1, 0, 18), (3, 4, 18), (4, 6, 18)]);
}

#[test]
fn a_week_takes_no_more_memory_than_six_hours() {
    let estimator = replay(7 * 86_400, |second| (80.0 + 5.0 * noise(second, 1)) * MIB).estimator;
    assert_eq!(estimator.bins.len(), BINS_MAX);
    assert!(estimator.bins.capacity() <= 2 * BINS_MAX, "{}", estimator.bins.capacity());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..crate::regressions::config() })]

    #[test]
    fn any_leak_without_noise_is_found_with_its_slope(rate in 5.0..500.0_f64, base in 10.0..4000.0_f64) {
        let replay = replay(3600, |second| (base + rate * float(second) / 3600.0) * MIB);
        prop_assert!(replay.reported.is_some_and(|second| second <= 30 * 60));
        let growth = replay.estimator.growth().expect("it is known");
        prop_assert!((growth.bytes_per_hour / MIB / rate - 1.0).abs() < 0.005, "{growth:?} for {rate}");
    }

    #[test]
    fn no_sawtooth_of_up_to_25_minutes_is_a_leak(
        period in 10..1500_u64,
        height in 0.5..1000.0_f64,
        base in 10.0..4000.0_f64,
        shift in 0..1500_u64,
    ) {
        let replay = replay(3 * 3600, |second| (base + height * tooth(second + shift, period)) * MIB);
        prop_assert_eq!(replay.reported, None);
    }
}

#[test]
fn any_values_at_any_times_are_taken() {
    // After a pause of a quarter of an hour everything begins anew, so there are few.
    let step = prop_oneof![300 => 0..60_u64, 1 => 0..4_000_u64];
    let values = prop::collection::vec((step, any::<u64>()), 0..600);
    let (cases, known) = (64, Cell::new(0));
    crate::regressions::check(cases, file!(), &values, |values| {
        let mut estimator = Estimator::new(at(5), at(9));
        let (mut now, mut told) = (0, false);
        for (step, value) in values {
            now += step;
            estimator.add(at(now), value);
            if let Some(growth) = estimator.growth() {
                prop_assert!(growth.bytes_per_hour.is_finite());
                told = true;
            }
        }
        known.set(known.get() + u32::from(told));
        Ok(())
    });
    assert!(known.get() > cases / 5, "a slope was known in {} of {cases}", known.get());
}
