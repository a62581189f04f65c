//! What a table knows of each item, by slot.

use crate::selector::Slot;

/// The ordinal of a slot that is not in use.
const FREE: u64 = u64::MAX;

/// Items in columns. Those that few tables need stay empty in the others: a million items of 230 bytes
/// should not take much more than that.
#[derive(Default)]
pub(crate) struct Items {
    /// How many items were inserted before each: names it for ever.
    ordinals: Vec<u64>,
    times_sampled: Vec<u32>,
    /// Where a selector uses priorities.
    priorities: Option<Vec<f64>>,
    /// Rows of the first steps, of sequences. A transition's row is its slot.
    first_rows: Option<Vec<Slot>>,
    /// Segments of the log that hold the items, where there is a log.
    segments: Option<Vec<u32>>,
    free: Vec<Slot>,
}

/// One item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) ordinal: u64,
    pub(crate) times_sampled: u32,
    pub(crate) priority: f64,
    pub(crate) first_row: Slot,
    pub(crate) segment: u32,
}

impl Items {
    pub(crate) fn new(priorities: bool, sequences: bool, log: bool) -> Self {
        Self {
            priorities: priorities.then(Vec::new),
            first_rows: sequences.then(Vec::new),
            segments: log.then(Vec::new),
            ..Self::default()
        }
    }

    /// Slots ever used.
    pub(crate) fn slots(&self) -> usize {
        self.ordinals.len()
    }

    pub(crate) fn insert(&mut self, item: Item) -> Slot {
        let new = self.ordinals.len() as Slot;
        let slot = self.free.pop().unwrap_or(new);
        put(&mut self.ordinals, slot, item.ordinal);
        put(&mut self.times_sampled, slot, item.times_sampled);
        if let Some(column) = &mut self.priorities {
            put(column, slot, item.priority);
        }
        if let Some(column) = &mut self.first_rows {
            put(column, slot, item.first_row);
        }
        if let Some(column) = &mut self.segments {
            put(column, slot, item.segment);
        }
        slot
    }

    /// The item in `slot`, if there is one.
    pub(crate) fn get(&self, slot: Slot) -> Option<Item> {
        let at = slot as usize;
        let ordinal = *self.ordinals.get(at)?;
        (ordinal != FREE).then(|| Item {
            ordinal,
            times_sampled: self.times_sampled[at],
            priority: self.priorities.as_ref().map_or(1.0, |column| column[at]),
            first_row: self.first_row(slot),
            segment: self.segments.as_ref().map_or(0, |column| column[at]),
        })
    }

    pub(crate) fn first_row(&self, slot: Slot) -> Slot {
        let rows = self.first_rows.as_ref();
        rows.map_or(slot, |column| column[slot as usize])
    }

    /// Frees the slot of an item and answers what it was.
    pub(crate) fn remove(&mut self, slot: Slot) -> Item {
        let item = self.get(slot).expect("only slots in use are freed");
        self.ordinals[slot as usize] = FREE;
        self.free.push(slot);
        item
    }

    /// Counts a draw; answers the key and how often the item has been drawn.
    pub(crate) fn draw(&mut self, slot: Slot) -> (u64, u32) {
        let key = self.key(slot);
        let times = &mut self.times_sampled[slot as usize];
        *times = times.saturating_add(1);
        (key, *times)
    }

    /// The item's name for samplers: where it is, and enough of its ordinal to tell whether it is
    /// still there. Two items of a slot are mistaken for each other only if 2^32 inserts, or a
    /// multiple, lie between them.
    fn key(&self, slot: Slot) -> u64 {
        self.ordinals[slot as usize] << 32 | u64::from(slot)
    }

    /// The item that a sampler knows by `key`, if it is still there.
    pub(crate) fn find(&self, key: u64) -> Option<Slot> {
        let slot = key as Slot;
        let ordinal = *self.ordinals.get(slot as usize)?;
        (ordinal != FREE && self.key(slot) == key).then_some(slot)
    }

    pub(crate) fn set_priority(&mut self, slot: Slot, priority: f64) {
        if let Some(column) = &mut self.priorities {
            column[slot as usize] = priority;
        }
    }

    pub(crate) fn set_segment(&mut self, slot: Slot, segment: u32) {
        if let Some(column) = &mut self.segments {
            column[slot as usize] = segment;
        }
    }
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

    fn item(ordinal: u64) -> Item {
        Item {
            ordinal,
            times_sampled: 0,
            priority: 2.0,
            first_row: 9,
            segment: 3,
        }
    }

    #[test]
    fn keys_name_an_item_until_it_is_gone() {
        let mut items = Items::new(true, true, true);
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
