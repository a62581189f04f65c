//! A small language of reviews with a good or a bad word in each clause, to fine-tune models on that are trained
//! from nothing within minutes:
//!
//! ```text
//! review of the hotel : the room was very nice and the staff was not rude .
//! ```
//!
//! A prompt is `review of the <subject> :`. A completion is one to three clauses with `and` or `but` between them,
//! and ends with `.`; a clause is `the <aspect> was [not] [very|really] <adjective>`. Aspects are the subject's own,
//! and none comes twice; adjectives are general ones or such as suit the aspect. A completion has [`SHORTEST`] to
//! [`LONGEST`] words, `.` among them.
//!
//! Its own, after the manner of the movie reviews of Ziegler et al., "Fine-Tuning Language Models from Human
//! Preferences" (2019). Each adjective has a valence of its sign in the lexicon of VADER (Hutto and Gilbert, 2014;
//! `vaderSentiment` 3.3.2), all other words but `not`, `but`, `very` and `really` mean nothing to it, and good and
//! bad adjectives are drawn equally often, so that the mean sentiment is about 0.
//!
//! Four of the sixteen subjects are held out. Their aspects are all known from the others, but which aspects are
//! theirs is not: a model can follow the grammar there only if it was taught the language on all subjects before
//! it was fine-tuned on twelve.

use rand::{Rng, RngExt};

/// The least words of a completion.
pub const SHORTEST: usize = 6;
/// The most words of a completion.
pub const LONGEST: usize = 18;
/// What is no word: padding, and the beginning and the end of a text.
pub const SPECIALS: [&str; 3] = ["<pad>", "<bos>", "<eos>"];

const FUNCTIONS: [&str; 7] = ["review", "of", "the", ":", "was", "not", "."];
const INTENSIFIERS: [&str; 2] = ["very", "really"];
const CONJUNCTIONS: [&str; 2] = ["and", "but"];
const CLAUSES: usize = 3;
/// Words of a clause without `not` and an intensifier.
const CLAUSE: usize = 4;

type Subject = (&'static str, [&'static str; 4]);

const TRAINING: [Subject; 12] = [
    ("hotel", ["room", "pool", "staff", "breakfast"]),
    ("restaurant", ["kitchen", "waiter", "food", "menu"]),
    ("museum", ["hall", "guide", "tour", "entrance"]),
    ("school", ["building", "garden", "teacher", "lesson"]),
    ("hospital", ["room", "doctor", "food", "entrance"]),
    ("cinema", ["seat", "hall", "staff", "film"]),
    ("library", ["building", "window", "staff", "tour"]),
    ("gym", ["floor", "pool", "teacher", "music"]),
    ("bakery", ["kitchen", "owner", "bread", "coffee"]),
    ("farm", ["garden", "owner", "tour", "breakfast"]),
    ("ferry", ["deck", "seat", "crew", "menu"]),
    ("bus", ["seat", "window", "driver", "music"]),
];

const HELD_OUT: [Subject; 4] = [
    ("pub", ["floor", "owner", "music", "food"]),
    ("cafe", ["garden", "waiter", "coffee", "bread"]),
    ("theater", ["entrance", "seat", "staff", "music"]),
    ("train", ["window", "crew", "driver", "breakfast"]),
];

const GOOD: [&str; 5] = ["good", "great", "excellent", "nice", "pleasant"];
const BAD: [&str; 5] = ["bad", "terrible", "awful", "horrible", "nasty"];

/// Aspects, and the adjectives that suit them but not all others.
struct Kind {
    aspects: &'static [&'static str],
    good: [&'static str; 2],
    bad: [&'static str; 2],
}

const KINDS: [Kind; 3] = [
    Kind {
        aspects: &[
            "staff", "waiter", "guide", "teacher", "doctor", "owner", "crew", "driver",
        ],
        good: ["friendly", "helpful"],
        bad: ["rude", "lazy"],
    },
    Kind {
        aspects: &[
            "room", "pool", "kitchen", "hall", "entrance", "building", "garden", "seat", "window",
            "floor", "deck",
        ],
        good: ["clean", "lovely"],
        bad: ["dirty", "ugly"],
    },
    Kind {
        aspects: &[
            "food",
            "menu",
            "breakfast",
            "bread",
            "coffee",
            "music",
            "tour",
            "lesson",
            "film",
        ],
        good: ["interesting", "enjoyable"],
        bad: ["boring", "disappointing"],
    },
];

/// The vocabulary: the special tokens first, then all words, each once; a word's place is its token.
pub fn words() -> Vec<&'static str> {
    let mut words = [&SPECIALS[..], &FUNCTIONS, &INTENSIFIERS, &CONJUNCTIONS].concat();
    words.extend(TRAINING.iter().chain(&HELD_OUT).map(|(name, _)| *name));
    words.extend(KINDS.iter().flat_map(|kind| kind.aspects));
    words.extend(GOOD.iter().chain(&BAD));
    words.extend(
        KINDS
            .iter()
            .flat_map(|kind| kind.good.iter().chain(&kind.bad)),
    );
    words
}

