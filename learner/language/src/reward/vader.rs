//! VADER: how positive a completion reads, from a lexicon and a handful of rules.
//!
//! Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
//! Media Text" (ICWSM 2014), in the form of its authors' Python package vaderSentiment 3.3.2 (MIT, see
//! `vader_LICENSE.txt`), from which `vader_lexicon.txt` is, unchanged. Rules and constants are the
//! package's, its oddities included, because rewards are to be comparable with what others measured with
//! it. What differs:
//!
//! - Emoji are not replaced by their descriptions: they are words that the lexicon does not know.
//! - The compound score is not rounded to four decimals, so that fewer completions tie.
//! - The shares of positive, neutral and negative words are not computed.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use super::{RewardError, Sample, Scorer};

const LEXICON: &str = include_str!("vader_lexicon.txt");

/// What an amplifier adds to the strength of a word; a dampener takes it away.
const BOOST: f64 = 0.293;
/// What capitals add to the strength of a word where not all is in capitals.
const SHOUT: f64 = 0.733;
/// What a negation multiplies a word's valence with.
const NEGATION: f64 = -0.74;
/// What "never so" and "never this" multiply it with instead.
const NEVER_SO: f64 = 1.25;
/// What remains of an amplifier or dampener at a distance of 1, 2 and 3 words.
const FADING: [f64; 3] = [1.0, 0.95, 0.9];
/// How much what comes before and after the first "but" counts.
const BEFORE_BUT: f64 = 0.5;
const AFTER_BUT: f64 = 1.5;
/// Of the normalisation, `sum / sqrt(sum^2 + 15)`.
const ALPHA: f64 = 15.0;

const AMPLIFIERS: &str = "absolutely amazingly awfully completely considerable considerably decidedly \
    deeply effing enormous enormously entirely especially exceptional exceptionally extreme extremely \
    fabulously flipping flippin frackin fracking fricking frickin frigging friggin fully fuckin fucking \
    fuggin fugging greatly hella highly hugely incredible incredibly intensely major majorly more most \
    particularly purely quite really remarkably so substantially thoroughly total totally tremendous \
    tremendously uber unbelievably unusually utter utterly very";

const DAMPENERS: &str = "almost barely hardly kinda kindof kind-of less little marginal marginally \
    occasional occasionally partly scarce scarcely slight slightly somewhat sorta sortof sort-of";

/// Dampeners of two words. These are subtracted from negative words too.
const DAMPENING_PAIRS: [[&str; 2]; 3] = [["just", "enough"], ["kind", "of"], ["sort", "of"]];

/// Any word with "n't" in it negates as well.
const NEGATIONS: &str = "aint arent cannot cant couldnt darent didnt doesnt dont hadnt hasnt havent isnt \
    mightnt mustnt neither neednt never none nope nor not nothing nowhere oughtnt shant shouldnt uhuh \
    wasnt werent uh-uh without wont wouldnt rarely seldom despite";

/// Phrases with a valence of their own.
const IDIOMS: [(&[&str], f64); 8] = [
    (&["the", "shit"], 3.0),
    (&["the", "bomb"], 3.0),
    (&["bad", "ass"], 1.5),
    (&["bus", "stop"], 0.0),
    (&["yeah", "right"], -2.0),
    (&["kiss", "of", "death"], -1.5),
    (&["to", "die", "for"], 3.0),
    (&["beating", "heart"], 3.5),
];

static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);

/// The lexicon and the lists above, for looking words up.
struct Tables {
    valences: HashMap<&'static str, f64>,
    boosts: HashMap<&'static str, f64>,
    negations: HashSet<&'static str>,
}

impl Tables {
    fn new() -> Self {
        // Of a word that is there more than once the last line counts, as in the package.
        let valences = LEXICON.lines().filter_map(|line| {
            let mut columns = line.split('\t');
            Some((columns.next()?, columns.next()?.trim().parse().ok()?))
        });
        let amplifiers = AMPLIFIERS.split_whitespace().map(|word| (word, BOOST));
        let dampeners = DAMPENERS.split_whitespace().map(|word| (word, -BOOST));
        Self {
            valences: valences.collect(),
            boosts: amplifiers.chain(dampeners).collect(),
            negations: NEGATIONS.split_whitespace().collect(),
        }
    }
}

/// A word of the text and what is known of it by itself.
struct Word {
    lower: String,
    in_capitals: bool,
    /// Its valence in the lexicon, from -4 to 4.
    valence: Option<f64>,
    /// What it does to the strength of words after it.
    boost: Option<f64>,
    negates: bool,
}

