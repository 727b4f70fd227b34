//! The reference's choice among equally good hosts, draw for draw.
//!
//! The reference seeds a splittable generator with the scenario's seed, draws the seed of a linear congruential one from it, and
//! from that the seed of the splittable generator that chooses. A splittable generator of fixed gamma is a counter behind a
//! mixer (Steele, Lea, Flood, OOPSLA 2014), so the state is the number of draws: forks and snapshots need nothing else.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Draw number `count` (from 1) of a splittable generator, as 64 bits.
fn long(seed: u64, count: u64) -> u64 {
    let mut z = seed.wrapping_add(count.wrapping_mul(GAMMA));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The same as 32 bits, which have a mixer of their own.
fn int(seed: u64, count: u64) -> u32 {
    let mut z = seed.wrapping_add(count.wrapping_mul(GAMMA));
    z = (z ^ (z >> 33)).wrapping_mul(0x62a9_d9ed_7997_05f5);
    ((z ^ (z >> 28)).wrapping_mul(0xcb24_d0a5_c88c_35b3) >> 32) as u32
}

/// First 64 bits of the linear congruential generator of `seed` (Knuth, TAOCP 2, 3.2.1; 48 bits of state).
fn congruential_long(seed: u64) -> u64 {
    const MULTIPLIER: u64 = 0x5_deec_e66d;
    const MASK: u64 = (1 << 48) - 1;
    let mut state = (seed ^ MULTIPLIER) & MASK;
    let mut next = || {
        state = state.wrapping_mul(MULTIPLIER).wrapping_add(0xb) & MASK;
        (state >> 16) as u32 as i32
    };
    let (high, low) = (i64::from(next()), i64::from(next()));
    (high << 32).wrapping_add(low) as u64
}

/// Seed of the generator that chooses hosts in a scenario.
pub fn placement_seed(scenario_seed: u64) -> u64 {
    congruential_long(long(scenario_seed, 1))
}

/// A number below `bound`, drawn after `drawn` others; also how many draws it took.
pub fn below(seed: u64, drawn: u64, bound: u32) -> (u32, u64) {
    let mask = bound - 1;
    let mut count = drawn + 1;
    let first = int(seed, count);
    if bound & mask == 0 {
        return (first & mask, 1);
    }
    loop {
        // Values above the last whole multiple of the bound would favour small results: draw again.
        let value = (int(seed, count) >> 1) as i32;
        let result = value % bound as i32;
        if value.wrapping_add(mask as i32).wrapping_sub(result) >= 0 {
            return (result as u32, count - drawn);
        }
        count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `SplittableRandom` and `Random` of Java 17 give.
    #[test]
    fn draws_are_those_of_java() {
        assert_eq!(long(0, 1) as i64, -2_152_535_657_050_944_081);
        assert_eq!(long(42, 1) as i64, -4_767_286_540_954_276_203);
        assert_eq!(congruential_long(42) as i64, -5_025_562_857_975_149_833);
        let drawn: Vec<u32> = (0..8).map(|n| below(7, n, 12).0).collect();
        assert_eq!(drawn, [4, 9, 1, 9, 9, 7, 11, 9]);
        assert_eq!(placement_seed(0) as i64, 1_727_666_844_205_113_486);
    }

    #[test]
    fn all_values_below_the_bound_are_drawn() {
        let mut seen = [0u32; 12];
        let mut drawn = 0;
        for _ in 0..12_000 {
            let (value, used) = below(placement_seed(0), drawn, 12);
            seen[value as usize] += 1;
            drawn += used;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
    }
}
