//! Maps that both objects have, and what passes between programs.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use twtrace_common::{Counter, Live};

use crate::platform::{Env, Recent};

/// What is known of each live timewait socket, by its address. Its size is set by the loader.
#[map]
pub static LIVE: HashMap<u64, Live> = HashMap::with_max_entries(262_144, 0);

/// Tasks that are deleting a network namespace's sockets right now.
#[map]
pub static PURGING: HashMap<u64, u32> = HashMap::with_max_entries(256, 0);

/// Takes down that something has happened, in an array of one element.
#[inline(always)]
pub fn note(happened: &Array<u32>) {
    if let Some(word) = happened.get_ptr_mut(0) {
        // SAFETY: null-checked; whoever writes at once writes the same.
        unsafe { *word = 1 };
    }
}

/// Whether something ever happened: costs less than a look into a map that is empty.
#[inline(always)]
pub fn is_noted(happened: &Array<u32>) -> bool {
    // SAFETY: null-checked; it only ever becomes 1.
    happened.get_ptr(0).is_some_and(|word| unsafe { *word } != 0)
}

/// Counts a change to a map that was not made.
#[inline(always)]
pub fn made(env: Env, changed: Result<(), i32>) {
    if changed.is_err() {
        env.count(Counter::MapFailed);
    }
}

/// Sockets inside `tcp_time_wait()`, by address. The hash dance or `tcp_done()` removes each; what
/// a skipped program leaves behind is overwritten when the address comes back.
#[map]
pub static ENTERING: Recent<u64, Entering> = Recent::with_max_entries(4096, 0);

/// Arguments of a `tcp_time_wait()` call in progress.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entering {
    /// Third argument, jiffies.
    pub timeo: u32,
    /// Second argument.
    pub state: u32,
    /// The timewait socket, 0 until there is one.
    pub tw: u64,
}
