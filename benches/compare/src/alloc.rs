//! An allocator that counts, while it is told to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Counts only while this is set, so that the other rows pay no more than a load for it.
static COUNTING: AtomicBool = AtomicBool::new(false);
/// Bytes that are in use now, less those at the beginning of the count, on all threads.
static IN_USE: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with counters.
pub struct Counting;

/// Returns the number of allocations that this thread makes, reallocations included.
pub fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    COUNTING.store(true, Ordering::SeqCst);
    run();
    COUNTING.store(false, Ordering::SeqCst);
    ALLOCATIONS.get() - before
}

/// Returns how many more bytes are in use, on all threads, after something was made. It is still
/// there when they are counted.
pub fn bytes_of<R>(make: impl FnOnce() -> R) -> (R, i64) {
    IN_USE.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    let made = make();
    COUNTING.store(false, Ordering::SeqCst);
    (made, IN_USE.load(Ordering::SeqCst))
}

/// Returns the size of the chunk that glibc's `malloc` takes for an allocation: its header has 8
/// bytes, and chunks are multiples of 16, at least 32.
fn chunk(size: usize) -> i64 {
    let size = (size + 8).next_multiple_of(16).max(32);
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn count(allocations: u64, bytes: i64) {
    if COUNTING.load(Ordering::Relaxed) {
        ALLOCATIONS.set(ALLOCATIONS.get() + allocations);
        IN_USE.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is forwarded to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, chunk(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, chunk(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, -chunk(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, chunk(size) - chunk(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }
}
