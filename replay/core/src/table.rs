//! Storage, selectors, rate limiter, writers' numbers and log, put together.

use pmpo_types::{
    ColumnBatch, SampledBatch, SampledItems, Signature, StepBatch, TableCounters, WriterId,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::configure::max_batch;
use crate::items::Items;
use crate::log::record::Record;
use crate::log::{Log, Run};
use crate::rate_limiter::{Blocked, Hold};
use crate::rows::Rows;
use crate::selector::{Selector, Slot};
use crate::steps::Steps;
use crate::writers::Writers;
use crate::{Error, RateLimiter, TableConfig};

/// Slots and rows that memory is reserved for at the start, as far as the table may hold as many. It
/// costs nothing before it is used, where a vector that grows leaves behind all it has outgrown.
const RESERVED: usize = 1 << 22;

/// One replay table. It takes the signature of the first step that is stored and refuses any other.
pub struct Table {
    pub(crate) config: TableConfig,
    pub(crate) contents: Option<(Signature, Rows)>,
    pub(crate) items: Items,
    /// Of sequences. A transition's row is its item's slot.
    pub(crate) steps: Option<Steps>,
    pub(crate) sampler: Box<dyn Selector>,
    pub(crate) remover: Box<dyn Selector>,
    pub(crate) limiter: RateLimiter,
    pub(crate) writers: Writers,
    pub(crate) log: Option<Log>,
    pub(crate) rng: ChaCha8Rng,
    /// The largest so far: what items without one get.
    pub(crate) max_priority: f64,
    /// Draws that the items held have left, where `max_times_sampled` bounds them.
    pub(crate) draws_left: u64,
    /// The largest batch anybody has asked for.
    pub(crate) largest_batch: usize,
    /// What the call at hand has removed.
    pub(crate) removed: Removed,
    /// Rows of the operation at hand; kept for its memory.
    pub(crate) rows: Vec<Slot>,
}

/// Items that have left the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Their ordinals: how many items were inserted before each.
    pub runs: Vec<Run>,
    /// How many they are.
    pub items: u64,
    /// How often they had been drawn, all together.
    pub times_sampled: u64,
}

impl Removed {
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.items = 0;
        self.times_sampled = 0;
    }

    pub(crate) fn push(&mut self, ordinal: u64, times_sampled: u32) {
        self.items += 1;
        self.times_sampled += u64::from(times_sampled);
        match self.runs.last_mut() {
            Some(run) if run.start + u64::from(run.len) == ordinal => run.len += 1,
            _ => self.runs.push(Run {
                start: ordinal,
                len: 1,
            }),
        }
    }
}

