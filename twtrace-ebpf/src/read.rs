//! Checked reads of kernel memory, by positions that userspace resolved.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_kernel_buf};
use twtrace_common::{AF_INET, AF_INET6, CidrFilter, Counter, Field, Flow, MAX_CIDRS};

use crate::maps::{COMMON_LEN, CpuState, config, config_at, count};

/// Reads a value at a kernel address; a failure is counted and reads as 0.
#[inline(always)]
pub fn value<T: Default>(address: u64) -> T {
    // SAFETY: the helper checks the address and fails cleanly on a bad one.
    match unsafe { bpf_probe_read_kernel(address as *const T) } {
        Ok(value) => value,
        Err(_) => {
            count(Counter::ReadFailed);
            T::default()
        }
    }
}

/// Reads an unsigned integer or one bit-field of `owner`; 0 where the kernel has no such member.
#[inline(always)]
pub fn field(owner: u64, field: Field) -> u64 {
    let address = owner.wrapping_add(u64::from(field.offset));
    match field.size {
        0 => 0,
        1 => {
            let byte = u64::from(value::<u8>(address));
            if field.bits == 0 {
                byte
            } else {
                (byte >> (field.bit & 7)) & ((1 << (field.bits & 7)) - 1)
            }
        }
        2 => u64::from(value::<u16>(address)),
        4 => u64::from(value::<u32>(address)),
        _ => value::<u64>(address),
    }
}

/// Like [`field`], for a signed member of 4 or 8 bytes.
#[inline(always)]
pub fn signed(owner: u64, position: Field) -> i64 {
    let raw = field(owner, position);
    if position.size == 4 { i64::from(raw as i32) } else { raw as i64 }
}

/// Copies the front of a socket, of whatever kind, to this CPU's scratch space.
#[inline(always)]
pub fn common(cpu: &mut CpuState, sk: u64) {
    // SAFETY: the helper checks the address and fails cleanly on a bad one.
    if unsafe { bpf_probe_read_kernel_buf(sk as *const u8, &mut cpu.common) }.is_err() {
        count(Counter::ReadFailed);
    }
}

/// Takes `T` out of the copied front of a socket.
#[inline(always)]
fn part<T: Copy + Default>(common: &[u8; COMMON_LEN], field: Field) -> T {
    let offset = field.offset as usize;
    if offset > COMMON_LEN - size_of::<[u8; 16]>() {
        // Userspace refuses such a kernel; this is for the verifier.
        return T::default();
    }
    // SAFETY: sixteen bytes follow `offset` in the copy, and no T is longer.
    unsafe { common.as_ptr().add(offset).cast::<T>().read_unaligned() }
}

/// Addresses and ports of the socket whose front was copied, and its namespace.
///
/// A v4 address comes out as `::ffff:a.b.c.d`; the port range stays 0.
#[inline(always)]
pub fn flow(cpu: &CpuState) -> (Flow, u16, u64) {
    let common = &cpu.common;
    let family: u16 = part(common, config!(layout.skc_family));
    let mut flow = Flow::default();
    if family == AF_INET6 {
        flow.local = part(common, config!(layout.skc_v6_rcv_saddr));
        flow.remote = part(common, config!(layout.skc_v6_daddr));
    } else {
        flow.local = mapped(part(common, config!(layout.skc_rcv_saddr)));
        flow.remote = mapped(part(common, config!(layout.skc_daddr)));
    }
    flow.local_port = part(common, config!(layout.skc_num));
    flow.remote_port = u16::from_be(part(common, config!(layout.skc_dport)));
    (flow, family, part(common, config!(layout.skc_net)))
}

/// An IPv4 address as a v4-mapped IPv6 one.
#[inline(always)]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Inode number of a network namespace.
#[inline(always)]
pub fn netns_inum(net: u64) -> u32 {
    field(net, config!(layout.net_inum)) as u32
}

/// `ip_local_port_range` of a network namespace, both ends included.
#[inline(always)]
pub fn port_range(net: u64) -> (u16, u16) {
    let position: Field = config!(layout.ip_local_ports);
    let address = net.wrapping_add(u64::from(position.offset));
    if position.size == 4 {
        // Linux 6.8 on: one word, the low half in the low 16 bits.
        let both: u32 = value(address);
        (both as u16, (both >> 16) as u16)
    } else {
        let both: u64 = value(address);
        (both as u16, (both >> 32) as u16)
    }
}

/// Whether a socket is one the user asked for.
#[inline(always)]
pub fn wanted(flow: &Flow, netns: u32) -> bool {
    let netns_wanted = config!(filter.netns);
    if netns_wanted != 0 && netns != netns_wanted {
        return false;
    }
    let remote_port = config!(filter.remote_port);
    if remote_port != 0 && flow.remote_port != remote_port {
        return false;
    }
    let local_port = config!(filter.local_port);
    if local_port != 0 && flow.local_port != local_port {
        return false;
    }
    let high = u64::from_be_bytes(half(&flow.remote, 0));
    let low = u64::from_be_bytes(half(&flow.remote, 8));
    let is_v4 = high == 0 && low >> 32 == 0xffff;
    let family = config!(filter.family);
    if family != 0 && (family == AF_INET) != is_v4 {
        return false;
    }
    let ranges = config!(filter.cidr_count);
    if ranges == 0 {
        return true;
    }
    let mut index = 0;
    while index < MAX_CIDRS && (index as u32) < ranges {
        let range: CidrFilter = config_at!(filter.cidrs, index);
        if high & range.mask[0] == range.network[0] && low & range.mask[1] == range.network[1] {
            return true;
        }
        index += 1;
    }
    false
}

/// Eight bytes of an address.
#[inline(always)]
fn half(address: &[u8; 16], from: usize) -> [u8; 8] {
    let mut half = [0; 8];
    let mut index = 0;
    while index < 8 {
        half[index] = address[from + index];
        index += 1;
    }
    half
}
