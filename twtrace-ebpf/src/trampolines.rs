//! fentry, fexit and tracepoint programs, for kernels with type information.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::bpf_skc_to_tcp_sock,
    macros::{btf_tracepoint, fentry, fexit, raw_tracepoint},
    programs::{BtfTracePointContext, FEntryContext, FExitContext, RawTracePointContext},
};

use crate::{
    connecting, end, enter, fail,
    hooks::entry_hooks,
    maps::ENTERING,
    platform::Env,
    read::{GivesSockets, Pointer},
    refuse,
    timers::{self, Timer},
};

/// Makes the fentry programs of the table.
macro_rules! fentries {
    ($($fentry:ident, $kprobe:ident => |$ctx:ident, $env:ident, $($arg:ident),+| $body:expr;)*) => {$(
        #[fentry]
        pub fn $fentry($ctx: FEntryContext) -> i32 {
            let Some($env) = Env::get() else { return 0 };
            let _ = $env;
            let mut index = 0;
            $(let $arg: u64 = $ctx.arg(index); index += 1;)+
            let _ = index;
            $body;
            0
        }
    )*};
}
entry_hooks!(fentries);

/// Makes the other programs: each gets its context and the environment.
macro_rules! programs {
    ($(#[$kind:meta] $name:ident: $context:ty => |$ctx:ident, $env:ident| $body:expr;)*) => {$(
        #[$kind]
        pub fn $name($ctx: $context) -> i32 {
            let Some($env) = Env::get() else { return 0 };
            let _ = ($env, &$ctx);
            $body;
            0
        }
    )*};
}

programs! {
    #[fexit] fexit_twsk_alloc: FExitContext =>
        |ctx, env| on_alloc(ctx.arg(0), ctx.arg(3));
    #[fentry] fentry_state_process: FEntryContext =>
        |ctx, env| end::on_state_process(env, ctx.arg(0));
    // The returned value follows the arguments, whose number differs between kernels: a program
    // for each, because the verifier wants to see one fixed place.
    #[fexit] fexit_state_process_3: FExitContext =>
        |ctx, env| end::on_state_processed(env, ctx.arg(0), ctx.arg::<u64>(3) as u32);
    #[fexit] fexit_state_process_4: FExitContext =>
        |ctx, env| end::on_state_processed(env, ctx.arg(0), ctx.arg::<u64>(4) as u32);
    #[fexit] fexit_state_process_5: FExitContext =>
        |ctx, env| end::on_state_processed(env, ctx.arg(0), ctx.arg::<u64>(5) as u32);
    #[fexit] fexit_twsk_unique: FExitContext => |ctx, env| {
        refuse::on_unique(env, ctx.arg(1), ctx.arg::<u64>(2) == 0, ctx.arg::<u64>(3) as u32)
    };
    #[fexit] fexit_twsk_purge: FExitContext => |ctx, env| end::on_purge(env, false);
    // Timers are told apart some twenty times a connection: where the verifier knows their type, that
    // takes no helper's call.
    #[btf_tracepoint(function = "timer_start")] typed_timer_start: BtfTracePointContext =>
        |ctx, env| timers::on_start(&ctx, env, Timer(typed(ctx.arg(0))));
    #[btf_tracepoint(function = "timer_cancel")] typed_timer_cancel: BtfTracePointContext =>
        |ctx, env| timers::on_cancel(&ctx, env, Timer(typed(ctx.arg(0))));
    #[btf_tracepoint(function = "timer_expire_entry")] typed_timer_expire: BtfTracePointContext =>
        |ctx, env| timers::on_expire(&ctx, env, Timer(typed(ctx.arg(0))));
    #[btf_tracepoint(function = "inet_sock_set_state")] typed_set_state: BtfTracePointContext =>
        |ctx, env| on_set_state(&ctx, env, ctx.arg(0), (ctx.arg(1), ctx.arg(2)));
    #[raw_tracepoint(tracepoint = "timer_start")] tracepoint_timer_start: RawTracePointContext =>
        |ctx, env| timers::on_start(&ctx, env, Timer(Pointer::untyped(ctx.arg(0))));
    #[raw_tracepoint(tracepoint = "timer_cancel")] tracepoint_timer_cancel: RawTracePointContext =>
        |ctx, env| timers::on_cancel(&ctx, env, Timer(Pointer::untyped(ctx.arg(0))));
    #[raw_tracepoint(tracepoint = "timer_expire_entry")]
    tracepoint_timer_expire: RawTracePointContext =>
        |ctx, env| timers::on_expire(&ctx, env, Timer(Pointer::untyped(ctx.arg(0))));
    #[raw_tracepoint(tracepoint = "inet_sock_set_state")]
    tracepoint_set_state: RawTracePointContext =>
        |ctx, env| on_set_state(&ctx, env, ctx.arg(0), (ctx.arg(1), ctx.arg(2)));
    #[fexit] fexit_hash_connect: FExitContext =>
        |ctx, env| fail::on_connect(&ctx, env, ctx.arg(1), ctx.arg::<u64>(2) as i32);
    #[fexit] fexit_hash_connect6: FExitContext =>
        |ctx, env| fail::on_connect(&ctx, env, ctx.arg(1), ctx.arg::<u64>(2) as i32);
    #[fexit] fexit_get_port: FExitContext => |ctx, env| {
        fail::on_bind(&ctx, env, ctx.arg(0), ctx.arg::<u64>(1) as u16, ctx.arg::<u64>(2) as i32)
    };
}

/// `inet_sock_set_state(sk, old, new)`.
#[inline(always)]
fn on_set_state<C: GivesSockets>(ctx: &C, env: Env, sk: u64, (old, new): (u32, u32)) {
    let states = (old as u8, new as u8);
    connecting::on_set_state(ctx, env, sk, states);
    timers::on_set_state(ctx, env, sk, states);
}

/// To what the kernel hands over with its type.
#[inline(always)]
fn typed(address: u64) -> Pointer {
    Pointer { address, is_typed: true }
}

/// Contexts whose sockets have a type: that of any socket, which the kernel narrows.
macro_rules! typed_sockets {
    ($($context:ty)+) => {$(
        impl GivesSockets for $context {
            #[inline(always)]
            fn tcp_socket(&self, _env: Env, sk: u64) -> Option<Pointer> {
                // SAFETY: the verifier checks that it is a socket; the helper answers null for one that is
                // not a full socket of TCP.
                let sk = unsafe { bpf_skc_to_tcp_sock(sk as *mut c_void) };
                (!sk.is_null()).then_some(typed(sk as u64))
            }
        }
    )+};
}
typed_sockets! { FEntryContext BtfTracePointContext }
impl GivesSockets for FExitContext {}

/// `inet_twsk_alloc(sk, …)` returned the timewait socket, or nothing.
#[inline(always)]
fn on_alloc(sk: u64, tw: u64) {
    if let Some(entering) = ENTERING.get_ptr_mut(sk) {
        // SAFETY: null-checked; only this call of `tcp_time_wait()` is about this socket.
        unsafe { (*entering).tw = tw };
    }
}