impl Word {
    /// Of what white space separates. Punctuation around it goes, unless that leaves two characters or
    /// less: then it was likely an emoticon.
    fn new(token: &str) -> Self {
        let bare = token.trim_matches(|c: char| c.is_ascii_punctuation());
        let text = if bare.chars().nth(2).is_some() {
            bare
        } else {
            token
        };
        let lower = text.to_lowercase();
        Self {
            in_capitals: in_capitals(text),
            valence: TABLES.valences.get(lower.as_str()).copied(),
            boost: TABLES.boosts.get(lower.as_str()).copied(),
            negates: lower.contains("n't") || TABLES.negations.contains(lower.as_str()),
            lower,
        }
    }

    fn is(&self, word: &str) -> bool {
        self.lower == word
    }

    fn is_so_or_this(&self) -> bool {
        self.is("so") || self.is("this")
    }
}

/// As Python's `str.isupper`: has capitals, and no letters but capitals.
fn in_capitals(text: &str) -> bool {
    // What is neither and yet has a lower case are the title case letters, such as U+01C5.
    let small =
        |c: char| c.is_lowercase() || !c.is_uppercase() && !c.to_lowercase().eq(std::iter::once(c));
    text.chars().any(char::is_uppercase) && !text.chars().any(small)
}

/// As Python's `str.split`, which separates at four control characters that Unicode does not call white.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A text's words.
struct Words {
    words: Vec<Word>,
    /// Some are in capitals, and some are not: only then do capitals say anything.
    capitals_matter: bool,
}

impl Words {
    fn new(text: &str) -> Self {
        let tokens = text.split(is_space).filter(|token| !token.is_empty());
        let words: Vec<Word> = tokens.map(Word::new).collect();
        let in_capitals = words.iter().filter(|word| word.in_capitals).count();
        Self {
            capitals_matter: (1..words.len()).contains(&in_capitals),
            words,
        }
    }

    /// What the word at `at` adds to the sum.
    fn valence(&self, at: usize) -> f64 {
        let word = &self.words[at];
        let next = self.words.get(at + 1);
        let kind_of = word.is("kind") && next.is_some_and(|next| next.is("of"));
        let Some(listed) = word.valence else {
            return 0.0;
        };
        if word.boost.is_some() || kind_of {
            return 0.0;
        }
        let mut valence = self.with_no(at, listed);
        if word.in_capitals && self.capitals_matter {
            valence += away_from_zero(SHOUT, valence);
        }
        for distance in 1..=at.min(3) {
            // Words of the lexicon stand for themselves and neither boost nor negate.
            if self.words[at - distance].valence.is_some() {
                continue;
            }
            valence += self.boost(at - distance, valence) * FADING[distance - 1];
            valence *= self.negation(at, distance);
            if distance == 3 {
                valence = self.idiom(at).unwrap_or(valence);
                valence -= self.dampening_pairs(at);
            }
        }
        valence * self.least(at)
    }

    /// The word's valence, considering "no": itself a word of the lexicon, and a negation before another.
    fn with_no(&self, at: usize, listed: f64) -> f64 {
        let before = |distance: usize| at.checked_sub(distance).map(|at| &self.words[at]);
        let no_before = |distance| before(distance).is_some_and(|word| word.is("no"));
        let alternative = before(1).is_some_and(|word| word.is("or") || word.is("nor"));
        if no_before(1) || no_before(2) || no_before(3) && alternative {
            return listed * NEGATION;
        }
        let next = self.words.get(at + 1);
        if self.words[at].is("no") && next.is_some_and(|next| next.valence.is_some()) {
            return 0.0;
        }
        listed
    }

    /// What the word at `at` adds to a later word of this valence.
    fn boost(&self, at: usize, valence: f64) -> f64 {
        let word = &self.words[at];
        let Some(boost) = word.boost else {
            return 0.0;
        };
        let signed = if valence < 0.0 { -boost } else { boost };
        if word.in_capitals && self.capitals_matter {
            signed + away_from_zero(SHOUT, valence)
        } else {
            signed
        }
    }

    /// What the word at `at` is multiplied with because of the one `distance` words before it.
    fn negation(&self, at: usize, distance: usize) -> f64 {
        let before = &self.words[at - distance];
        let between = &self.words[at - distance + 1..at];
        let so = between.iter().any(Word::is_so_or_this);
        let last_is_so = between.last().is_some_and(Word::is_so_or_this);
        // At a distance of three, "so" right before the word does it without any "never".
        if so && before.is("never") || distance == 3 && last_is_so {
            return NEVER_SO;
        }
        let without_doubt = before.is("without") && between.iter().any(|word| word.is("doubt"));
        if before.negates && !without_doubt {
            NEGATION
        } else {
            1.0
        }
    }

