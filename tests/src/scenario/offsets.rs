//! The offsets resolved on this kernel against those known for it.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use twtrace::kernel::{BtfIndex, resolve_layout};
use twtrace_common::Field;

use crate::expect;
use crate::lab::Lab;

/// What a kernel's `vmlinux` BTF says, read with another tool: byte offsets.
struct Known {
    /// Its version: a stable update may move what another left in place, and 6.12.117 did.
    release: &'static str,
    icsk_rto: u32,
    rx_opt: u32,
    sk_err: u32,
    sk_protocol: u32,
    tw_ts_recent_stamp: u32,
    net_inum: u32,
    tcp_tw_reuse: u32,
    tcp_timestamps: u32,
    state_process_args: usize,
}

/// The kernels of the test matrix, and the one that builds twtrace.
const KNOWN: [Known; 5] = [
    Known {
        release: "5.10.223-",
        icsk_rto: 1144,
        rx_opt: 1700,
        sk_err: 568,
        sk_protocol: 540,
        tw_ts_recent_stamp: 224,
        net_inum: 136,
        tcp_tw_reuse: 991,
        tcp_timestamps: 1002,
        state_process_args: 3,
    },
    Known {
        release: "6.1.192-",
        icsk_rto: 1216,
        rx_opt: 1748,
        sk_err: 544,
        sk_protocol: 516,
        tw_ts_recent_stamp: 248,
        net_inum: 144,
        tcp_tw_reuse: 1135,
        tcp_timestamps: 1146,
        state_process_args: 3,
    },
    Known {
        release: "6.12.107-",
        icsk_rto: 1176,
        rx_opt: 1756,
        sk_err: 284,
        sk_protocol: 574,
        tw_ts_recent_stamp: 232,
        net_inum: 136,
        tcp_tw_reuse: 1239,
        tcp_timestamps: 1246,
        state_process_args: 4,
    },
    Known {
        release: "6.18.44-fc",
        icsk_rto: 1184,
        rx_opt: 1728,
        sk_err: 284,
        sk_protocol: 532,
        tw_ts_recent_stamp: 232,
        net_inum: 176,
        tcp_tw_reuse: 1351,
        tcp_timestamps: 1362,
        state_process_args: 5,
    },
    Known {
        release: "7.2.13-",
        icsk_rto: 1216,
        rx_opt: 1828,
        sk_err: 284,
        sk_protocol: 540,
        tw_ts_recent_stamp: 240,
        net_inum: 280,
        tcp_tw_reuse: 1543,
        tcp_timestamps: 1554,
        state_process_args: 5,
    },
];

/// Bit-fields, widths and unnamed members included. On a kernel that is not in the table, what has
/// been the same in all of them must be the same here.
pub fn offsets_are_those_known(_lab: &Lab) -> Result<()> {
    let types = BtfIndex::from_file(Path::new("/sys/kernel/btf/vmlinux"))?;
    let layout = resolve_layout(&types)?;
    let whole = Field::whole;

    expect::equal("skc_daddr", &whole(0, 4), &layout.skc_daddr)?;
    expect::equal("skc_rcv_saddr", &whole(4, 4), &layout.skc_rcv_saddr)?;
    expect::equal("skc_dport", &whole(12, 2), &layout.skc_dport)?;
    expect::equal("skc_num", &whole(14, 2), &layout.skc_num)?;
    expect::equal("skc_family", &whole(16, 2), &layout.skc_family)?;
    expect::equal("skc_state", &whole(18, 1), &layout.skc_state)?;
    expect::equal("skc_net", &whole(48, 8), &layout.skc_net)?;
    expect::equal("skc_v6_daddr", &whole(56, 16), &layout.skc_v6_daddr)?;
    expect::equal("skc_v6_rcv_saddr", &whole(72, 16), &layout.skc_v6_rcv_saddr)?;
    expect::equal("tw_substate", &whole(140, 1), &layout.tw_substate)?;
    expect::equal("tw_sport", &whole(142, 2), &layout.tw_sport)?;
    expect::equal("timer function", &whole(24, 8), &layout.timer_function)?;
    expect::equal("tw_timer", &160, &layout.tw_timer.offset)?;
    let rx_opt = layout.ts_recent_stamp.offset;
    expect::equal("ts_recent_stamp", &whole(rx_opt, 4), &layout.ts_recent_stamp)?;
    let tstamp_ok = Field::bits(rx_opt + 16, 1, 1);
    expect::equal("tstamp_ok", &tstamp_ok, &layout.tstamp_ok)?;

    // Debian's version is in the banner only.
    let banner = fs::read_to_string("/proc/version").context("/proc/version")?;
    // Locks are larger with PREEMPT_RT, and what is behind them is elsewhere.
    let of_table =
        |known: &&Known| banner.contains(known.release) && !banner.contains("PREEMPT_RT");
    let Some(known) = KNOWN.iter().find(of_table) else {
        return Ok(());
    };
    expect::equal("icsk_rto", &whole(known.icsk_rto, 4), &layout.icsk_rto)?;
    expect::equal("rx_opt", &known.rx_opt, &rx_opt)?;
    expect::equal("sk_err", &whole(known.sk_err, 4), &layout.sk_err)?;
    expect::equal("sk_protocol", &whole(known.sk_protocol, 2), &layout.sk_protocol)?;
    let stamp = whole(known.tw_ts_recent_stamp, 4);
    expect::equal("tw_ts_recent_stamp", &stamp, &layout.tw_ts_recent_stamp)?;
    expect::equal("ns.inum", &whole(known.net_inum, 4), &layout.net_inum)?;
    expect::equal("tcp_tw_reuse", &whole(known.tcp_tw_reuse, 1), &layout.tcp_tw_reuse)?;
    expect::equal("tcp_timestamps", &whole(known.tcp_timestamps, 1), &layout.tcp_timestamps)?;
    let arguments = types.function_args("tcp_timewait_state_process");
    expect::equal("arguments", &Some(known.state_process_args), &arguments)
}
