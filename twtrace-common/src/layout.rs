//! Where the running kernel keeps each field the programs read.
//!
//! rustc emits no CO-RE relocations, so nothing here is compiled in: userspace resolves every
//! field from the running kernel's BTF and hands the result over before the programs load.

/// Position of one structure member in the running kernel, and how to cut it out of the eight bytes
/// there.
///
/// The programs read eight bytes whatever the width, shift and mask: a branch on the width would
/// multiply the paths that the verifiers of old kernels follow. The byte order is little-endian, as
/// that of the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Field {
    /// Bytes from the start of the owner to the (first byte of the) member.
    pub offset: u32,
    /// Size of the member in bytes: 1, 2, 4, 8, or more for arrays and structures. 0 means that
    /// this kernel has no such member. For a bit-field it is the size of the byte read: 1.
    pub size: u16,
    /// For a bit-field, its lowest bit within the byte at `offset`; 0 otherwise.
    pub bit: u8,
    /// Always 0.
    pub reserved: u8,
    /// The bits of the member once they are shifted down by `bit`; 0 where there is none.
    pub mask: u64,
}

impl Field {
    /// An ordinary member.
    pub const fn whole(offset: u32, size: u16) -> Self {
        let mask = match size {
            0 => 0,
            1..8 => (1 << (8 * size as u64)) - 1,
            _ => u64::MAX,
        };
        Self { offset, size, bit: 0, reserved: 0, mask }
    }

    /// A bit-field within one byte: `bits` wide, from `bit` on.
    pub const fn bits(offset: u32, bit: u8, bits: u8) -> Self {
        Self { offset, size: 1, bit, reserved: 0, mask: (1 << bits) - 1 }
    }

    /// Whether the running kernel has this member.
    pub const fn exists(&self) -> bool {
        self.size != 0
    }
}

/// Bytes of a network namespace that are looked through for its number: it lies at 152 in 4.9 and
/// at 280 in 7.2.
pub const NET_BYTES: usize = 320;

/// How the kernel's sources name a field, and whether twtrace can do without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSource {
    /// Name of the structure, as in BTF.
    pub owner: &'static str,
    /// Member path from `owner`, dots between nested members; several with `|` between where
    /// kernels differ, of which the first that exists is meant.
    pub path: &'static str,
    /// Whether a kernel without the field is refused.
    pub required: bool,
}

macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident: $owner:literal . $path:literal, $required:literal;)*) => {
        /// Every kernel field the programs read, resolved.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct Layout {
            $($(#[$doc])* pub $name: Field,)*
        }

        impl Layout {
            /// Builds a layout by asking `resolve` for each field, in declaration order.
            ///
            /// # Errors
            /// The first error of `resolve`.
            pub fn try_from_fn<E>(
                mut resolve: impl FnMut(&FieldSource) -> Result<Field, E>,
            ) -> Result<Self, E> {
                Ok(Self {
                    $($name: resolve(&FieldSource {
                        owner: $owner,
                        path: $path,
                        required: $required,
                    })?,)*
                })
            }

            /// The first field that lies elsewhere in `other`: its name, and both places.
            pub fn difference(&self, other: &Self) -> Option<(&'static str, Field, Field)> {
                let pairs = [$((stringify!($name), self.$name, other.$name),)*];
                pairs.into_iter().find(|(_, this, that)| this != that)
            }
        }
    };
}