    /// The valence of an idiom that the word at `at`, the fourth or a later one, is in or comes after.
    fn idiom(&self, at: usize) -> Option<f64> {
        // One that goes on after the word counts before one that ends with it or before it.
        let ahead = [(at, 3), (at, 2)];
        let behind = [
            (at - 1, 2),
            (at - 2, 3),
            (at - 2, 2),
            (at - 3, 3),
            (at - 3, 2),
        ];
        let mut places = ahead.into_iter().chain(behind);
        places.find_map(|(from, length)| {
            let idiom = IDIOMS
                .iter()
                .find(|(words, _)| words.len() == length && self.reads(from, words));
            idiom.map(|&(_, valence)| valence)
        })
    }

    /// What dampeners of two words take from the word at `at`, the fourth or a later one.
    fn dampening_pairs(&self, at: usize) -> f64 {
        let pair_at = |from| DAMPENING_PAIRS.iter().any(|pair| self.reads(from, pair));
        [at - 3, at - 2]
            .into_iter()
            .filter(|&from| pair_at(from))
            .count() as f64
            * BOOST
    }

    /// "least" negates, "at least" and "very least" do not.
    fn least(&self, at: usize) -> f64 {
        let is = |distance: usize, word| {
            at.checked_sub(distance)
                .is_some_and(|at| self.words[at].is(word))
        };
        let negates = is(1, "least") && !is(2, "at") && !is(2, "very");
        if negates { NEGATION } else { 1.0 }
    }

    /// Whether `phrase` stands at `from`.
    fn reads(&self, from: usize, phrase: &[&str]) -> bool {
        let words = self.words.get(from..from + phrase.len());
        words.is_some_and(|words| {
            words
                .iter()
                .zip(phrase)
                .all(|(word, wanted)| word.is(wanted))
        })
    }
}

/// `amount` with the sign that makes `valence` stronger; 0 counts as negative.
fn away_from_zero(amount: f64, valence: f64) -> f64 {
    if valence > 0.0 { amount } else { -amount }
}

/// Lets what comes after the first "but", at `but`, count more than what comes before it.
///
/// The package looks each valence up by its value, and weighs the first that equals it. Where two words
/// are equal, or become so, one may be weighed twice and the other not at all; the same happens here.
fn weigh_around(but: usize, valences: &mut [f64]) {
    for at in 0..valences.len() {
        let valence = valences[at];
        if valence == 0.0 {
            continue;
        }
        let first = valences.iter().position(|&v| v == valence).unwrap_or(at);
        if first < but {
            valences[first] = valence * BEFORE_BUT;
        } else if first > but {
            valences[first] = valence * AFTER_BUT;
        }
    }
}

/// What exclamation and question marks add to the strength of the whole.
fn emphasis(text: &str) -> f64 {
    let exclamations = text.matches('!').count().min(4) as f64;
    let questions = match text.matches('?').count() {
        0 | 1 => 0.0,
        count @ (2 | 3) => count as f64 * 0.18,
        _ => 0.96,
    };
    exclamations * 0.292 + questions
}

/// The compound score of a text: from -1, most negative, to 1, most positive; 0 where no word is known.
///
/// It is not rounded; the Python package rounds to four decimals. Takes time linear in the length of the
/// text, but for a text with "but" in it: number of words times number of known words.
pub fn compound(text: &str) -> f64 {
    let words = Words::new(text);
    let mut valences: Vec<f64> = (0..words.words.len()).map(|at| words.valence(at)).collect();
    if let Some(but) = words.words.iter().position(|word| word.is("but")) {
        weigh_around(but, &mut valences);
    }
    let sum: f64 = valences.iter().sum();
    if sum == 0.0 {
        return 0.0;
    }
    let sum = sum + away_from_zero(emphasis(text), sum);
    (sum / (sum * sum + ALPHA).sqrt()).clamp(-1.0, 1.0)
}

/// Rewards each completion with its [`compound`] score, in [-1, 1]; the prompt does not count.
#[derive(Clone, Copy, Debug)]
pub struct Vader;

impl Scorer for Vader {
    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, RewardError> {
        let compounds = samples.iter().map(|s| compound(s.completion) as f32);
        Ok(compounds.collect())
    }
}

#[cfg(test)]
mod tests;
