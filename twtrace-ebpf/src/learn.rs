//! Where nobody tells how the kernel lays out a network namespace: shows one as it is, so that the
//! reader can look for the number it knows.

use aya_ebpf::{macros::kprobe, programs::ProbeContext};
use twtrace_common::{Flow, NET_BYTES};

use crate::{
    platform::{Env, own_front, probe_read},
    read,
};

/// At `tcp_time_wait(sk, …)`: sends the beginning of the namespace of the socket asked for.
#[kprobe]
pub fn kprobe_show_namespace(ctx: ProbeContext) -> u32 {
    let Some(env) = Env::get() else { return 0 };
    show(&ctx, env, ctx.arg(0).unwrap_or(0));
    0
}

#[inline(always)]
fn show(ctx: &ProbeContext, env: Env, sk: u64) {
    own_front!(front);
    let mut flow = Flow::default();
    let (_family, net) = front.read(env, sk, &mut flow);
    if !read::wanted(env, &flow, 0) {
        return;
    }
    let mut bytes = [0_u64; NET_BYTES / 8];
    // SAFETY: initialised bytes on the stack.
    if unsafe { probe_read(bytes.as_mut_ptr().cast(), NET_BYTES as u32, net) } {
        env.send_bytes(ctx, &bytes);
    }
}
