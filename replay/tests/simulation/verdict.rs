//! How a schedule of the simulation ends, and what must then hold.

use crate::shard::Shard;
use crate::{World, Writer};

impl World {
    /// Nothing goes wrong any more, and all that is alive is acknowledged.
    pub(crate) fn settle(&mut self) {
        self.faults = false;
        for shard in &mut self.shards {
            if !shard.is_up() {
                shard.restart();
            }
        }
        let open = |writer: &Writer| writer.alive && writer.dispatch.in_flight_steps() > 0;
        for _ in 0..100_000 {
            if !self.writers.values().any(open) {
                return;
            }
            self.event();
        }
        panic!("steps were never acknowledged");
    }

    pub(crate) fn check(&mut self) {
        let mut found: Vec<i64> = self.shards.iter_mut().flat_map(Shard::contents).collect();
        found.sort_unstable();
        let twice = found.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "an item is stored twice");
        if !self.durable {
            return;
        }
        for writer in self.writers.values() {
            let stored = |id: &&i64| found.binary_search(id).is_ok();
            let stored = writer.items.iter().filter(stored).count() as u64;
            let acknowledged = writer.dispatch.acknowledged_items();
            assert!(
                stored >= acknowledged,
                "{stored} of {acknowledged} acknowledged"
            );
            if writer.alive {
                assert_eq!(
                    stored,
                    writer.items.len() as u64,
                    "all of a live writer's items"
                );
            }
        }
        let pushed: usize = self.writers.values().map(|writer| writer.items.len()).sum();
        assert!(found.len() <= pushed);
    }
}
