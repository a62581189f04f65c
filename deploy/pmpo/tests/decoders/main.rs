//! Every decoder over its corpus: the files as they are, cut at every byte, and damaged at random. The
//! coverage-guided version of this is `deploy/fuzz`.
//!
//! Files named `valid-*` must be accepted as they are. `cargo test --release --workspace --test decoders --
//! --ignored` writes today's into the corpus, for the fuzzer to start from; what it finds is kept there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

// The fuzz targets' crate needs its items public.
#[allow(unreachable_pub)]
#[path = "../../../fuzz/decoders.rs"]
mod decoders;

/// Damaged copies tried of each file.
const DAMAGED: usize = 3_000;

fn corpus(decoder: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");
    Path::new(folder).join(decoder)
}

/// The valid encodings of today, and whatever the corpus holds beside them.
fn files(decoder: &str) -> BTreeMap<String, Vec<u8>> {
    let seeds = seeds::seeds().into_iter();
    let mut files: BTreeMap<String, Vec<u8>> = seeds
        .filter(|(of, _, _)| *of == decoder)
        .map(|(_, name, bytes)| (format!("valid-{name}"), bytes))
        .collect();
    if corpus(decoder).is_dir() {
        for entry in std::fs::read_dir(corpus(decoder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    files
}

/// One to four changes of the kinds that break parsers: flips, extreme bytes, cuts, repetitions.
fn damage(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = rng.random_range(at..=bytes.len().min(at + 16));
        match rng.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let repeated = bytes[at..end].to_vec();
                bytes.splice(at..at, repeated);
            }
            _ => {
                let mut noise = vec![0; rng.random_range(0..12)];
                rng.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
        }
    }
    bytes
}

#[test]
fn decoders_neither_panic_nor_refuse_what_is_valid() {
    for (name, decode) in decoders::DECODERS {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let files = files(name);
        assert!(
            files.keys().any(|file| file.starts_with("valid-")),
            "{name}"
        );
        for (file, bytes) in files {
            assert!(
                decode(&bytes) || !file.starts_with("valid-"),
                "{name}/{file}"
            );
            let cuts = (0..bytes.len()).step_by(bytes.len().div_ceil(512).max(1));
            for cut in cuts {
                decode(&bytes[..cut]);
            }
            let mut refused = 0;
            for _ in 0..DAMAGED {
                refused += usize::from(!decode(&damage(&bytes, &mut rng)));
            }
            assert!(refused > 0, "{name}/{file}: no damage was ever noticed");
        }
    }
}

mod seeds;

#[test]
#[ignore = "writes the corpus"]
fn write_the_corpus() {
    for (decoder, name, bytes) in seeds::seeds() {
        let folder = corpus(decoder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("valid-{name}")), bytes).unwrap();
    }
}
