//! How an event leaves: reserve a place or count the loss.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use twtrace_common::{Counter, Decode};

use crate::maps::{EVENTS, config, count};

/// Sends `record`, or adds one to `lost` when the buffer is full. Never waits.
///
/// The reader is woken once enough bytes wait; until then it looks by itself on a timer, because
/// a wake-up an event would cost more than the event.
#[inline(always)]
pub fn send<T: Decode + 'static>(record: &T, lost: Counter) {
    let Some(mut slot) = EVENTS.reserve::<T>(0) else {
        count(lost);
        return;
    };
    slot.write(*record);
    let waiting = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    let wake_up = waiting >= u64::from(config!(wakeup_bytes));
    slot.submit(u64::from(if wake_up { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
}
