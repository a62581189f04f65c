//! Storage, selectors, rate limiter and writers' numbers, put together.

use std::ops::Range;

use pmpo_types::{
    ColumnBatch, ColumnSpec, SampledBatch, SampledItems, Signature, TableCounters, WriterId,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::selector::{Selector, Slot};
use crate::storage::Storage;
use crate::writers::Writers;
use crate::{Blocked, Error, RateLimiter, TableConfig};

/// Items placed at once; bounds the scratch memory of a large insert.
const PLACED_AT_ONCE: usize = 4096;

/// One replay table. It takes the signature of whoever opens it first and refuses any other.
pub struct Table {
    config: TableConfig,
    contents: Option<(Signature, Storage)>,
    sampler: Box<dyn Selector>,
    remover: Box<dyn Selector>,
    limiter: RateLimiter,
    writers: Writers,
    rng: ChaCha8Rng,
    /// Slots of the operation at hand; kept for its memory.
    slots: Vec<Slot>,
}

impl Table {
    /// An empty table whose draws follow from `seed`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(config: TableConfig, seed: u64) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self {
            contents: None,
            sampler: config.sampler.build(),
            remover: config.remover.build(),
            limiter: RateLimiter::new(&config),
            writers: Writers::new(config.max_writers),
            rng: ChaCha8Rng::seed_from_u64(seed),
            slots: Vec::new(),
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &TableConfig {
        &self.config
    }

    /// The items' signature, once someone has opened the table.
    pub fn signature(&self) -> Option<&Signature> {
        self.contents.as_ref().map(|(signature, _)| signature)
    }

    /// Counters up to now.
    pub fn counters(&self) -> TableCounters {
        TableCounters {
            size: self.limiter.size(),
            inserts: self.limiter.inserts(),
            samples: self.limiter.samples(),
        }
    }

    /// Bytes of the items held.
    pub fn bytes(&self) -> u64 {
        let item_bytes = self
            .contents
            .as_ref()
            .map_or(0, |(_, storage)| storage.item_bytes());
        self.limiter.size() * item_bytes as u64
    }

    /// A writer connects; answers the number of the item it is to send next.
    ///
    /// # Errors
    /// The signature is not the table's, or too many writers are connected.
    pub fn open_writer(&mut self, writer: WriterId, signature: &Signature) -> Result<u64, Error> {
        self.check_signature(signature)?;
        let next_sequence = self.writers.open(writer)?;
        self.adopt(signature);
        Ok(next_sequence)
    }

    /// A writer has disconnected; its number is kept.
    pub fn close_writer(&mut self, writer: WriterId) {
        self.writers.close(writer);
    }

    /// Checks what a sampler is going to ask for.
    ///
    /// # Errors
    /// The signature is not the table's, or no such batch can ever be drawn.
    pub fn open_sampler(&mut self, batch_size: usize, signature: &Signature) -> Result<(), Error> {
        self.check_signature(signature)?;
        let limits = [
            (self.config.max_batch_size as u64, "max_batch_size"),
            (
                self.limiter.max_batch(),
                "2 * error_buffer - samples_per_insert",
            ),
        ];
        let (max, reason) = limits.into_iter().min().expect("there are two");
        if batch_size == 0 || batch_size as u64 > max {
            return Err(Error::BatchSize {
                max,
                reason,
                got: batch_size,
            });
        }
        self.adopt(signature);
        Ok(())
    }

    /// Stores those items of a connected writer's batch that are new and that the rate limiter lets
    /// in, in order, and answers the number of the item to be stored next. While that is within the
    /// batch, the rest waits for samples: the same call, later, goes on with it.
    ///
    /// The batch must have been checked against the table's signature.
    ///
    /// # Errors
    /// Items are missing between those stored and this batch, or the writer is not connected;
    /// nothing is stored.
    pub fn insert(
        &mut self,
        writer: WriterId,
        first_sequence: u64,
        batch: &ColumnBatch,
    ) -> Result<u64, Error> {
        let next_sequence = *self.writers.next_sequence(writer)?;
        let Some(known) = next_sequence.checked_sub(first_sequence) else {
            return Err(Error::Gap {
                expected: next_sequence,
                got: first_sequence,
            });
        };
        let known = usize::try_from(known)
            .unwrap_or(usize::MAX)
            .min(batch.len());
        let stored = self.limiter.insertable((batch.len() - known) as u64);
        self.store(batch, known..known + stored as usize);
        let next_sequence = self.writers.next_sequence(writer)?;
        *next_sequence += stored;
        Ok(*next_sequence)
    }

    /// Draws a batch of a size that [`open_sampler`](Self::open_sampler) has accepted, with
    /// replacement.
    ///
    /// # Errors
    /// The rate limiter holds it back; nothing is counted.
    pub fn sample(&mut self, batch_size: usize) -> Result<SampledBatch, Blocked> {
        self.limiter.check_sample(batch_size as u64)?;
        let (signature, storage) = self
            .contents
            .as_ref()
            .expect("a table with items was opened");
        self.slots.clear();
        self.slots
            .extend((0..batch_size).map(|_| self.sampler.select(&mut self.rng)));
        let columns = storage.gather(&self.slots);
        let columns = ColumnBatch::new(signature, batch_size, columns)
            .expect("stored items were checked against the signature");
        self.limiter.sampled(batch_size as u64);
        Ok(SampledBatch {
            columns,
            counters: self.counters(),
            items: SampledItems::default(),
        })
    }

    fn store(&mut self, batch: &ColumnBatch, range: Range<usize>) {
        for first in range.clone().step_by(PLACED_AT_ONCE) {
            let end = range.end.min(first + PLACED_AT_ONCE);
            self.slots.clear();
            for _ in first..end {
                let slot = self.place();
                self.slots.push(slot);
            }
            let (_, storage) = self
                .contents
                .as_mut()
                .expect("a writer has opened the table");
            storage.write(&self.slots, batch, first);
        }
    }

    /// A slot for one more item.
    fn place(&mut self) -> Slot {
        let size = self.limiter.size();
        let slot = if size < self.config.max_size as u64 {
            size as Slot
        } else {
            let slot = self.remover.select(&mut self.rng);
            self.sampler.remove(slot);
            self.remover.remove(slot);
            self.limiter.removed(1);
            slot
        };
        self.sampler.insert(slot);
        self.remover.insert(slot);
        self.limiter.inserted(1);
        slot
    }

    fn adopt(&mut self, signature: &Signature) {
        if self.contents.is_none() {
            let storage = Storage::new(signature, self.config.max_size);
            self.contents = Some((signature.clone(), storage));
        }
    }

    fn check_signature(&self, signature: &Signature) -> Result<(), Error> {
        match self.signature() {
            Some(own) if own != signature => Err(mismatch(own, signature)),
            _ => Ok(()),
        }
    }
}

/// Names the first difference.
fn mismatch(own: &Signature, other: &Signature) -> Error {
    let describe =
        |spec: &ColumnSpec| format!("`{}` {} {:?}", spec.name, spec.dtype.as_str(), spec.shape);
    let pairs = own.columns.iter().zip(&other.columns);
    match pairs.enumerate().find(|(_, (own, other))| own != other) {
        Some((i, (own, other))) => Error::Signature {
            field: format!("columns[{i}]"),
            expected: describe(own),
            got: describe(other),
        },
        None => Error::Signature {
            field: "columns".to_owned(),
            expected: format!("{} columns", own.columns.len()),
            got: format!("{} columns", other.columns.len()),
        },
    }
}
