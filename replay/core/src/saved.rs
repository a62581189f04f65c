//! A table as bytes: a copy that goes on as the original does, draw by draw, for runs that must repeat.
//!
//! The log ([`Restorer`](crate::Restorer)) keeps what must not be lost; it does not keep the order in
//! which a uniform selector holds its items, nor the generator, on which the next draws depend. Here is
//! everything: the configuration as JSON, the contents as postcard writes them, the rows as they lie in
//! memory, and a CRC-32 of it all, each part after its length.

use pmpo_types::{ColumnSpec, DType, Signature, WriterId};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::items::Items;
use crate::rate_limiter::LimiterState;
use crate::restore::differences;
use crate::selector::Slot;
use crate::steps::Steps;
use crate::writers::Writers;
use crate::{Error, Table, TableConfig};

const LENGTH: usize = size_of::<u64>();
const CRC: usize = size_of::<u32>();

/// All but the configuration and the rows.
#[derive(Serialize, Deserialize)]
struct Contents<G, I, S, W, P, L> {
    signature: G,
    items: I,
    steps: S,
    sampler: Vec<Slot>,
    remover: Vec<Slot>,
    limiter: LimiterState,
    writers: W,
    rng: ChaCha8Rng,
    max_priority: f64,
    draws_left: u64,
    largest_batch: usize,
    /// What writers mean to send into a table that has no signature yet.
    meant: P,
    /// Of items that have their own.
    lengths: L,
}