/// All prompts: of the subjects for training, or of those held out.
pub fn prompts(held_out: bool) -> Vec<Vec<&'static str>> {
    let subjects = subjects(held_out).iter();
    subjects.map(|(name, _)| prompt(name)).collect()
}

/// A prompt and a completion of it. Each subject is equally likely, each number of clauses, and for each clause a
/// good and a bad adjective.
pub fn sample(rng: &mut impl Rng, held_out: bool) -> (Vec<&'static str>, Vec<&'static str>) {
    let subjects = subjects(held_out);
    let (name, mut aspects) = subjects[rng.random_range(0..subjects.len())];
    let clauses = rng.random_range(1..=CLAUSES);
    // What is left for `not` and intensifiers, after the bare clauses, what stands between them, and the end.
    let bare = clauses * CLAUSE + clauses;
    let (mut wanting, mut spare) = (SHORTEST.saturating_sub(bare), LONGEST - bare);
    let mut completion = Vec::with_capacity(LONGEST);
    for clause in 0..clauses {
        if clause > 0 {
            completion.push(pick(rng, &CONJUNCTIONS));
        }
        // The aspects before `clause` have had their turn.
        let drawn = rng.random_range(clause..aspects.len());
        aspects.swap(clause, drawn);
        completion.extend(["the", aspects[clause], "was"]);
        if spare > 0 && rng.random_bool(0.2) {
            completion.push("not");
            (wanting, spare) = (wanting.saturating_sub(1), spare - 1);
        }
        if spare > 0 && (wanting > 0 || rng.random_bool(0.4)) {
            completion.push(pick(rng, &INTENSIFIERS));
            (wanting, spare) = (wanting.saturating_sub(1), spare - 1);
        }
        let (good, bad) = adjectives(aspects[clause]);
        let fitting = if rng.random_bool(0.5) { good } else { bad };
        completion.push(pick(rng, &fitting));
    }
    completion.push(".");
    (prompt(name), completion)
}

/// Whether a prompt and its completion are of the language, and the completion is whole.
pub fn parses(prompt: &[&str], completion: &[&str]) -> bool {
    let ["review", "of", "the", subject, ":"] = prompt else {
        return false;
    };
    let mut subjects = TRAINING.iter().chain(&HELD_OUT);
    let Some((_, own)) = subjects.find(|(name, _)| name == subject) else {
        return false;
    };
    let [clauses @ .., "."] = completion else {
        return false;
    };
    if !(SHORTEST..=LONGEST).contains(&completion.len()) {
        return false;
    }
    let mut said = Vec::with_capacity(CLAUSES);
    for clause in clauses.split(|word| CONJUNCTIONS.contains(word)) {
        match aspect(clause) {
            Some(aspect) if own.contains(&aspect) && !said.contains(&aspect) => said.push(aspect),
            _ => return false,
        }
    }
    said.len() <= CLAUSES
}

/// What a clause is about; nothing if it is none.
fn aspect<'a>(clause: &[&'a str]) -> Option<&'a str> {
    let ["the", aspect, "was", said @ .., adjective] = clause else {
        return None;
    };
    let said = said.strip_prefix(&["not"]).unwrap_or(said);
    let (good, bad) = adjectives(aspect);
    let fits = good.contains(adjective) || bad.contains(adjective);
    match said {
        [] => fits.then_some(*aspect),
        [word] => (fits && INTENSIFIERS.contains(word)).then_some(*aspect),
        _ => None,
    }
}

/// The good and the bad adjectives for an aspect; the general ones for a word that is none.
fn adjectives(aspect: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let (mut good, mut bad) = (GOOD.to_vec(), BAD.to_vec());
    if let Some(kind) = KINDS.iter().find(|kind| kind.aspects.contains(&aspect)) {
        good.extend(kind.good);
        bad.extend(kind.bad);
    }
    (good, bad)
}

fn subjects(held_out: bool) -> &'static [Subject] {
    if held_out { &HELD_OUT } else { &TRAINING }
}