layout! {
    /// IPv4 address of the other end.
    skc_daddr: "sock_common"."skc_daddr", true;
    /// IPv4 address of this end.
    skc_rcv_saddr: "sock_common"."skc_rcv_saddr", true;
    /// IPv6 address of the other end; absent when the kernel has no IPv6.
    skc_v6_daddr: "sock_common"."skc_v6_daddr", false;
    /// IPv6 address of this end; absent when the kernel has no IPv6.
    skc_v6_rcv_saddr: "sock_common"."skc_v6_rcv_saddr", false;
    /// Port of the other end, network byte order.
    skc_dport: "sock_common"."skc_dport", true;
    /// Port of this end, host byte order.
    skc_num: "sock_common"."skc_num", true;
    /// `AF_INET` or `AF_INET6`.
    skc_family: "sock_common"."skc_family", true;
    /// TCP state.
    skc_state: "sock_common"."skc_state", true;
    /// Interface the socket is bound to, 0 for none.
    skc_bound_dev_if: "sock_common"."skc_bound_dev_if", true;
    /// `SO_REUSEADDR` (bit-field).
    skc_reuse: "sock_common"."skc_reuse", false;
    /// What the socket speaks.
    skc_prot: "sock_common"."skc_prot", false;
    /// Name of what a socket speaks, characters.
    proto_name: "proto"."name", false;
    /// Network namespace.
    skc_net: "sock_common"."skc_net.net", true;
    /// Back link of the hash chain: null once the socket was unhashed.
    skc_pprev: "sock_common"."skc_node.pprev", true;
    /// Owner's uid, in the kernel's initial user namespace.
    /// Absent before 4.10.
    sk_uid: "sock"."sk_uid.val", false;
    /// Pending error; non-zero after a reset or an abort.
    sk_err: "sock"."sk_err", true;
    /// IP protocol; a bit-field on kernels before 5.6.
    sk_protocol: "sock"."sk_protocol", true;
    /// Longest queue of its listener, if the socket was accepted: copied by `sk_clone_lock()`. A
    /// client's is 0.
    sk_max_ack_backlog: "sock"."sk_max_ack_backlog", false;
    /// What the program fixed: `SOCK_BINDADDR_LOCK`, `SOCK_BINDPORT_LOCK` (bit-field up to 6.17).
    sk_userlocks: "sock"."sk_userlocks", false;
    /// Control group data, a pointer or (before 5.15) a tagged word; absent without cgroups.
    sk_cgrp_data: "sock"."sk_cgrp_data", false;
    /// Likewise, from Linux 5.15 on: nothing but the pointer.
    sk_cgroup: "sock"."sk_cgrp_data.cgroup", false;
    /// kernfs node of a control group.
    cgroup_kn: "cgroup"."kn", false;
    /// Identifier of a kernfs node: the inode number of the control group's directory.
    kernfs_id: "kernfs_node"."id.ino|id|ino", false;
    /// Port of this end, network byte order; still there when `skc_num` was cleared.
    inet_sport: "inet_sock"."inet_sport", true;
    /// `IP_LOCAL_PORT_RANGE`: the low port in the low half of 32 bits, 0 where not set; 6.3 on.
    local_port_range: "inet_sock"."local_port_range", false;
    /// Retransmission timeout, jiffies.
    icsk_rto: "inet_connection_sock"."icsk_rto", true;
    /// Bind bucket of the local port.
    icsk_bind_hash: "inet_connection_sock"."icsk_bind_hash", true;
    /// -1 in a bucket that `connect()` made by choosing an ephemeral port.
    tb_fastreuse: "inet_bind_bucket"."fastreuse", true;
    /// When the last timestamp of the peer was recorded, seconds; 0 for never.
    ts_recent_stamp: "tcp_sock"."rx_opt.ts_recent_stamp", true;
    /// Whether the timestamps option was negotiated (bit-field).
    tstamp_ok: "tcp_sock"."rx_opt.tstamp_ok", true;
    /// What the mini-socket stands for: `TCP_TIME_WAIT` or `TCP_FIN_WAIT2`.
    tw_substate: "inet_timewait_sock"."tw_substate", true;
    /// Port of this end, network byte order.
    tw_sport: "inet_timewait_sock"."tw_sport", true;
    /// Bind bucket of the local port, until unhashed.
    tw_tb: "inet_timewait_sock"."tw_tb", true;
    /// Whether `connect()` chose the local port (bit-field); 6.18 on.
    tw_connect_bind: "inet_timewait_sock"."tw_connect_bind", false;
    /// What TIME_WAIT is armed with, jiffies, also when the peer's FIN comes; up to 4.17.
    tw_timeout: "inet_timewait_sock"."tw_timeout", false;
    /// Whether the timer was armed short (bit-field); up to 5.17, where `TW` and `TWKilled` are of
    /// timers that ran out and this tells the two apart.
    tw_kill: "inet_timewait_sock"."tw_kill", false;
    /// The timer that ends the socket; kernels before 4.1 have none per socket.
    tw_timer: "inet_timewait_sock"."tw_timer", true;
    /// Copy of `ts_recent_stamp`, decides whether `connect()` may take the port over.
    tw_ts_recent_stamp: "tcp_timewait_sock"."tw_ts_recent_stamp", true;
    /// Callback of a timer.
    timer_function: "timer_list"."function", true;
    /// When a timer is due, jiffies.
    timer_expires: "timer_list"."expires", true;
    /// CPU of a timer in the low bits, its bucket in the high ones; laid out so since 4.8.
    timer_flags: "timer_list"."flags", false;
    /// What points to a timer: the bucket, if it is the first in there.
    timer_pprev: "timer_list"."entry.pprev", false;
    /// Buckets of a timer wheel.
    base_vectors: "timer_base"."vectors", false;
    /// Timer that a wheel is about to run, or runs.
    base_running: "timer_base"."running_timer", false;
    /// Argument of a timer's callback; gone since 4.15, which hands over the timer itself.
    timer_data: "timer_list"."data", false;
    /// Segments sent and not acknowledged.
    packets_out: "tcp_sock"."packets_out", true;
    /// Which directions are shut down (bit-field before 5.6).
    sk_shutdown: "sock"."sk_shutdown", true;
    /// What a task is: `PF_KTHREAD` among others.
    task_flags: "task_struct"."flags", true;
    /// First thread of a task's process.
    task_group_leader: "task_struct"."group_leader", true;
    /// Name of a task.
    task_comm: "task_struct"."comm", true;
    /// Rights of a task.
    task_cred: "task_struct"."cred", false;
    /// Rights that are in force, a bit each.
    cap_effective: "cred"."cap_effective", false;
    /// Inode number of the network namespace.
    net_inum: "net"."ns.inum", true;
    /// Number that no other namespace ever has; up to 5.11 given on demand.
    net_cookie: "net"."net_cookie", false;
    /// `net.ipv4.tcp_tw_reuse`; global before 4.10.
    tcp_tw_reuse: "net"."ipv4.sysctl_tcp_tw_reuse", false;
    /// `net.ipv4.tcp_timestamps`; global before 4.13.
    tcp_timestamps: "net"."ipv4.sysctl_tcp_timestamps", false;
    /// `net.ipv4.tcp_tw_recycle`; removed in 4.12, global before 4.11.
    tcp_tw_recycle: "net"."ipv4.tcp_death_row.sysctl_tw_recycle", false;
    /// The same within the global `tcp_death_row`.
    death_row_recycle: "inet_timewait_death_row"."sysctl_tw_recycle", false;
    /// `net.ipv4.ip_local_port_range`: two ints, or one packed 32-bit word from 6.8 on.
    ip_local_ports: "net"."ipv4.ip_local_ports.range", true;
    /// `net.ipv4.ip_unprivileged_port_start`; 4.11 on.
    ip_prot_sock: "net"."ipv4.sysctl_ip_prot_sock", false;
}
