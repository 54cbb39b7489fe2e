//! kprobe and kretprobe programs, in both objects.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use crate::{end, enter, hooks::entry_hooks, platform::Env, refuse};

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

#[kretprobe]
pub fn kretprobe_state_process(ctx: RetProbeContext) -> u32 {
    let Some(env) = Env::get() else { return 0 };
    let returned: u64 = ctx.ret();
    end::on_state_processed(env, returned as u32);
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

#[kretprobe]
pub fn kretprobe_twsk_purge(_ctx: RetProbeContext) -> u32 {
    end::on_purge(false);
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
