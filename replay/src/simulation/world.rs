//! Exactly once, over thousands of random schedules: the real writer logic (`Dispatch` and its
//! outboxes) and the real service beneath its sockets. One generator decides everything, so a schedule is
//! its seed.
//!
//! Connections are streams as HTTP/2 gives them, cut at any moment: what was on its way may still
//! arrive, late and at a server that the writer has reconnected to meanwhile, or not. On top of what a
//! stream can do, messages to the server are dropped, doubled and reordered. Servers are killed, lose
//! their machine's power, and end by themselves where a write or a sync fails or a disk is full; where
//! only the process dies, under any policy of syncing, what was written is there. In some schedules they
//! have no disk and come back without memory, and then it is only checked that nothing is doubled and that
//! writers go on. Writers die too, and others with new ids take their places.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use pmpo_replay_client::dispatch::{Changes, Dispatch};
use pmpo_types::{StepBatch, WriterId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::files::{Faults, SimulatedFiles};
use super::shard::{Shard, columns, disk, table};
use crate::config::Fsync;

const SCHEDULES: u64 = 3_000;
/// Events of a schedule while things go wrong.
const EVENTS: usize = 400;
/// Steps a writer may have in flight to the shard in use.
const MAX_IN_FLIGHT: usize = 40;
/// Ids of a writer begin at its id times this.
const IDS: i64 = 1 << 32;

enum Message {
    Open,
    Items(u64, StepBatch),
}

pub(super) struct Connection {
    writer: WriterId,
    shard: usize,
    /// The writer still listens.
    listening: bool,
    /// The shard has answered `open`.
    accepted: bool,
    to_server: VecDeque<Message>,
    to_writer: VecDeque<u64>,
}

pub(super) struct Writer {
    pub(super) dispatch: Dispatch,
    /// For each shard that is connected to: the connection, once there is one.
    lanes: BTreeMap<usize, Option<u64>>,
    pushed: i64,
    /// Ids of items pushed, and which of them may end up nowhere: those of a dead writer that were not
    /// acknowledged.
    pub(super) items: Vec<i64>,
    pub(super) alive: bool,
}

pub(super) struct World {
    rng: ChaCha8Rng,
    now: Instant,
    length: usize,
    /// Whether shards come back with what they had acknowledged.
    pub(super) durable: bool,
    /// Whether also from a loss of power.
    pub(super) each_batch: bool,
    pub(super) shards: Vec<Shard>,
    pub(super) connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    pub(super) writers: BTreeMap<WriterId, Writer>,
    pub(super) faults: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let length = if rng.random_bool(0.5) {
            1
        } else {
            rng.random_range(2..5)
        };
        let durable = rng.random_bool(0.8);
        let policies = [
            Fsync::EachBatch,
            Fsync::EachBatch,
            Fsync::Interval,
            Fsync::Never,
        ];
        let fsync = policies[rng.random_range(0..4)];
        let shards = (0..rng.random_range(1..4)).map(|shard| {
            let files = durable.then(|| SimulatedFiles::new(10 * seed + shard));
            Shard::new(table(length), disk(fsync), files)
        });
        let mut world = Self {
            length,
            durable,
            each_batch: fsync == Fsync::EachBatch,
            shards: shards.collect(),
            now: Instant::now(),
            connections: BTreeMap::new(),
            next_connection: 0,
            writers: BTreeMap::new(),
            faults: true,
            rng,
        };
        for _ in 0..world.rng.random_range(1..4) {
            world.start_writer();
        }
        world
    }

    fn start_writer(&mut self) {
        let id = WriterId(self.writers.len() as u128 + 1);
        let writer = Writer {
            dispatch: Dispatch::new(self.shards.len(), self.length, self.now),
            lanes: BTreeMap::from([(0, None)]),
            pushed: 0,
            items: Vec::new(),
            alive: true,
        };
        self.writers.insert(id, writer);
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.rng.random_range(0..from.len())])
    }

    fn pick_writer(&mut self) -> Option<WriterId> {
        let alive = self.writers.iter().filter(|(_, writer)| writer.alive);
        let alive: Vec<WriterId> = alive.map(|(&id, _)| id).collect();
        self.pick(&alive)
    }

    fn pick_connection(&mut self) -> Option<u64> {
        let all: Vec<u64> = self.connections.keys().copied().collect();
        self.pick(&all)
    }

    /// A writer's shards in its order of preference, which differs from writer to writer.
    fn shard_of(&self, writer: WriterId, lane: usize) -> usize {
        (writer.0 as usize + lane) % self.shards.len()
    }

    fn push(&mut self, id: WriterId) {
        let len = self.rng.random_range(1..8i64);
        let (length, every) = (self.length, self.rng.random_range(1..4usize));
        let writer = self.writers.get_mut(&id).unwrap();
        if writer.dispatch.current_in_flight_steps() + len as usize > MAX_IN_FLIGHT {
            return;
        }
        let first = id.0 as i64 * IDS + writer.pushed;
        let item = |at: &u32| {
            let before = writer.pushed as usize + *at as usize;
            before + 1 >= length && (length == 1 || before.is_multiple_of(every))
        };
        let ends: Vec<u32> = (0..len as u32).filter(item).collect();
        writer
            .items
            .extend(ends.iter().map(|&end| first + i64::from(end)));
        let steps = columns(first..first + len);
        let ends = if length == 1 { vec![] } else { ends };
        let steps = StepBatch::new(length, steps, ends, vec![]).unwrap();
        writer.dispatch.push(steps);
        writer.pushed += len;
    }

    /// A writer opens a stream on a lane that has none, or sends on one that has.
    fn work(&mut self, id: WriterId) {
        let lanes: Vec<usize> = self.writers[&id].lanes.keys().copied().collect();
        let lane = self.pick(&lanes).unwrap();
        let shard = self.shard_of(id, lane);
        match self.writers[&id].lanes[&lane] {
            Some(number) => {
                let connection = self.connections.get_mut(&number).unwrap();
                let writer = self.writers.get_mut(&id).unwrap();
                if connection.accepted
                    && let Some((first, steps)) = writer.dispatch.outbox(lane).send_next()
                {
                    connection.to_server.push_back(Message::Items(first, steps));
                }
            }
            None if self.shards[shard].is_up() => {
                let number = self.next_connection;
                self.next_connection += 1;
                let connection = Connection {
                    writer: id,
                    shard,
                    listening: true,
                    accepted: false,
                    to_server: VecDeque::from([Message::Open]),
                    to_writer: VecDeque::new(),
                };
                self.connections.insert(number, connection);
                *self
                    .writers
                    .get_mut(&id)
                    .unwrap()
                    .lanes
                    .get_mut(&lane)
                    .unwrap() = Some(number);
            }
            None => self.failed(id, lane),
        }
    }

    fn failed(&mut self, id: WriterId, lane: usize) {
        let writer = self.writers.get_mut(&id).unwrap();
        writer.lanes.insert(lane, None);
        let Changes { connect, .. } = writer.dispatch.failed(lane, self.now);
        if let Some(lane) = connect {
            writer.lanes.insert(lane, None);
        }
    }

    /// The writer's end of a connection is gone; what is on its way may still arrive.
    pub(super) fn cut(&mut self, number: u64) {
        let late = self.rng.random_bool(0.5);
        let connection = self.connections.get_mut(&number).unwrap();
        let (id, shard) = (connection.writer, connection.shard);
        let listening = std::mem::replace(&mut connection.listening, false);
        connection.to_writer.clear();
        if !late {
            self.connections.remove(&number);
        }
        let lanes = self.shards.len();
        if listening && self.writers[&id].alive {
            let lane = (0..lanes).find(|&lane| self.shard_of(id, lane) == shard);
            self.failed(id, lane.unwrap());
        }
    }

    /// A message reaches a shard.
    fn arrive(&mut self, number: u64) {
        self.misbehave(number);
        let connection = self.connections.get_mut(&number).unwrap();
        let (id, shard) = (connection.writer, connection.shard);
        let Some(message) = connection.to_server.pop_front() else {
            if !connection.listening {
                self.connections.remove(&number);
            }
            return;
        };
        match message {
            Message::Open => self.shards[shard].open(id, number),
            Message::Items(first, steps) => self.shards[shard].insert(id, number, first, steps),
        }
    }

    /// What no stream does to its messages, and the numbers must catch all the same.
    fn misbehave(&mut self, number: u64) {
        if !self.faults || !self.rng.random_bool(0.1) {
            return;
        }
        let queue = &mut self.connections.get_mut(&number).unwrap().to_server;
        let items: Vec<usize> = (0..queue.len())
            .filter(|&at| matches!(queue[at], Message::Items(..)))
            .collect();
        let (Some(&at), Some(&other)) = (items.first(), items.last()) else {
            return;
        };
        match self.rng.random_range(0..3) {
            0 => drop(queue.remove(at)),
            1 => queue.swap(at, other),
            _ => {
                if let Message::Items(first, steps) = &queue[at] {
                    let again = Message::Items(*first, steps.clone());
                    queue.push_back(again);
                }
            }
        }
    }

    /// An answer reaches a writer.
    fn answer(&mut self, number: u64) {
        let connection = self.connections.get_mut(&number).unwrap();
        let (id, shard) = (connection.writer, connection.shard);
        let Some(next) = connection
            .to_writer
            .pop_front()
            .filter(|_| connection.listening)
        else {
            return;
        };
        let first = !std::mem::replace(&mut connection.accepted, true);
        let lane = (0..self.shards.len()).find(|&lane| self.shard_of(id, lane) == shard);
        let lane = lane.unwrap();
        let dispatch = &mut self.writers.get_mut(&id).unwrap().dispatch;
        if first {
            let resumed = dispatch.outbox(lane).resume(next).unwrap();
            assert!(
                resumed.forgotten == 0 || !self.durable,
                "a durable shard has lost what it acknowledged"
            );
            dispatch.opened(lane);
        } else {
            dispatch.outbox(lane).acknowledge(next).unwrap();
        }
    }

    /// The table's thread of a shard has its turn, and the syncer if it `syncs`.
    fn serve(&mut self, shard: usize, syncs: bool) {
        if !self.shards[shard].is_up() {
            return;
        }
        let goes_on = self.shards[shard].turn() && (!syncs || self.shards[shard].sync());
        if !goes_on {
            return self.is_down(shard);
        }
        for (number, next) in self.shards[shard].answers() {
            let Some(connection) = self.connections.get_mut(&number) else {
                continue;
            };
            match next {
                Some(next) => connection.to_writer.push_back(next),
                None => {
                    self.cut(number);
                    self.connections.remove(&number);
                }
            }
        }
    }

    fn crash(&mut self, shard: usize) {
        let power = self.each_batch && self.rng.random_bool(0.6);
        if self.shards[shard].is_up() || power {
            self.shards[shard].crash(power);
            self.is_down(shard);
        }
    }

    fn is_down(&mut self, shard: usize) {
        let lost: Vec<u64> = (self.connections.iter())
            .filter(|(_, connection)| connection.shard == shard)
            .map(|(&number, _)| number)
            .collect();
        for number in lost {
            self.cut(number);
            self.connections.remove(&number);
        }
    }

    /// Something of a shard's file system is about to fail, or works again.
    fn disturb(&mut self, shard: usize) {
        let Some(files) = &self.shards[shard].files else {
            return;
        };
        let mut faults = Faults::default();
        match self.rng.random_range(0..8) {
            0..3 => faults.sync_in = Some(self.rng.random_range(0..4)),
            3 => faults.append = true,
            4 => faults.room = Some(self.rng.random_range(0..500)),
            5 => faults.no_descriptors = true,
            _ => {}
        }
        files.set_faults(faults);
    }

    fn kill_writer(&mut self, id: WriterId) {
        self.writers.get_mut(&id).unwrap().alive = false;
        for connection in self.connections.values_mut() {
            connection.listening &= connection.writer != id;
        }
        self.start_writer();
    }

    pub(super) fn event(&mut self) {
        self.now += Duration::from_millis(self.rng.random_range(0..100));
        let shard = self.rng.random_range(0..self.shards.len());
        let (writer, connection) = (self.pick_writer(), self.pick_connection());
        match (self.rng.random_range(0..100), writer, connection) {
            (0..20, Some(writer), _) if self.faults => self.push(writer),
            (20..50, Some(writer), _) => self.work(writer),
            (50..70, _, Some(connection)) => self.arrive(connection),
            (70..85, _, Some(connection)) => self.answer(connection),
            (85..88, ..) => self.serve(shard, false),
            (88..93, ..) => self.serve(shard, true),
            (93..95, _, Some(connection)) if self.faults => self.cut(connection),
            (95, ..) if self.faults => self.crash(shard),
            (96, ..) if self.faults => self.disturb(shard),
            (97..99, ..) if !self.shards[shard].is_up() => {
                self.shards[shard].start();
            }
            (99, Some(writer), _) if self.faults && self.rng.random_bool(0.2) => {
                self.kill_writer(writer);
            }
            _ => {}
        }
    }
}

#[test]
fn every_acknowledged_item_is_stored_once_whatever_happens() {
    let only: Option<u64> = std::env::var("SIMULATION_SEED")
        .ok()
        .map(|seed| seed.parse().expect("a number"));
    let seeds = only.map_or(0..SCHEDULES, |seed| seed..seed + 1);
    let mut stored = 0;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..EVENTS {
                world.event();
            }
            world.settle();
            world.check()
        });
        stored += run.unwrap_or_else(|_| panic!("failed with SIMULATION_SEED={seed}"));
    }
    assert!(
        only.is_some() || stored > 10_000,
        "{stored} items: the schedules do nothing"
    );
}
