//! Bounded runs of fuzz targets in the normal test suite: the seed corpus, and deterministic mutations of it.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that parsers treat specially.
const SPECIAL: &[u8] = b"\0\x01\x10\x16\x20\x7f\x80\xff\r\n\t :;,=/?*\"'[]{}()-+.09aAzZ";
/// Longest mutated input.
const MAX_LEN: usize = 4096;

/// Runs `target` on the seeds in `fuzz/corpus/NAME` and on `mutations` inputs derived from them.
pub fn replay(name: &str, mutations: usize, target: impl Fn(&[u8])) {
    let seeds = seeds(name);
    let run = |input: &[u8]| {
        let failed = Failed { name, input };
        target(input);
        std::mem::forget(failed);
    };
    run(b"");
    seeds.iter().for_each(|seed| run(seed));
    let mut random = Random(name.bytes().fold(0x9e37_79b9_7f4a_7c15, |n, b| n.rotate_left(8) ^ u64::from(b)));
    for _ in 0..mutations {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            mutate(&mut input, &seeds, &mut random);
        }
        input.truncate(MAX_LEN);
        run(&input);
    }
}

/// Prints the input if the target panics.
struct Failed<'i> {
    name: &'i str,
    input: &'i [u8],
}

impl Drop for Failed<'_> {
    fn drop(&mut self) {
        eprintln!("fuzz target {} failed on {:?}", self.name, self.input.escape_ascii().to_string());
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a seed").path()).collect();
    // Inputs that fuzzing adds would make the run depend on the machine.
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seed"));
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", folder.display());
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(16)).min(input.len());
    match random.below(7) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = SPECIAL[random.below(SPECIAL.len())],
        2 => input.insert(at, SPECIAL[random.below(SPECIAL.len())]),
        3 => drop(input.drain(at..end)),
        4 => {
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        5 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            input.splice(at.., other[from..].iter().copied());
        }
        _ => input.truncate(at),
    }
}

/// Generator of random numbers (xorshift64*), the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}
