use super::*;

/// What vaderSentiment 3.3.2 says: its own examples, then what else its rules do.
const KNOWN: &[(&str, f64)] = &[
    ("VADER is smart, handsome, and funny.", 0.8316),
    ("VADER is smart, handsome, and funny!", 0.8439),
    ("VADER is very smart, handsome, and funny.", 0.8545),
    ("VADER is VERY SMART, handsome, and FUNNY!!!", 0.9342),
    (
        "VADER is VERY SMART, uber handsome, and FRIGGIN FUNNY!!!",
        0.9469,
    ),
    ("VADER is not smart, handsome, nor funny.", -0.7424),
    ("At least it isn't a horrible book.", 0.431),
    ("The book was only kind of good.", 0.3832),
    (
        "The plot was good, but the characters are uncompelling and the dialog is not great.",
        -0.7042,
    ),
    ("Today only kinda sux! But I'll get by, lol", 0.5249),
    ("Make sure you :) or :D today!", 0.8633),
    ("Not bad at all", 0.431),
    ("Sentiment analysis has never been good.", -0.3412),
    ("Sentiment analysis has never been this good!", 0.5672),
    ("With VADER, sentiment analysis is the shit!", 0.6476),
    ("On the other hand, VADER is quite bad ass", 0.802),
    ("Without a doubt, excellent idea.", 0.7013),
    (
        "Roger Dodger is one of the least compelling variations on this theme.",
        -0.1695,
    ),
    ("Not such a badass after all.", -0.2584),
    ("Is it good???? Is it?", 0.594),
    ("Great?? Good", 0.8105),
    ("GREAT FILM", 0.6249),
    ("2 good, 1 good but 4 good", 0.775),
    ("no good or no great film", -0.5875),
    ("no laughs or good jokes", -0.465),
    ("NO hope but FUN", 0.6684),
    ("we have never been so very happy", 0.6453),
    ("it was without doubt great", 0.7359),
    ("a somewhat sad and almost good film", -0.0516),
    ("the very least good", 0.4902),
    ("a kiss of death for it", 0.0772),
    ("with a kiss of death good", 0.4939),
    ("wait at the bus stop now", 0.0),
    ("I kind of like it", 0.2975),
    ("not one GOOD word", -0.4494),
    ("good!!!!!", 0.6209),
    (
        "Roger Dodger is at least compelling as a variation on the theme.",
        0.2263,
    ),
    ("there is no real fun in it", -0.5996),
    ("the film is so good", 0.5777),
    ("it has a kiss of death about it", -0.6124),
    // Two letters keep their punctuation.
    ("That is ok.", 0.0),
    // Half of "love" is what "accept" has: "love" is halved twice, and "accept" left as it is.
    ("I love it but accept it", 0.5267),
    ("", 0.0),
    ("...!!!", 0.0),
];

#[test]
fn known_texts_have_the_compound_of_the_python_package() {
    for &(text, known) in KNOWN {
        let compound = compound(text);
        let rounded = format!("{compound:.4}").parse::<f64>().unwrap();
        assert_eq!(rounded, known, "{text:?} has {compound}");
    }
}

#[test]
fn the_whole_lexicon_is_read() {
    assert_eq!(LEXICON.lines().count(), 7520);
    assert_eq!(TABLES.valences.len(), 7506);
    assert!(TABLES.valences.values().all(|v| (-4.0..=4.0).contains(v)));
}

#[test]
fn the_prompt_does_not_count() {
    let sample = Sample {
        prompt: "A terrible film. ",
        completion: "The book was good.",
    };
    assert_eq!(Vader.score(&[sample]).unwrap(), [0.440_433_57]);
}
