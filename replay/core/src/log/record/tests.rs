//! Records there and back, and bytes that are none.

use proptest::prelude::*;

use super::*;

fn records() -> Vec<Record> {
    let place = Place {
        writer: WriterId(u128::MAX - 3),
        number: 4,
        next_sequence: 55,
    };
    let run = Run { start: 9, len: 3 };
    let insert = Insert {
        place,
        first_sequence: 50,
        steps: 5,
        first_ordinal: 40,
        samples: 1 << 40,
        ends: None,
        lengths: vec![],
        priorities: Priorities::All(1.5),
        removed: vec![run],
    };
    let sequences = Insert {
        ends: Some(vec![1, 4]),
        priorities: Priorities::Each(vec![0.0, 1e30]),
        ..insert.clone()
    };
    let ragged = Insert {
        lengths: vec![3, 1],
        ..sequences.clone()
    };
    let state = State {
        kind: Kind {
            config: TableConfig::default(),
            signature: Some(pmpo_types::transition::signature(3, 2)),
        },
        limiter: LimiterState {
            inserts: 8,
            samples: 7,
            removals: 6,
            base_inserts: 5,
            base_samples: 4,
            base_diff: -0.25,
        },
        max_priority: 3.5,
        next_number: 5,
        writers: vec![place],
    };
    let moved = MovedItem {
        ordinal: 3,
        priority: 0.5,
        times_sampled: 2,
        end: (1, 6),
        length: None,
    };
    let moved_ragged = MovedItem {
        length: Some(2),
        ..moved
    };
    vec![
        Record::State(state),
        Record::Insert(insert),
        Record::Insert(sequences),
        Record::Insert(ragged),
        Record::Removed(vec![run, run]),
        Record::Samples(77, vec![1, 2, 3]),
        Record::Priorities(vec![(5, 0.25)]),
        Record::Moved(vec![moved], vec![(1, 5), (1, 6)]),
        Record::Moved(vec![moved_ragged, moved_ragged], vec![(1, 5)]),
        Record::Reset,
    ]
}

#[test]
fn records_are_read_back_as_written_and_short_ones_refused() {
    for record in records() {
        let mut bytes = vec![];
        record.encode(&mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..end]), None, "{record:?}");
        }
        let len = bytes.len();
        bytes.extend_from_slice(b"columns");
        assert_eq!(Record::decode(&bytes), Some((record, len)));
    }
}

proptest! {
    /// Whatever the bytes, reading them ends without a panic or a huge allocation.
    #[test]
    fn any_bytes_are_read_or_refused(
        kind in 0u8..9,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let payload = [&[kind][..], &bytes].concat();
        if let Some((_, end)) = Record::decode(&payload) {
            prop_assert!(end <= payload.len());
        }
    }
}
