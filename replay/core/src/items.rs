//! What a table knows of each item, by slot.

use serde::{Deserialize, Serialize};

use crate::TableConfig;
use crate::selector::Slot;

/// The ordinal of a slot that is not in use.
const FREE: u64 = u64::MAX;

/// The items, and in columns what few tables need and stays empty in the others: a million items of 230
/// bytes should not take much more than that.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Items {
    heads: Vec<Head>,
    /// Where a selector uses priorities.
    priorities: Option<Vec<f64>>,
    /// Rows of the first steps, of sequences. A transition's row is its slot.
    first_rows: Option<Vec<Slot>>,
    free: Vec<Slot>,
    /// Steps, where items have lengths of their own. Saved apart, for copies of before have none.
    #[serde(skip)]
    lengths: Option<Vec<u32>>,
}

/// What a draw reads and writes, at one place in memory.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Head {
    /// How many items were inserted before: names the item for ever.
    ordinal: u64,
    times_sampled: u32,
    /// Segment of the log that holds the item, where there is a log.
    segment: u32,
}

/// One item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) ordinal: u64,
    pub(crate) times_sampled: u32,
    pub(crate) priority: f64,
    pub(crate) first_row: Slot,
    /// Steps, where items have lengths of their own.
    pub(crate) length: Option<u32>,
    pub(crate) segment: u32,
}

impl Items {
    pub(crate) fn new(config: &TableConfig) -> Self {
        Self {
            priorities: config.uses_priorities().then(Vec::new),
            first_rows: (config.sequence_length > 1).then(Vec::new),
            lengths: config.is_ragged().then(Vec::new),
            ..Self::default()
        }
    }

    /// Memory for so many slots.
    pub(crate) fn reserve(&mut self, slots: usize) {
        self.heads.reserve_exact(slots);
        if let Some(column) = &mut self.priorities {
            column.reserve_exact(slots);
        }
        for column in [&mut self.first_rows, &mut self.lengths]
            .into_iter()
            .flatten()
        {
            column.reserve_exact(slots);
        }
    }

    /// Slots ever used.
    pub(crate) fn slots(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn insert(&mut self, item: Item) -> Slot {
        let new = self.heads.len() as Slot;
        let slot = self.free.pop().unwrap_or(new);
        let head = Head {
            ordinal: item.ordinal,
            times_sampled: item.times_sampled,
            segment: item.segment,
        };
        put(&mut self.heads, slot, head);
        if let Some(column) = &mut self.priorities {
            put(column, slot, item.priority);
        }
        if let Some(column) = &mut self.first_rows {
            put(column, slot, item.first_row);
        }
        if let (Some(column), Some(length)) = (&mut self.lengths, item.length) {
            put(column, slot, length);
        }
        slot
    }

    /// The item in `slot`, if there is one.
    pub(crate) fn get(&self, slot: Slot) -> Option<Item> {
        let head = self.heads.get(slot as usize)?;
        let priorities = self.priorities.as_ref();
        (head.ordinal != FREE).then(|| Item {
            ordinal: head.ordinal,
            times_sampled: head.times_sampled,
            priority: priorities.map_or(1.0, |column| column[slot as usize]),
            first_row: self.first_row(slot),
            length: self.length(slot),
            segment: head.segment,
        })
    }

    pub(crate) fn first_row(&self, slot: Slot) -> Slot {
        let rows = self.first_rows.as_ref();
        rows.map_or(slot, |column| column[slot as usize])
    }

    /// Its steps, where items have lengths of their own.
    pub(crate) fn length(&self, slot: Slot) -> Option<u32> {
        let lengths = self.lengths.as_ref()?;
        Some(lengths[slot as usize])
    }

    /// What is saved apart.
    pub(crate) fn lengths(&self) -> &Option<Vec<u32>> {
        &self.lengths
    }

    /// Takes [`lengths`](Self::lengths) of the same items; answers whether they can be theirs.
    pub(crate) fn set_lengths(&mut self, lengths: Option<Vec<u32>>) -> bool {
        let fits = lengths
            .as_ref()
            .is_none_or(|all| all.len() == self.heads.len());
        self.lengths = lengths;
        fits
    }

    /// Frees the slot of an item and answers what it was.
    pub(crate) fn remove(&mut self, slot: Slot) -> Item {
        let item = self.get(slot).expect("only slots in use are freed");
        self.heads[slot as usize].ordinal = FREE;
        self.free.push(slot);
        item
    }

    /// Counts a draw; answers the key and how often the item has been drawn.
    pub(crate) fn draw(&mut self, slot: Slot) -> (u64, u32) {
        let head = &mut self.heads[slot as usize];
        head.times_sampled = head.times_sampled.saturating_add(1);
        (key(head.ordinal, slot), head.times_sampled)
    }

    /// The item that a sampler knows by `key`, if it is still there.
    pub(crate) fn find(&self, key: u64) -> Option<Slot> {
        let slot = key as Slot;
        let ordinal = self.heads.get(slot as usize)?.ordinal;
        (ordinal != FREE && self::key(ordinal, slot) == key).then_some(slot)
    }

    /// Its priority, where they are kept.
    pub(crate) fn priority(&self, slot: Slot) -> Option<f64> {
        let priorities = self.priorities.as_ref()?;
        Some(priorities[slot as usize])
    }

    pub(crate) fn set_priority(&mut self, slot: Slot, priority: f64) {
        if let Some(column) = &mut self.priorities {
            column[slot as usize] = priority;
        }
    }

    pub(crate) fn set_segment(&mut self, slot: Slot, segment: u32) {
        self.heads[slot as usize].segment = segment;
    }
}

/// An item's name for samplers: where it is, and enough of its ordinal to tell whether it is still
/// there. Two items of a slot are mistaken for each other only if 2^32 inserts, or a multiple, lie
/// between them.
fn key(ordinal: u64, slot: Slot) -> u64 {
    ordinal << 32 | u64::from(slot)
}

/// The lower half of the ordinal of the item that samplers know by `key`: how many items had been
/// inserted before it.
pub fn key_ordinal(key: u64) -> u32 {
    (key >> 32) as u32
}

/// Sets a value; slots are used for the first time in their order.
fn put<T>(column: &mut Vec<T>, slot: Slot, value: T) {
    match column.get_mut(slot as usize) {
        Some(old) => *old = value,
        None => column.push(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::SelectorKind;

    fn item(ordinal: u64) -> Item {
        Item {
            ordinal,
            times_sampled: 0,
            priority: 2.0,
            first_row: 9,
            length: Some(2),
            segment: 3,
        }
    }

    #[test]
    fn keys_name_an_item_until_it_is_gone() {
        let mut items = Items::new(&TableConfig {
            sampler: SelectorKind::Prioritized,
            sequence_length: 3,
            min_sequence_length: Some(1),
            ..TableConfig::default()
        });
        let slots = [7, 8].map(|ordinal| items.insert(item(ordinal)));
        let (key, times) = items.draw(slots[1]);
        assert_eq!((items.find(key), times), (Some(slots[1]), 1));
        assert_eq!(items.draw(slots[1]), (key, 2));
        assert_eq!(items.remove(slots[1]).times_sampled, 2);
        assert_eq!((items.find(key), items.get(slots[1])), (None, None));
        assert_eq!(items.insert(item(9)), slots[1], "the slot is used again");
        assert_eq!(items.find(key), None);
        assert_eq!(items.get(slots[1]), Some(item(9)));
        for stranger in [u64::MAX, 5, 7 << 32 | 1] {
            assert_eq!(items.find(stranger), None);
        }
    }
}
