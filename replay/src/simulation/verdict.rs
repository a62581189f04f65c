//! How a schedule of the simulation ends, and what must then hold.

use super::files::Faults;
use super::world::{World, Writer};

impl World {
    /// Nothing goes wrong any more, and all that is alive is acknowledged. The streams end first: one
    /// that lost its last message, which no real stream does, would show it by no later one.
    pub(crate) fn settle(&mut self) {
        self.faults = false;
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for number in open {
            self.cut(number);
        }
        for shard in &mut self.shards {
            if let Some(files) = &shard.files {
                files.set_faults(Faults::default());
            }
            assert!(shard.is_up() || shard.start());
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

    /// How many items are stored, all of them as they must be.
    pub(crate) fn check(&mut self) -> usize {
        let power = self.each_batch;
        let found = self.shards.iter_mut().map(|shard| shard.contents(power));
        let mut found: Vec<i64> = found.flatten().collect();
        found.sort_unstable();
        let twice = found.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "an item is stored twice");
        if !self.durable {
            return found.len();
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
        found.len()
    }
}
