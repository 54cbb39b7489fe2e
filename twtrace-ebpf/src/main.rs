//! Kernel programs of twtrace: entry points only, a line or two each.
//!
//! One body per kind of event lives in a module of its own and does not know which entry point
//! called it (fentry, kprobe or tracepoint) nor how its event leaves. Only functions that are
//! called across files or through pointers are hooked: the compiler may inline any other one, and
//! then the attach succeeds and events vanish.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "programs and maps are named after the kernel's own functions")]

mod emit;
mod end;
mod enter;
mod maps;
mod present;
mod read;
mod refuse;
mod timers;

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe, raw_tracepoint},
    programs::{FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext},
};

/// Defines an fentry and a kprobe program that hand a function's arguments to one body.
macro_rules! at_entry {
    ($($fentry:ident, $kprobe:ident => |$ctx:ident, $($arg:ident),+| $body:expr;)*) => {$(
        #[fentry]
        pub fn $fentry($ctx: FEntryContext) -> i32 {
            let mut index = 0;
            $(let $arg: u64 = $ctx.arg(index); index += 1;)+
            let _ = index;
            $body;
            0
        }

        #[kprobe]
        pub fn $kprobe($ctx: ProbeContext) -> u32 {
            let mut index = 0;
            $(let $arg: u64 = $ctx.arg(index).unwrap_or(0); index += 1;)+
            let _ = index;
            $body;
            0
        }
    )*};
}

at_entry! {
    fentry_tcp_time_wait, kprobe_tcp_time_wait =>
        |ctx, sk, state, timeo| enter::on_time_wait(sk, state as u8, timeo as u32);
    // Linux 6.11 on: the timer is armed inside.
    fentry_hashdance_schedule, kprobe_hashdance_schedule =>
        |ctx, tw, sk, _hashinfo, timeo| enter::on_hashdance(&ctx, tw, sk, Some(timeo as u32));
    // Linux 4.16 to 6.10: the timer has just been armed.
    fentry_hashdance, kprobe_hashdance => |ctx, tw, sk| enter::on_hashdance(&ctx, tw, sk, None);
    // Linux 4.4 to 6.10 for every arming; from 6.11 on only re-arming is sure to be seen here.
    fentry_twsk_schedule, kprobe_twsk_schedule =>
        |ctx, tw, timeo, rearm| enter::on_arm(tw, timeo as u32, rearm & 0xff != 0);
    fentry_tcp_done, kprobe_tcp_done => |ctx, sk| enter::on_done(&ctx, sk);
    fentry_state_process, kprobe_state_process => |ctx, tw| end::on_state_process(tw);
    fentry_tw_timer_handler, kprobe_tw_timer_handler => |ctx, timer| end::on_timer(timer);
    fentry_twsk_purge, kprobe_twsk_purge => |ctx, _hashinfo| end::on_purge(true);
    fentry_tcp_abort, kprobe_tcp_abort => |ctx, sk| end::on_abort(sk);
    fentry_twsk_destructor, kprobe_twsk_destructor => |ctx, tw| end::on_destroy(tw);
}

#[fexit]
pub fn fexit_twsk_alloc(ctx: FExitContext) -> i32 {
    enter::on_alloc(ctx.arg(0), ctx.arg(3));
    0
}

// The returned value follows the arguments, whose number differs between kernels: a program for
// each, because the verifier wants to see one fixed place.
#[fexit]
pub fn fexit_state_process_3(ctx: FExitContext) -> i32 {
    end::on_state_processed(ctx.arg::<u64>(3) as u32);
    0
}

#[fexit]
pub fn fexit_state_process_4(ctx: FExitContext) -> i32 {
    end::on_state_processed(ctx.arg::<u64>(4) as u32);
    0
}

#[fexit]
pub fn fexit_state_process_5(ctx: FExitContext) -> i32 {
    end::on_state_processed(ctx.arg::<u64>(5) as u32);
    0
}

#[kretprobe]
pub fn kretprobe_state_process(ctx: RetProbeContext) -> u32 {
    let returned: u64 = ctx.ret();
    end::on_state_processed(returned as u32);
    0
}

#[fexit]
pub fn fexit_twsk_unique(ctx: FExitContext) -> i32 {
    let allowed: u64 = ctx.arg(3);
    refuse::on_unique(ctx.arg(1), ctx.arg::<u64>(2) == 0, allowed as u32);
    0
}

#[kprobe]
pub fn kprobe_twsk_unique(ctx: ProbeContext) -> u32 {
    if let (Some(tw), Some(twp)) = (ctx.arg(1), ctx.arg::<u64>(2)) {
        refuse::remember(tw, twp == 0);
    }
    0
}

#[kretprobe]
pub fn kretprobe_twsk_unique(ctx: RetProbeContext) -> u32 {
    let allowed: u64 = ctx.ret();
    refuse::on_unique_return(allowed as u32);
    0
}

#[fexit]
pub fn fexit_twsk_purge(_ctx: FExitContext) -> i32 {
    end::on_purge(false);
    0
}

#[kretprobe]
pub fn kretprobe_twsk_purge(_ctx: RetProbeContext) -> u32 {
    end::on_purge(false);
    0
}

#[raw_tracepoint(tracepoint = "timer_start")]
pub fn tracepoint_timer_start(ctx: RawTracePointContext) -> i32 {
    timers::on_start(&ctx, ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "timer_cancel")]
pub fn tracepoint_timer_cancel(ctx: RawTracePointContext) -> i32 {
    timers::on_cancel(&ctx, ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "timer_expire_entry")]
pub fn tracepoint_timer_expire(ctx: RawTracePointContext) -> i32 {
    timers::on_expire(ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tracepoint_set_state(ctx: RawTracePointContext) -> i32 {
    timers::on_set_state(ctx.arg(0), ctx.arg(2));
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs read its memory.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
