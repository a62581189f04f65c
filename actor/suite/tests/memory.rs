//! A step allocates nothing, and long runs keep their memory. One test in this process, because its
//! size is the process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;

use pmpo_suite::{load, tasks};

const STEPS: usize = 10_000;
/// Bytes by which the process may grow in `STEPS` steps: a leak of a hundred bytes a step shows.
const ALLOWED_GROWTH: usize = 1_000_000;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = pages
        .split(' ')
        .nth(1)
        .expect("resident")
        .parse()
        .expect("a number");
    pages * 4096
}

#[test]
fn steps_neither_allocate_nor_leak() {
    let mut domain = "";
    for info in tasks() {
        // One task a domain is enough for the long run: tasks of a domain share their code.
        let its_domain = info
            .name
            .split('-')
            .next()
            .expect("split yields at least one");
        let steps = if its_domain == domain { 100 } else { STEPS };
        domain = its_domain;
        let mut environment = load(info.name, 1).unwrap();
        let mut action = vec![0.0; environment.spec().action_size()];
        environment.reset().unwrap();
        // The first episode's steps fill caches, MuJoCo's among them.
        let (mut memory, mut allocations) = (0, 0);
        for count in 0..steps {
            if count == steps / 10 {
                memory = resident_bytes();
            }
            action.fill(((count * 7919) % 201) as f64 / 100.0 - 1.0);
            let bounds = &environment.spec().action;
            for (value, (low, high)) in action
                .iter_mut()
                .zip(bounds.minimum.iter().zip(&bounds.maximum))
            {
                *value = value.clamp(*low, *high);
            }
            let before = ALLOCATIONS.get();
            let last = environment.step(&action).unwrap().is_last();
            // The process's first step looks up which kernels to use.
            if count > 0 {
                allocations += ALLOCATIONS.get() - before;
            }
            if last {
                environment.reset().unwrap();
            }
        }
        assert_eq!(allocations, 0, "{}", info.name);
        let grown = resident_bytes().saturating_sub(memory);
        assert!(
            grown < ALLOWED_GROWTH,
            "{} grew by {grown} bytes",
            info.name
        );
    }
}
