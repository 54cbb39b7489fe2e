//! kprobe and kretprobe programs, and the tracepoint that goes with them, in both objects.

use aya_ebpf::{
    macros::{kprobe, kretprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};

use crate::{
    connecting, end, enter, fail, hooks::entry_hooks, platform::Env, read::GivesSockets, refuse,
};

impl GivesSockets for ProbeContext {}
impl GivesSockets for RetProbeContext {}
impl GivesSockets for RawTracePointContext {}

/// Makes the kprobe programs of the table.
macro_rules! kprobes {
    ($($fentry:ident, $kprobe:ident => |$ctx:ident, $env:ident, $($arg:ident),+| $body:expr;)*) => {$(
        #[kprobe]
        pub fn $kprobe($ctx: ProbeContext) -> u32 {
            let Some($env) = Env::get() else { return 0 };
            let _ = $env;
            let mut index = 0;
            $(let $arg: u64 = $ctx.arg(index).unwrap_or(0); index += 1;)+
            let _ = index;
            $body;
            0
        }
    )*};
}
entry_hooks!(kprobes);

#[kprobe]
pub fn kprobe_state_process(ctx: ProbeContext) -> u32 {
    let Some(env) = Env::get() else { return 0 };
    let tw = ctx.arg(0).unwrap_or(0);
    end::remember_processed(env, tw);
    end::on_state_process(env, tw);
    0
}

#[kretprobe]
pub fn kretprobe_state_process(ctx: RetProbeContext) -> u32 {
    let Some(env) = Env::get() else { return 0 };
    let returned: u64 = ctx.ret();
    end::on_processed_return(env, returned as u32);
    0
}

#[kprobe]
pub fn kprobe_twsk_unique(ctx: ProbeContext) -> u32 {
    let Some(env) = Env::get() else { return 0 };
    if let (Some(tw), Some(twp)) = (ctx.arg(1), ctx.arg::<u64>(2)) {
        refuse::remember(env, tw, twp == 0);
    }
    0
}

#[kretprobe]
pub fn kretprobe_twsk_unique(ctx: RetProbeContext) -> u32 {
    let Some(env) = Env::get() else { return 0 };
    let allowed: u64 = ctx.ret();
    refuse::on_unique_return(env, allowed as u32);
    0
}

/// Makes the kprobe and kretprobe programs of calls that may fail: which arguments are the socket and
/// the port asked for, and what is to be done with them once the call has returned.
macro_rules! calls {
    ($($kprobe:ident, $kretprobe:ident => $sk:literal, $port:expr, $returned:path;)*) => {$(
        #[kprobe]
        pub fn $kprobe(ctx: ProbeContext) -> u32 {
            let Some(env) = Env::get() else { return 0 };
            let port: Option<usize> = $port;
            let port = port.map_or(0, |index| ctx.arg(index).unwrap_or(0));
            fail::remember(env, ctx.arg($sk).unwrap_or(0), port);
            0
        }

        #[kretprobe]
        pub fn $kretprobe(ctx: RetProbeContext) -> u32 {
            let Some(env) = Env::get() else { return 0 };
            let returned: u64 = ctx.ret();
            $returned(&ctx, env, returned as i32);
            0
        }
    )*};
}
calls! {
    kprobe_hash_connect, kretprobe_hash_connect => 1, None, fail::on_connect_return;
    kprobe_hash_connect6, kretprobe_hash_connect6 => 1, None, fail::on_connect_return;
    kprobe_get_port, kretprobe_get_port => 0, Some(1), fail::on_bind_return;
}

/// A state that a socket is set to, where there is a tracepoint for that (4.16 on) and programs for it
/// (4.17 on): it costs less than the kprobe does.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tracepoint_connecting(ctx: RawTracePointContext) -> i32 {
    let Some(env) = Env::get() else { return 0 };
    let states = (ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    connecting::on_set_state(&ctx, env, ctx.arg(0), states);
    0
}

#[kprobe]
pub fn kprobe_set_state(ctx: ProbeContext) -> u32 {
    let Some(env) = Env::get() else { return 0 };
    let state: u64 = ctx.arg(1).unwrap_or(0);
    connecting::on_setting_state(&ctx, env, ctx.arg(0).unwrap_or(0), state as u8);
    0
}

#[kretprobe]
pub fn kretprobe_twsk_purge(_ctx: RetProbeContext) -> u32 {
    let Some(env) = Env::get() else { return 0 };
    end::on_purge(env, false);
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
