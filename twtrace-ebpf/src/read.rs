//! Checked reads of settings and of kernel memory, by positions that userspace resolved.

use aya_ebpf::EbpfContext;
use twtrace_common::{AF_INET, Counter, Field, Flow, MAX_CIDRS};

use crate::platform::{Env, KNOWS_TYPES, probe_read};

/// Reads one setting, without copying the others.
macro_rules! config {
    ($env:expr, $($path:tt)+) => {{
        let config: *const twtrace_common::Config = $env.config();
        // SAFETY: the settings do not change while a program runs. The read is volatile because
        // the value at load time is not the one the compiler may see.
        unsafe { core::ptr::read_volatile(&raw const (*config).$($path)+) }
    }};
}
pub(crate) use config;

/// Reads eight bytes at a kernel address; a failure is counted and reads as 0.
#[inline(always)]
pub fn word(env: Env, address: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: eight initialised bytes on the stack.
    if !unsafe { probe_read((&raw mut word).cast(), size_of::<u64>() as u32, address) } {
        env.count(Counter::ReadFailed);
    }
    word
}

/// Reads an unsigned integer or one bit-field of `owner`; 0 where the kernel has no such member.
#[inline(always)]
pub fn field(env: Env, owner: u64, field: Field) -> u64 {
    // Known to this verifier before it follows either way.
    if KNOWS_TYPES && !field.exists() {
        return 0;
    }
    let word = word(env, owner.wrapping_add(u64::from(field.offset)));
    (word >> (field.bit & 7)) & field.mask
}

/// Where something of the kernel's is that members are read of.
#[derive(Clone, Copy)]
pub struct Pointer {
    /// Its address.
    pub address: u64,
    /// Whether the verifier knows its type: then a member is a load, and not a helper's call.
    pub is_typed: bool,
}

impl Pointer {
    /// To something of whose type the verifier knows nothing.
    #[inline(always)]
    pub fn untyped(address: u64) -> Self {
        Self { address, is_typed: false }
    }

    /// Like [`field`], of no more than eight bytes.
    #[inline(always)]
    pub fn member(self, env: Env, field: Field) -> u64 {
        if !self.is_typed {
            return self::field(env, self.address, field);
        }
        if !field.exists() {
            return 0;
        }
        let member = (self.address as *const u8).wrapping_add(field.offset as usize);
        // SAFETY: the verifier checks that such a member lies there; the kernel takes care of an address
        // that cannot be read, which then reads as 0.
        unsafe {
            match field.size {
                // As bit-fields have it. What may be a pointer must not be masked.
                1 => (u64::from(member.read_volatile()) >> (field.bit & 7)) & field.mask,
                2 => u64::from(member.cast::<u16>().read_volatile()),
                4 => u64::from(member.cast::<u32>().read_volatile()),
                _ => member.cast::<u64>().read_volatile(),
            }
        }
    }

    /// What a member points to.
    #[inline(always)]
    pub fn follow(self, env: Env, pointer: Field) -> Self {
        Self { address: self.member(env, pointer), ..self }
    }

    /// The same where the member was read before, without its type: that is read once more only if it is
    /// known.
    #[inline(always)]
    pub fn followed(self, env: Env, pointer: Field, read: u64) -> Self {
        if self.is_typed { self.follow(env, pointer) } else { Self::untyped(read) }
    }
}

/// What hands sockets to programs.
pub trait GivesSockets: EbpfContext {
    /// The full socket of TCP at `sk`; none if it is of another protocol. Where the kernel's types are not
    /// known it is taken to be one.
    #[inline(always)]
    fn tcp_socket(&self, env: Env, sk: u64) -> Option<Pointer> {
        let protocol: Field = config!(env, layout.sk_protocol);
        let is_tcp = !protocol.exists() || field(env, sk, protocol) == IPPROTO_TCP;
        is_tcp.then_some(Pointer::untyped(sk))
    }
}

/// `IPPROTO_TCP`, include/uapi/linux/in.h. The sockets of MPTCP have another number, their subflows
/// have this one.
pub const IPPROTO_TCP: u64 = 6;

/// The value of a signed member.
#[inline(always)]
pub fn extend(value: u64, position: Field) -> i64 {
    let sign = position.mask ^ (position.mask >> 1);
    ((value ^ sign).wrapping_sub(sign)) as i64
}

/// Reads a sysctl: a member of the namespace, or a global variable if its address is given.
#[inline(always)]
pub fn sysctl(env: Env, net: Pointer, position: Field, global: u64) -> u8 {
    if global == 0 { net.member(env, position) as u8 } else { field(env, global, position) as u8 }
}

/// An IPv4 address as a v4-mapped IPv6 one.
///
/// Put together from words: byte by byte the compiler calls memset(), and Linux 4.4 has no calls.
#[inline(always)]
pub fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let back = u64::from(u32::from_le_bytes(v4)) << 32 | 0xffff_0000;
    (u128::from(back.to_le()) << 64).to_le_bytes()
}

/// Inode number of a network namespace.
#[inline(always)]
pub fn netns_inum(env: Env, net: Pointer) -> u32 {
    net.member(env, config!(env, layout.net_inum)) as u32
}

/// `ip_local_port_range` of a network namespace, both ends included.
#[inline(always)]
pub fn port_range(env: Env, net: Pointer) -> (u16, u16) {
    let position: Field = config!(env, layout.ip_local_ports);
    if !position.exists() {
        return (config!(env, port_low), config!(env, port_high));
    }
    let both = net.member(env, position);
    // Linux 6.8 on: one word, the low half in the low 16 bits; before, two ints.
    (both as u16, if position.size == 4 { both >> 16 } else { both >> 32 } as u16)
}

/// Whether a socket is one the user asked for.
#[inline(always)]
pub fn wanted(env: Env, flow: &Flow, netns: u32) -> bool {
    let netns_wanted = config!(env, filter.netns);
    if netns_wanted != 0 && netns != netns_wanted {
        return false;
    }
    let remote_port = config!(env, filter.remote_port);
    if remote_port != 0 && flow.remote_port != remote_port {
        return false;
    }
    let local_port = config!(env, filter.local_port);
    if local_port != 0 && flow.local_port != local_port {
        return false;
    }
    let high = u64::from_be_bytes(half(&flow.remote, 0));
    let low = u64::from_be_bytes(half(&flow.remote, 8));
    let is_v4 = high == 0 && low >> 32 == 0xffff;
    let family = config!(env, filter.family);
    if family != 0 && (family == AF_INET) != is_v4 {
        return false;
    }
    let ranges = config!(env, filter.cidr_count);
    if ranges == 0 {
        return true;
    }
    // Written out, because Linux 4.4 has no loops.
    macro_rules! holds {
        ($($index:literal)+) => {
            false $(|| ($index < ranges
                && high & config!(env, filter.cidrs[$index].mask[0])
                    == config!(env, filter.cidrs[$index].network[0])
                && low & config!(env, filter.cidrs[$index].mask[1])
                    == config!(env, filter.cidrs[$index].network[1])))+
        };
    }
    const { assert!(MAX_CIDRS == 8) };
    holds!(0 1 2 3 4 5 6 7)
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
