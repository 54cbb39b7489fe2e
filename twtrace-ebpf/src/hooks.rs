//! Which body each hooked function's entry calls, with which of its arguments.
//!
//! Only functions that are called across files or through pointers are hooked: the compiler may
//! inline any other one, and then the attach succeeds and events vanish.

/// Hands the table to a macro that makes programs of it: names of the fentry and the kprobe
/// program, then the arguments and the body.
macro_rules! entry_hooks {
    ($make:ident) => {
        $make! {
            fentry_tcp_time_wait, kprobe_tcp_time_wait =>
                |ctx, env, sk, state, timeo| enter::on_time_wait(env, sk, state as u8, timeo as u32);
            // Linux 6.11 on: the timer is armed inside.
            fentry_hashdance_schedule, kprobe_hashdance_schedule =>
                |ctx, env, tw, sk, _hashinfo, timeo|
                    enter::on_hashdance(&ctx, env, tw, sk, Some(timeo as u32));
            // Linux 4.4 to 6.10: the timer has just been armed.
            fentry_hashdance, kprobe_hashdance =>
                |ctx, env, tw, sk| enter::on_hashdance(&ctx, env, tw, sk, None);
            // Linux 4.4 to 6.10 for every arming; from 6.11 on only re-arming is sure to be seen.
            fentry_twsk_schedule, kprobe_twsk_schedule =>
                |ctx, env, tw, timeo, rearm| enter::on_arm(env, tw, timeo as u32, rearm & 0xff != 0);
            fentry_tcp_done, kprobe_tcp_done => |ctx, env, sk| enter::on_done(&ctx, env, sk);
            fentry_tw_timer_handler, kprobe_tw_timer_handler =>
                |ctx, env, argument| end::on_timer(env, argument);
            fentry_twsk_purge, kprobe_twsk_purge => |ctx, env, _hashinfo| end::on_purge(env, true);
            fentry_tcp_abort, kprobe_tcp_abort => |ctx, env, sk| end::on_abort(env, sk);
            fentry_twsk_destructor, kprobe_twsk_destructor =>
                |ctx, env, tw| end::on_destroy(&ctx, env, tw);
        }
    };
}
pub(crate) use entry_hooks;