fn prompt(subject: &'static str) -> Vec<&'static str> {
    vec!["review", "of", "the", subject, ":"]
}

fn pick(rng: &mut impl Rng, words: &[&'static str]) -> &'static str {
    words[rng.random_range(0..words.len())]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn split(text: &str) -> (Vec<&str>, Vec<&str>) {
        let words: Vec<&str> = text.split(' ').collect();
        let colon = words.iter().position(|word| *word == ":").unwrap();
        (words[..=colon].to_vec(), words[colon + 1..].to_vec())
    }

    #[test]
    fn the_vocabulary_has_eighty_words_each_once() {
        let words = words();
        assert_eq!(words.len(), 80);
        assert_eq!(words[..3], SPECIALS);
        let distinct: BTreeSet<&str> = words.iter().copied().collect();
        assert_eq!(distinct.len(), words.len());
        assert!(words.iter().all(|word| !word.contains(char::is_whitespace)));
    }

    #[test]
    fn every_aspect_is_of_one_kind_and_known_from_training() {
        let of = |subjects: &[Subject]| -> BTreeSet<&str> {
            subjects.iter().flat_map(|(_, aspects)| *aspects).collect()
        };
        let kinds: Vec<&str> = KINDS
            .iter()
            .flat_map(|kind| kind.aspects)
            .copied()
            .collect();
        assert_eq!(of(&TRAINING), kinds.iter().copied().collect());
        assert!(of(&HELD_OUT).is_subset(&of(&TRAINING)));
    }

    #[test]
    fn what_is_sampled_parses_and_uses_every_word() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let vocabulary = words();
        let (mut seen, mut lengths) = (BTreeSet::new(), BTreeMap::new());
        for round in 0..20_000 {
            let held_out = round % 2 == 1;
            let (prompt, completion) = sample(&mut rng, held_out);
            assert!(parses(&prompt, &completion), "{prompt:?} {completion:?}");
            assert!(prompts(held_out).contains(&prompt) && !prompts(!held_out).contains(&prompt));
            *lengths.entry(completion.len()).or_insert(0) += 1;
            seen.extend(prompt.into_iter().chain(completion));
        }
        assert_eq!(seen, vocabulary[3..].iter().copied().collect());
        assert_eq!(lengths.keys().min(), Some(&SHORTEST));
        assert_eq!(lengths.keys().max(), Some(&LONGEST));
    }

    #[test]
    fn one_other_word_almost_never_parses() {
        let vocabulary = words();
        let (mut parsed, rounds) = (0, 20_000);
        for seed in 0..rounds {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut prompt, mut completion) = sample(&mut rng, seed % 2 == 1);
            let place = rng.random_range(0..prompt.len() + completion.len());
            let word = match place.checked_sub(prompt.len()) {
                None => &mut prompt[place],
                Some(place) => &mut completion[place],
            };
            let old = *word;
            while *word == old {
                *word = pick(&mut rng, &vocabulary);
            }
            parsed += u64::from(parses(&prompt, &completion));
        }
        // What does has another adjective, conjunction, aspect or intensifier of the language.
        assert!(parsed * 100 < rounds * 4, "{parsed} of {rounds}");
        assert!(parsed > 0);
    }

    #[test]
    fn what_is_not_of_the_language_does_not_parse() {
        for text in [
            "review of the hotel : the room was very nice .",
            "review of the hotel : the room was nice and the staff was not really rude .",
            "review of the pub : the food was not boring .",
        ] {
            let (prompt, completion) = split(text);
            assert!(parses(&prompt, &completion), "{text}");
            assert!(!parses(&prompt, &completion[..completion.len() - 1]));
            assert!(!parses(&prompt[1..], &completion));
        }
        for text in [
            // Too short, too long, another's aspect, one twice, an adjective that does not suit.
            "review of the hotel : the room was nice .",
            "review of the hotel : the room was not very nice and the pool was not very nice and the staff was very nice .",
            "review of the hotel : the teacher was very nice .",
            "review of the hotel : the room was nice and the room was nice .",
            "review of the hotel : the room was very rude .",
            "review of the hotel : the room was very not nice .",
            "review of the hotel : the room was very nice and .",
            "review of the hotel : the room was very nice . .",
            "review of the moon : the room was very nice .",
            "review of the hotel : <pad> was very nice the .",
            "review of the hotel : .",
        ] {
            let (prompt, completion) = split(text);
            assert!(!parses(&prompt, &completion), "{text}");
        }
        assert!(!parses(&[], &[]));
    }

    #[test]
    fn good_and_bad_are_balanced() {
        let good: Vec<&str> = GOOD
            .into_iter()
            .chain(KINDS.iter().flat_map(|k| k.good))
            .collect();
        let bad: Vec<&str> = BAD
            .into_iter()
            .chain(KINDS.iter().flat_map(|k| k.bad))
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut balance, mut clauses) = (0_i32, 0_i32);
        for _ in 0..20_000 {
            let (_, completion) = sample(&mut rng, false);
            for clause in completion.split(|word| CONJUNCTIONS.contains(word)) {
                let sign = if clause.contains(&"not") { -1 } else { 1 };
                let of = |words: &[&str]| clause.iter().filter(|word| words.contains(word)).count();
                balance += sign * (of(&good) as i32 - of(&bad) as i32);
                clauses += 1;
            }
        }
        assert!(balance.abs() * 100 < clauses, "{balance} of {clauses}");
    }
}