impl Table {
    /// The table as bytes, which [`load`](Self::load) reads. A log is no part of it.
    pub fn save(&self) -> Vec<u8> {
        let contents = Contents {
            signature: self.signature().cloned(),
            items: &self.items,
            steps: &self.steps,
            sampler: self.sampler.slots(),
            remover: self.remover.slots(),
            limiter: self.limiter.state(),
            writers: &self.writers,
            rng: self.rng.clone(),
            max_priority: self.max_priority,
            draws_left: self.draws_left,
            largest_batch: self.largest_batch,
            meant: self.writers.meant(),
            lengths: self.items.lengths(),
        };
        let contents = postcard::to_allocvec(&contents).expect("memory takes all it is given");
        let chunks = self
            .contents
            .as_ref()
            .map_or(&[][..], |(_, rows)| rows.chunks());
        let mut bytes = Vec::new();
        for part in [config_text(&self.config).as_bytes(), &contents] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        chunks
            .iter()
            .for_each(|chunk| bytes.extend_from_slice(chunk));
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// The table that was [saved](Self::save), without a log. `config` must be the same.
    ///
    /// # Errors
    /// The configuration is another, or the bytes are not such a copy.
    pub fn load(config: TableConfig, bytes: &[u8]) -> Result<Self, Error> {
        let damaged = |what| Error::Saved(what);
        let end = bytes.len().checked_sub(CRC).ok_or(damaged("too short"))?;
        let (bytes, crc) = bytes.split_at(end);
        if crc != crc32fast::hash(bytes).to_le_bytes() {
            return Err(damaged("its checksum does not match"));
        }
        let (stored, rest) = part(bytes).ok_or(damaged("no configuration"))?;
        let (contents, rows) = part(rest).ok_or(damaged("no contents"))?;
        check_config(stored, &config)?;
        let mut contents = contents_of(contents).ok_or(damaged("contents of another version"))?;
        let lengths = contents.lengths.take();
        if lengths.is_some() != config.is_ragged() || !contents.items.set_lengths(lengths) {
            return Err(damaged("lengths of other items"));
        }
        // Whatever the seed, the generator is the saved one.
        let mut table = Self::new(config, 0)?;
        if let Some(signature) = &contents.signature {
            table.adopt_silently(signature);
        }
        if let Some((_, own)) = &mut table.contents {
            own.set_chunks(rows);
        }
        for (selector, slots) in [
            (&mut table.sampler, &contents.sampler),
            (&mut table.remover, &contents.remover),
        ] {
            for &slot in slots {
                let item = contents
                    .items
                    .get(slot)
                    .ok_or(damaged("an item is missing"))?;
                selector.insert(slot, item.priority);
            }
        }
        let stored = table.config.clone();
        table.limiter.restore(contents.limiter, &stored, &stored);
        table.items = contents.items;
        table.steps = contents.steps;
        table.writers = contents.writers;
        table.writers.set_meant(contents.meant);
        table.rng = contents.rng;
        table.max_priority = contents.max_priority;
        table.draws_left = contents.draws_left;
        table.largest_batch = contents.largest_batch;
        Ok(table)
    }
}

/// What a table holds, as it is read.
type Loaded<G, P, L> = Contents<G, Items, Option<Steps>, Writers, P, L>;

/// The columns of a copy that was made before columns said whether they hold finite values alone, as all
/// did then, and when a table had a signature as soon as it had a writer.
#[derive(Deserialize)]
struct OlderColumn(String, DType, Vec<usize>);

/// What writers mean to send.
type Meant = Vec<(WriterId, Signature)>;

type Lengths = Option<Vec<u32>>;

fn contents_of(bytes: &[u8]) -> Option<Loaded<Option<Signature>, Meant, Lengths>> {
    if let Ok(contents) = postcard::from_bytes(bytes) {
        return Some(contents);
    }
    // Of before items had lengths of their own.
    if let Ok(older) = postcard::from_bytes::<Loaded<Option<Signature>, Meant, ()>>(bytes) {
        return Some(older.newer(|signature| signature, |meant| meant));
    }
    let older: Loaded<Option<Vec<OlderColumn>>, (), ()> = postcard::from_bytes(bytes).ok()?;
    let column =
        |OlderColumn(name, dtype, shape): OlderColumn| ColumnSpec::new(&name, dtype, &shape);
    let signature = |columns: Vec<OlderColumn>| Signature {
        columns: columns.into_iter().map(column).collect(),
    };
    Some(older.newer(|columns| columns.map(signature), |()| Vec::new()))
}

impl<G, P> Loaded<G, P, ()> {
    fn newer(
        self,
        signature: impl FnOnce(G) -> Option<Signature>,
        meant: impl FnOnce(P) -> Meant,
    ) -> Loaded<Option<Signature>, Meant, Lengths> {
        Contents {
            signature: signature(self.signature),
            items: self.items,
            steps: self.steps,
            sampler: self.sampler,
            remover: self.remover,
            limiter: self.limiter,
            writers: self.writers,
            rng: self.rng,
            max_priority: self.max_priority,
            draws_left: self.draws_left,
            largest_batch: self.largest_batch,
            meant: meant(self.meant),
            lengths: None,
        }
    }
}

fn config_text(config: &TableConfig) -> String {
    serde_json::to_string(config).expect("configurations are plain data")
}

/// Refuses another configuration, and names the first key that differs.
fn check_config(stored: &[u8], config: &TableConfig) -> Result<(), Error> {
    // As texts: numbers are not read back to the last bit.
    if stored == config_text(config).as_bytes() {
        return Ok(());
    }
    let read = |text: &[u8]| {
        serde_json::from_slice(text).map_err(|_| Error::Saved("a configuration of another version"))
    };
    // What has keys of before may still say the same: those that it lacks have their defaults.
    let (stored, config) = (read(stored)?, read(config_text(config).as_bytes())?);
    let changed = differences(&stored, &config);
    if changed.is_empty() {
        return Ok(());
    }
    Err(Error::OtherConfig(changed.join(", ")))
}

/// The first part and what is behind it.
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnBatch, StepBatch};
    use proptest::prelude::*;

    use super::*;
    use crate::LimiterKind;
    use crate::selector::SelectorKind;

    const WRITER: WriterId = WriterId(7);

    fn signature() -> Signature {
        let column = ColumnSpec::new("id", DType::I64, &[]);
        Signature {
            columns: vec![column],
        }
    }

    fn config(sampler: SelectorKind, remover: SelectorKind, sequence_length: usize) -> TableConfig {
        TableConfig {
            // Of four, one and more.
            min_sequence_length: (sequence_length == 4).then_some(1),
            sampler,
            remover,
            sequence_length,
            max_size: 20,
            limiter: LimiterKind::None,
            min_size_to_sample: 1,
            ..TableConfig::default()
        }
    }

    fn table(config: TableConfig) -> Table {
        let length = config.sequence_length;
        let mut table = Table::new(config, 3).unwrap();
        table.open_writer(WRITER, &signature(), length).unwrap();
        table
    }

    /// What may be done with a table: insert a step, draw a batch, change the priorities of what was drawn.
    #[derive(Clone, Copy, Debug)]
    struct Operation(u8, u8);

    /// Does it, and answers all that can be seen of it.
    fn act(table: &mut Table, Operation(kind, value): Operation) -> String {
        if kind == 0 || table.counters().size == 0 {
            let next = table.writers()[0].1;
            let ids = (next as i64).to_le_bytes().to_vec().into();
            let batch = ColumnBatch::new(&signature(), 1, vec![ids]).unwrap();
            let length = table.config().sequence_length;
            let whole = length > 1 && next as usize + 1 >= length;
            let ends = if whole { vec![0] } else { vec![] };
            let own = whole && table.config().is_ragged();
            let lengths = if own {
                vec![1 + u32::from(value) % 4]
            } else {
                vec![]
            };
            let batch = StepBatch::new(length, batch, ends, vec![])
                .and_then(|batch| batch.with_lengths(1..=length as u32, lengths))
                .unwrap();
            return format!("{:?}", table.insert(WRITER, next, &batch));
        }
        let drawn = table.sample(1 + usize::from(value) % 3).unwrap();
        let updated = table.config().uses_priorities().then(|| {
            let priorities = vec![f64::from(value); drawn.items.keys.len()];
            table
                .update_priorities(&drawn.items.keys, &priorities)
                .unwrap()
        });
        format!("{drawn:?} {updated:?} {:?}", table.removed())
    }

    proptest! {
        /// Whatever was done before, original and copy answer alike whatever is done after.
        #[test]
        fn a_copy_goes_on_as_the_original(
            before in prop::collection::vec((0u8..2, any::<u8>()), 0..80),
            after in prop::collection::vec((0u8..2, any::<u8>()), 1..80),
            sampler in prop::sample::select(&SelectorKind::ALL),
            remover in prop::sample::select(&SelectorKind::ALL),
            sequence_length in 1usize..5,
        ) {
            let config = config(sampler, remover, sequence_length);
            let mut original = table(config.clone());
            for (kind, value) in before {
                act(&mut original, Operation(kind, value));
            }
            let mut copy = Table::load(config, &original.save()).unwrap();
            prop_assert_eq!(copy.counters(), original.counters());
            for (kind, value) in after {
                let operation = Operation(kind, value);
                prop_assert_eq!(act(&mut copy, operation), act(&mut original, operation));
            }
            prop_assert_eq!(copy.save(), original.save());
        }
    }

    #[test]
    fn a_table_of_before_a_key_has_that_keys_default() {
        let config = config(SelectorKind::Uniform, SelectorKind::Fifo, 1);
        let mut stored: serde_json::Map<_, _> =
            serde_json::from_str(&config_text(&config)).unwrap();
        for key in ["age_decay", "age_floor"] {
            assert!(stored.remove(key).is_some());
        }
        let stored = serde_json::to_vec(&stored).unwrap();
        check_config(&stored, &config).unwrap();
        let other = TableConfig {
            age_floor: 0.2,
            ..config
        };
        let refused = check_config(&stored, &other).unwrap_err().to_string();
        assert!(
            refused.contains("age_floor: 0.1 stored, 0.2 in force"),
            "{refused}"
        );
    }

    #[test]
    fn a_copy_of_before_columns_had_an_option_is_read() {
        #[derive(Serialize)]
        struct Older<'a> {
            signature: Option<Vec<(&'a str, DType, &'a [usize])>>,
        }
        let config = config(SelectorKind::Uniform, SelectorKind::Fifo, 1);
        let mut table = table(config.clone());
        (0..9).for_each(|_| drop(act(&mut table, Operation(0, 0))));
        let bytes = table.save();
        let bytes = &bytes[..bytes.len() - CRC];
        let (stored, rest) = part(bytes).unwrap();
        let (contents, rows) = part(rest).unwrap();
        // The signature stands first, and all that follows is as it was.
        let columns = signature().columns;
        let older = columns.iter().map(|c| (&c.name[..], c.dtype, &c.shape[..]));
        let older = Older {
            signature: Some(older.collect()),
        };
        let mut older = postcard::to_allocvec(&older).unwrap();
        let own = postcard::to_allocvec(&Some(signature())).unwrap();
        let rest = contents.strip_prefix(&own[..]).unwrap();
        // Nobody means to send anything else, and no item has a length: both at the end were not there.
        older.extend_from_slice(rest.strip_suffix(&[0, 0]).unwrap());
        let mut copy = Vec::new();
        for part in [stored, &older] {
            copy.extend((part.len() as u64).to_le_bytes());
            copy.extend(part);
        }
        copy.extend(rows);
        let crc = crc32fast::hash(&copy);
        copy.extend(crc.to_le_bytes());
        let loaded = Table::load(config, &copy).unwrap();
        assert_eq!(loaded.save(), table.save());
    }

    #[test]
    fn what_is_damaged_or_of_another_table_is_refused() {
        let config = config(SelectorKind::Uniform, SelectorKind::Fifo, 1);
        let mut table = table(config.clone());
        act(&mut table, Operation(0, 0));
        let bytes = table.save();
        let refused = |config: TableConfig, bytes: &[u8]| {
            Table::load(config, bytes)
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(
                refused(config.clone(), &damaged),
                "the saved table is damaged: its checksum does not match"
            );
        }
        assert_eq!(
            refused(config.clone(), &bytes[..2]),
            "the saved table is damaged: too short"
        );
        let other = TableConfig {
            max_size: 21,
            ..config
        };
        assert_eq!(
            refused(other, &bytes),
            "the saved table has another configuration: max_size: 20 stored, 21 in force"
        );
    }
}