impl Table {
    /// An empty table in memory whose draws follow from `seed`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(config: TableConfig, seed: u64) -> Result<Self, Error> {
        Self::with_log(config, seed, None)
    }

    pub(crate) fn with_log(
        config: TableConfig,
        seed: u64,
        log: Option<Log>,
    ) -> Result<Self, Error> {
        config.validate()?;
        let length = config.sequence_length;
        let mut items = Items::new(&config);
        let mut steps = (length > 1).then(|| Steps::new(length, log.is_some()));
        let mut sampler = config.sampler.build(config.weights());
        let mut remover = config.remover.build(config.weights());
        let slots = config.max_size.min(RESERVED);
        items.reserve(slots);
        sampler.reserve(slots);
        remover.reserve(slots);
        if let Some(steps) = &mut steps {
            steps.reserve(config.max_size.saturating_mul(length).min(RESERVED));
        }
        Ok(Self {
            contents: None,
            items,
            steps,
            sampler,
            remover,
            limiter: RateLimiter::new(&config),
            writers: Writers::new(config.max_writers),
            log,
            rng: ChaCha8Rng::seed_from_u64(seed),
            max_priority: 1.0,
            draws_left: 0,
            largest_batch: 0,
            removed: Removed::default(),
            rows: Vec::new(),
            config,
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> &TableConfig {
        &self.config
    }

    /// The steps' signature, once a step was stored.
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

    /// Bytes of the steps that the items hold.
    pub fn bytes(&self) -> u64 {
        let row_bytes = self
            .contents
            .as_ref()
            .map_or(0, |(_, rows)| rows.row_bytes());
        let held = self.steps.as_ref().map_or(self.limiter.size(), Steps::held);
        held * row_bytes as u64
    }

    /// Bytes of the steps that are kept for the next items of writers which have disconnected.
    pub fn tail_bytes(&self) -> u64 {
        let row_bytes = self
            .contents
            .as_ref()
            .map_or(0, |(_, rows)| rows.row_bytes());
        self.writers.disconnected_steps() * row_bytes as u64
    }

    /// Forgets the writer that has been disconnected for longest, with the steps that are kept for it;
    /// answers whether there was one.
    pub fn forget_writer(&mut self) -> bool {
        let tail = self.writers.forget();
        let found = tail.is_some();
        self.drop_tail(tail.unwrap_or_default());
        found
    }

    /// Forgets all writers that have been disconnected ever since [`writer_uses`](Self::writer_uses)
    /// answered this.
    pub fn forget_writers_until(&mut self, uses: u64) {
        for tail in self.writers.forget_until(uses) {
            self.drop_tail(tail);
        }
    }

    /// How often writers have connected and disconnected: the time that their absence is told by.
    pub fn writer_uses(&self) -> u64 {
        self.writers.uses()
    }

    /// What the last call that changed the table has removed.
    pub fn removed(&self) -> &Removed {
        &self.removed
    }

    /// What an insert that did not get all in waits for.
    pub fn insert_hold(&self) -> Hold {
        self.limiter.insert_hold()
    }

    /// A writer connects; answers the number of the step it is to send next.
    ///
    /// # Errors
    /// The signature or the length of items is not the table's, or too many writers are connected.
    pub fn open_writer(
        &mut self,
        writer: WriterId,
        signature: &Signature,
        sequence_length: usize,
    ) -> Result<u64, Error> {
        self.check_kind(signature, sequence_length)?;
        // What a writer means to send binds nobody until it has sent something.
        let own = self.contents.is_none().then(|| signature.clone());
        let (next_sequence, forgotten) = self.writers.open(writer, own)?;
        self.drop_tail(forgotten);
        Ok(next_sequence)
    }

    /// A writer has disconnected; its number is kept.
    pub fn close_writer(&mut self, writer: WriterId) {
        self.writers.close(writer);
    }

    /// Where each remembered writer is, the least recently used first: all its steps below the number
    /// are stored, each once.
    pub fn writers(&self) -> Vec<(WriterId, u64)> {
        let places = self.writers.places().into_iter();
        places
            .map(|place| (place.writer, place.next_sequence))
            .collect()
    }

    /// Checks what a sampler is going to ask for.
    ///
    /// # Errors
    /// The signature or the length of items is not the table's, or no such batch can ever be drawn.
    pub fn open_sampler(
        &mut self,
        batch_size: usize,
        signature: &Signature,
        sequence_length: usize,
    ) -> Result<(), Error> {
        self.check_kind(signature, sequence_length)?;
        let (max, reason) = max_batch(&self.config, &self.limiter);
        if batch_size == 0 || batch_size as u64 > max {
            return Err(Error::BatchSize {
                max,
                reason,
                got: batch_size,
            });
        }
        self.largest_batch = self.largest_batch.max(batch_size);
        Ok(())
    }

    /// Stores those of a connected writer's steps that are new and that the rate limiter lets in, in
    /// order, and answers the number of the step to be stored next. While that is within the batch,
    /// the rest waits for samples, by [`insert_hold`](Self::insert_hold): the same call, later, goes
    /// on with it.
    ///
    /// The batch must have been checked against the table's signature and length of items.
    ///
    /// # Errors
    /// Steps are missing between those stored and this batch, or before its first item, the writer is not
    /// connected, or the table has taken another signature than its since it was opened; nothing is stored.
    pub fn insert(
        &mut self,
        writer: WriterId,
        first_sequence: u64,
        batch: &StepBatch,
    ) -> Result<u64, Error> {
        self.removed.clear();
        let place = self.writers.get(writer)?;
        let next_sequence = place.next_sequence;
        let Some(known) = next_sequence.checked_sub(first_sequence) else {
            return Err(Error::Gap {
                expected: next_sequence,
                got: first_sequence,
            });
        };
        let len = batch.steps().len();
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(len);
        let Some(ends) = batch.ends() else {
            self.agree(writer)?;
            let allowed = self.insertable((len - known) as u64) as usize;
            self.insert_transitions(writer, batch, known..known + allowed)?;
            return Ok(next_sequence + allowed as u64);
        };
        let first = ends.partition_point(|&end| (end as usize) < known);
        let tail = place.tail.len();
        self.check_windows(batch, first, tail, known)?;
        self.agree(writer)?;
        let allowed = self.insertable((ends.len() - first) as u64) as usize;
        let items = first..first + allowed;
        // Up to the step at which the first item ends that has to wait.
        let end = ends.get(items.end).map_or(len, |&end| end as usize);
        self.insert_sequences(writer, batch, known..end, items)?;
        Ok(next_sequence + (end - known) as u64)
    }

    /// Refuses items from `first` on that have a length which the table does not take, or begin before the
    /// steps there are: `tail` of them before position `known` of the batch.
    fn check_windows(
        &self,
        batch: &StepBatch,
        first: usize,
        tail: usize,
        known: usize,
    ) -> Result<(), Error> {
        let (least, most) = (
            self.config.min_sequence_length(),
            self.config.sequence_length,
        );
        let ends = batch.ends().unwrap_or_default();
        for (item, &end) in ends.iter().enumerate().skip(first) {
            let own = batch.lengths().get(item);
            let needed = own.map_or(most, |&length| length as usize);
            if !(least..=most).contains(&needed) {
                let got = needed;
                return Err(Error::Length { least, most, got });
            }
            let got = (tail + 1 + end as usize - known) as u64;
            if got < needed as u64 {
                return Err(Error::Window { needed, got, end });
            }
            // As far as all are equally long, the first begins first.
            if own.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Draws a batch of a size that [`open_sampler`](Self::open_sampler) has accepted, with
    /// replacement but for items that have been drawn `max_times_sampled` times, which leave at once.
    ///
    /// # Errors
    /// The rate limiter holds it back; nothing is counted.
    pub fn sample(&mut self, batch_size: usize) -> Result<SampledBatch, Hold> {
        self.removed.clear();
        self.limiter.check_sample(batch_size as u64)?;
        let limit = self.config.max_times_sampled;
        if limit > 0 && self.draws_left < batch_size as u64 {
            return Err(Hold {
                reason: Blocked::Inserts,
                counter: "draws left",
                value: self.draws_left as f64,
                bound: batch_size as f64,
            });
        }
        let (slots, items) = self.draw(batch_size);
        let columns = self.gather(&slots);
        self.limiter.sampled(batch_size as u64);
        if limit > 0 {
            self.draws_left -= batch_size as u64;
            self.log_draws(&slots);
            self.retire(&slots);
        }
        Ok(SampledBatch {
            columns,
            counters: self.counters(),
            items,
        })
    }

    /// Copies of the items' steps, the oldest item first, `count` items at a time. Nothing is drawn by that.
    pub fn oldest_first(&self, count: usize) -> impl Iterator<Item = ColumnBatch> {
        let all = (0..self.items.slots() as Slot)
            .filter_map(|slot| Some((self.items.get(slot)?.ordinal, slot)));
        let mut all: Vec<(u64, Slot)> = all.collect();
        all.sort_unstable();
        let slots: Vec<Slot> = all.into_iter().map(|(_, slot)| slot).collect();
        let batches = slots.len().div_ceil(count);
        (0..batches).map(move |batch| {
            let end = slots.len().min((batch + 1) * count);
            self.gather(&slots[batch * count..end])
        })
    }

    /// The steps of items, item by item.
    fn gather(&self, slots: &[Slot]) -> ColumnBatch {
        let (signature, rows) = self
            .contents
            .as_ref()
            .expect("a table with items was opened");
        let runs = match &self.steps {
            None => rows.runs(slots.iter().copied()),
            Some(steps) => {
                let window = |&slot: &Slot| {
                    steps.window(self.items.first_row(slot), self.items.length(slot))
                };
                rows.runs(slots.iter().flat_map(window))
            }
        };
        let own = |&slot: &Slot| self.items.length(slot).map(|length| length as usize);
        let longest = self.config.sequence_length;
        let lengths = slots.iter().map(|slot| own(slot).unwrap_or(longest));
        let len = lengths.sum();
        ColumnBatch::of_known_values(signature, len, rows.gather(&runs))
            .expect("stored steps were checked against the signature")
    }

    /// Sets the priorities of items that a sampler knows by these keys; answers how many there were,
    /// and how many have gone. The priorities must have been checked.
    ///
    /// # Errors
    /// No selector uses priorities.
    pub fn update_priorities(
        &mut self,
        keys: &[u64],
        priorities: &[f64],
    ) -> Result<(u64, u64), Error> {
        if !self.config.uses_priorities() {
            return Err(Error::NoPriorities(self.config.name.clone()));
        }
        let mut updates = Vec::with_capacity(keys.len());
        for (&key, &priority) in keys.iter().zip(priorities) {
            let Some(slot) = self.items.find(key) else {
                continue;
            };
            self.sampler.update(slot, priority);
            self.remover.update(slot, priority);
            self.items.set_priority(slot, priority);
            self.max_priority = self.max_priority.max(priority);
            let item = self.items.get(slot).expect("it was found");
            updates.push((item.ordinal, priority));
        }
        let updated = updates.len() as u64;
        if let Some(log) = self.log.as_mut().filter(|_| updated > 0) {
            log.append(&Record::Priorities(updates));
        }
        Ok((updated, keys.len() as u64 - updated))
    }

    /// Removes the items that a sampler knows by these keys; answers how many there were, and how many
    /// had gone before.
    pub fn delete(&mut self, keys: &[u64]) -> (u64, u64) {
        self.removed.clear();
        for &key in keys {
            if let Some(slot) = self.items.find(key) {
                self.remove(slot);
            }
        }
        self.log_removed();
        (self.removed.items, keys.len() as u64 - self.removed.items)
    }

    /// How many of `items` may be inserted now. Where draws have run out for the largest batch, as
    /// many as it takes may: their samples are what everybody waits for.
    fn insertable(&self, items: u64) -> u64 {
        let limit = u64::from(self.config.max_times_sampled);
        let short = match limit {
            0 => 0,
            _ => (self.largest_batch as u64)
                .saturating_sub(self.draws_left)
                .div_ceil(limit),
        };
        self.limiter.insertable(items, short)
    }

    fn draw(&mut self, batch_size: usize) -> (Vec<Slot>, SampledItems) {
        let limit = self.config.max_times_sampled;
        let mut slots = Vec::with_capacity(batch_size);
        let mut items = SampledItems {
            keys: Vec::with_capacity(batch_size),
            probabilities: Vec::with_capacity(batch_size),
            priorities: Vec::new(),
            times_sampled: Vec::with_capacity(batch_size),
            lengths: Vec::new(),
        };
        for _ in 0..batch_size {
            let (slot, probability) = self.sampler.select(&mut self.rng);
            let (key, times) = self.items.draw(slot);
            if limit > 0 && times >= limit {
                self.sampler.remove(slot);
                self.remover.remove(slot);
            }
            slots.push(slot);
            items.keys.push(key);
            items.probabilities.push(probability);
            items.priorities.extend(self.items.priority(slot));
            items.times_sampled.push(times);
            items.lengths.extend(self.items.length(slot));
        }
        (slots, items)
    }
}
