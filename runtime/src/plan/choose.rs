//! Which of some devices are worth using: one more may slow the others down, by what it takes to hand work to it.

use std::collections::HashMap;

use super::Predicted;
use crate::error::Error;

/// Up to so many different sets of devices are all tried.
const FEW_SETS: usize = 256;
/// Speeds closer than this are equal.
const EQUAL: f64 = 1e-9;

/// What sets of devices are compared by: tokens per second generated, and of a prompt where those are equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Tokens generated per second.
    pub decode: f64,
    /// Tokens of a prompt per second.
    pub prefill: f64,
}

impl Speed {
    /// Whether it is faster than another by more than rounding.
    pub fn beats(self, other: Speed) -> bool {
        let above = |a: f64, b: f64| a > b * (1.0 + EQUAL);
        above(self.decode, other.decode)
            || (!above(other.decode, self.decode) && above(self.prefill, other.prefill))
    }
}

impl From<&Predicted> for Speed {
    fn from(predicted: &Predicted) -> Self {
        Speed { decode: predicted.decode_tokens_per_second, prefill: predicted.prefill_tokens_per_second }
    }
}

/// Which devices together are fastest: of each whether it is used; of equally fast sets one with most devices. Devices with
/// the same number in `alike` are the same to a plan, and the first of them are used. `speed` says how fast a set is, or
/// `None` where the model does not fit it. `None`: it fits no set that was tried.
///
/// All sets are tried where they are few, otherwise those that are reached by single steps to a faster one from all devices
/// and from none.
///
/// # Errors
/// What `speed` returns.
pub fn fastest(
    alike: &[usize],
    speed: &mut dyn FnMut(&[bool]) -> Result<Option<Speed>, Error>,
) -> Result<Option<Vec<bool>>, Error> {
    let mut kinds: Vec<usize> = alike.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    let all: Vec<usize> =
        kinds.iter().map(|kind| alike.iter().filter(|other| *other == kind).count()).collect();
    let set = |counts: &[usize]| -> Vec<bool> {
        let mut left = counts.to_vec();
        alike
            .iter()
            .map(|kind| {
                let left = &mut left[kinds.binary_search(kind).expect("one of them")];
                let used = *left > 0;
                *left -= usize::from(used);
                used
            })
            .collect()
    };
    let mut known: HashMap<Vec<usize>, Option<Speed>> = HashMap::new();
    let mut speed_of = |counts: &Vec<usize>| -> Result<Option<Speed>, Error> {
        if let Some(speed) = known.get(counts) {
            return Ok(*speed);
        }
        let found = speed(&set(counts))?;
        known.insert(counts.clone(), found);
        Ok(found)
    };
    let faster = |new: Option<Speed>, old: Option<Speed>| match (new, old) {
        (Some(new), Some(old)) => new.beats(old),
        (new, old) => new.is_some() && old.is_none(),
    };

    let mut best = (all.clone(), speed_of(&all)?);
    let sets = all.iter().try_fold(1usize, |sets, count| sets.checked_mul(count + 1));
    if sets.is_some_and(|sets| sets <= FEW_SETS) {
        let mut counts = all.clone();
        // From all of them down to none, so that of equally fast sets the largest is found first.
        while let Some(at) = counts.iter().position(|count| *count > 0) {
            counts[at] -= 1;
            counts[..at].copy_from_slice(&all[..at]);
            let found = speed_of(&counts)?;
            let more = counts.iter().sum::<usize>() > best.0.iter().sum::<usize>();
            let as_fast = !faster(best.1, found) && found.is_some();
            if faster(found, best.1) || (as_fast && more) {
                best = (counts.clone(), found);
            }
        }
    } else {
        for start in [all.clone(), vec![0; all.len()]] {
            let mut here = (start.clone(), speed_of(&start)?);
            loop {
                let mut next = here.clone();
                for at in 0..all.len() {
                    for count in [here.0[at].checked_sub(1), Some(here.0[at] + 1)].into_iter().flatten() {
                        if count > all[at] {
                            continue;
                        }
                        let mut counts = here.0.clone();
                        counts[at] = count;
                        let found = speed_of(&counts)?;
                        if faster(found, next.1) {
                            next = (counts, found);
                        }
                    }
                }
                if next.0 == here.0 {
                    break;
                }
                here = next;
            }
            if faster(here.1, best.1) {
                best = here;
            }
        }
    }
    Ok(best.1.map(|_| set(&best.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(decode: f64) -> Option<Speed> {
        Some(Speed { decode, prefill: 1.0 })
    }

    fn count(set: &[bool]) -> usize {
        set.iter().filter(|used| **used).count()
    }

    #[test]
    fn devices_that_slow_the_others_down_are_left_out() {
        // By how many are used: one and two are slower than none, eight are faster than all.
        let rates = [11.8, 10.7, 10.9, 11.0, 11.1, 11.2, 11.4, 11.6, 12.1];
        let choose = |devices: usize| {
            let speed = &mut |set: &[bool]| Ok(of(rates[count(set)]));
            fastest(&vec![0; devices], speed).unwrap().unwrap()
        };
        assert_eq!((count(&choose(2)), count(&choose(7)), count(&choose(8))), (0, 0, 8));
    }

    #[test]
    fn of_equally_fast_sets_the_largest_is_used() {
        for alike in [&[0, 0, 1][..], &[0, 1, 2]] {
            let all = fastest(alike, &mut |_| Ok(of(3.0))).unwrap();
            assert_eq!(all, Some(vec![true; 3]));
        }
        // Device 1 is a burden wherever it is.
        let without = fastest(&[0, 1, 2], &mut |set| Ok(of(if set[1] { 1.0 } else { 2.0 }))).unwrap();
        assert_eq!(without, Some(vec![true, false, true]));
        assert_eq!(fastest(&[0, 1], &mut |_| Ok(None)).unwrap(), None);
    }

    #[test]
    fn many_different_devices_are_tried_step_by_step() {
        let alike: Vec<usize> = (0..40).collect();
        let mut tried = 0;
        let speed = &mut |set: &[bool]| {
            tried += 1;
            let good = set.iter().step_by(2).filter(|used| **used).count() as f64;
            let bad = set.iter().skip(1).step_by(2).filter(|used| **used).count() as f64;
            Ok(of(10.0 + good - bad))
        };
        let found = fastest(&alike, speed).unwrap().unwrap();
        assert!((0..40).all(|device| found[device] == (device % 2 == 0)));
        assert!(tried < 5000, "{tried}");
    }
}
