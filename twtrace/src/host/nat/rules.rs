//! The rules of the network namespace that the calling thread is in, asked of nftables.

use std::{ffi::CStr, fs, io, path::Path};

use netlink_bindings::{
    nftables::{
        CmpOps, DataAttrs, ExprOps, IterableDataAttrs, IterableExprAttrs, MetaKeys, Nfgenmsg,
        PayloadBase, RangeOps, Request, VerdictCode,
    },
    utils::find_attr,
};
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::{
    NatKind,
    chains::{ChainName, Family, Ruleset},
    expression::{Addresses, Compare, Expression, PortRange, Turn},
    flow::{Meta, Part},
};
use crate::host::sysctl;

/// Most rules kept of a namespace: what comes behind is as if it were not there, so nothing is said.
const MOST_RULES: usize = 16_384;
/// `NFTA_EXPR_DATA`, `NFTA_MASQ_REG_PROTO_MIN` and `NFTA_MASQ_REG_PROTO_MAX`,
/// include/uapi/linux/netfilter/nf_tables.h: of masquerading the library has the attributes, and not
/// that they are an expression's.
const EXPR_DATA: u16 = 2;
const MASQ_PROTO_MIN: u16 = 2;
const MASQ_PROTO_MAX: u16 = 3;
/// `NF_NAT_RANGE_MAP_IPS` and `NF_NAT_RANGE_PROTO_SPECIFIED`, include/uapi/linux/netfilter/nf_nat.h.
const MAP_IPS: u32 = 1;
const PROTO_SPECIFIED: u32 = 2;
/// `NFT_NAT_SNAT`, include/uapi/linux/netfilter/nf_tables.h.
const NFT_NAT_SNAT: u32 = 0;

/// Why rules were not read.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// Whoever asks may not.
    #[error("CAP_NET_ADMIN is missing, or netlink is shut")]
    Denied,
    /// There are too many.
    #[error("there are more than {MOST_RULES} rules")]
    TooMany,
    /// There may be rules of the older kind, which are not read.
    #[error("its table is iptables-legacy's, which is not read")]
    Legacy,
    /// Netlink failed, or what goes with it.
    #[error("netlink: {0}")]
    Netlink(#[from] io::Error),
}

impl From<ReplyError> for NatError {
    fn from(error: ReplyError) -> Self {
        let error = io::Error::from(error);
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::EAFNOSUPPORT) => Self::Denied,
            _ => Self::Netlink(error),
        }
    }
}

/// The rules that what leaves this thread's network namespace passes, below a procfs; none where nothing
/// is tracked there.
///
/// # Errors
/// [`NatError`].
pub fn read(proc: &Path, has_nftables: bool) -> Result<Ruleset, NatError> {
    if !proc.join("sys/net/netfilter/nf_conntrack_max").exists() {
        return Ok(Ruleset::default());
    }
    let rules = if has_nftables { dump()? } else { Ruleset::default() };
    let legacy = ["ip_tables_names", "ip6_tables_names"].iter().any(|name| {
        let names = fs::read_to_string(proc.join("thread-self/net").join(name));
        names.is_ok_and(|names| names.lines().any(|name| name == "nat"))
    });
    if legacy && !rules.is_nat() { Err(NatError::Legacy) } else { Ok(rules) }
}

/// Seconds that a connection is kept after its end in this thread's network namespace.
///
/// # Errors
/// It is there and cannot be read.
pub fn hold_s(proc: &Path) -> Result<Option<u64>, NatError> {
    let read = sysctl::number(proc, "net/netfilter/nf_conntrack_tcp_timeout_time_wait");
    read.map_err(|error| NatError::Netlink(io::Error::other(error)))
}

/// Whether the kernel may be asked for nftables: it has them as a module that is loaded or built in, or has
/// no modules. Asking it else would load one.
pub fn has_nftables(proc: &Path, root: &Path) -> bool {
    let Ok(modules) = fs::read_to_string(proc.join("modules")) else { return true };
    let release = fs::read_to_string(proc.join("sys/kernel/osrelease")).unwrap_or_default();
    let builtin = root.join("lib/modules").join(release.trim()).join("modules.builtin");
    modules.lines().any(|line| line.starts_with("nf_tables "))
        || root.join("sys/module/nf_tables").exists()
        || fs::read_to_string(builtin).is_ok_and(|text| text.contains("/nf_tables.ko"))
}

fn dump() -> Result<Ruleset, NatError> {
    let mut socket = NetlinkSocket::new();
    let mut rules = Ruleset::default();
    let all = Nfgenmsg::default();
    let mut replies = socket.request(&Request::new().op_getchain_dump(&all)).map_err(denied)?;
    while let Some(reply) = replies.recv() {
        let (header, chain) = reply?;
        let Some(family) = family(header.nfgen_family) else { continue };
        let hook = chain.get_hook().ok();
        let is_nat = chain.get_type().is_ok_and(|kind| kind == c"nat");
        let behind = hook.as_ref().and_then(|hook| hook.get_num().ok());
        if is_nat
            && behind == Some(libc::NF_INET_POST_ROUTING as u32)
            && let (Ok(table), Ok(name)) = (chain.get_table(), chain.get_name())
        {
            let priority = hook.and_then(|hook| hook.get_priority().ok()).unwrap_or_default();
            rules.begins.push((priority, (family, text(table), text(name))));
        }
    }
    let mut count = 0;
    let mut tables: Vec<_> =
        rules.begins.iter().map(|(_, (family, table, _))| (*family, table.clone())).collect();
    tables.sort();
    tables.dedup();
    for (family, table) in tables {
        let header = Nfgenmsg { nfgen_family: number(family), ..Nfgenmsg::default() };
        let mut request = Request::new().op_getrule_dump(&header);
        request.encode().push_table_bytes(table.as_bytes());
        let mut replies = socket.request(&request).map_err(denied)?;
        while let Some(reply) = replies.recv() {
            let (_, rule) = reply?;
            let (Ok(of), Ok(chain)) = (rule.get_table(), rule.get_chain()) else { continue };
            let key: ChainName = (family, text(of), text(chain));
            count += 1;
            if count > MOST_RULES {
                return Err(NatError::TooMany);
            }
            let elements = rule.get_expressions().map(|list| list.get_elem());
            let expressions =
                elements.into_iter().flatten().map(|element| expression(&element, family));
            rules.chains.entry(key).or_default().push(expressions.collect());
        }
    }
    Ok(rules)
}

/// A socket that may not be made is a right that is missing.
fn denied(error: io::Error) -> NatError {
    ReplyError::from(error).into()
}

fn family(number: u8) -> Option<Family> {
    match i32::from(number) {
        libc::NFPROTO_IPV4 => Some(Family::Ip),
        libc::NFPROTO_IPV6 => Some(Family::Ip6),
        libc::NFPROTO_INET => Some(Family::Inet),
        _ => None,
    }
}

const fn number(family: Family) -> u8 {
    (match family {
        Family::Ip => libc::NFPROTO_IPV4,
        Family::Ip6 => libc::NFPROTO_IPV6,
        Family::Inet => libc::NFPROTO_INET,
    }) as u8
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}

/// What an expression means; [`Expression::Obscure`] if that is not understood.
fn expression(element: &IterableExprAttrs<'_>, family: Family) -> Expression {
    let Ok(name) = element.get_name() else { return Expression::Obscure };
    let understood = match name.to_bytes() {
        b"counter" | b"log" | b"last" => Some(Expression::Harmless),
        b"masq" => Some(masquerade(element.get_buf())),
        _ => element.get_data().ok().and_then(|data| of_data(data, family)),
    };
    understood.unwrap_or(Expression::Obscure)
}

fn masquerade(attributes: &[u8]) -> Expression {
    let register = |which| {
        let value = find_attr(find_attr(attributes, EXPR_DATA)?, which)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    };
    let ports = match (register(MASQ_PROTO_MIN), register(MASQ_PROTO_MAX)) {
        (Some(from), to) => PortRange::Between(from, to.unwrap_or(from)),
        (None, _) => PortRange::Any,
    };
    Expression::Nat(NatKind::Masquerade, Addresses::One, ports)
}

fn of_data(data: ExprOps<'_>, family: Family) -> Option<Expression> {
    Some(match data {
        ExprOps::Payload(load) => {
            let part = match PayloadBase::from_value(load.get_base().ok()?.into())? {
                PayloadBase::NetworkHeader => Part::Network,
                PayloadBase::TransportHeader => Part::Transport,
                _ => return Some(Expression::Unknown(load.get_dreg().ok()?)),
            };
            let (offset, length) = (load.get_offset().ok()?, load.get_len().ok()?);
            Expression::Load(load.get_dreg().ok()?, part, offset as usize, length as usize)
        }
        ExprOps::Meta(meta) => {
            let register = meta.get_dreg().ok()?;
            let known = match MetaKeys::from_value(meta.get_key().ok()?.into())? {
                MetaKeys::Oif => Meta::Oif,
                MetaKeys::Oifname => Meta::OifName,
                MetaKeys::Iifname => Meta::IifName,
                MetaKeys::Nfproto => Meta::Family,
                MetaKeys::L4Proto => Meta::Protocol,
                _ => return Some(Expression::Unknown(register)),
            };
            Expression::Meta(register, known)
        }
        ExprOps::Ct(tracked) => Expression::Unknown(tracked.get_dreg().ok()?),
        ExprOps::Fib(looked_up) => Expression::Unknown(looked_up.get_dreg().ok()?),
        ExprOps::Bitwise(bits) => {
            let (mask, flip) = (value(bits.get_mask().ok()?)?, value(bits.get_xor().ok()?)?);
            Expression::Bits(bits.get_sreg().ok()?, bits.get_dreg().ok()?, mask, flip)
        }
        ExprOps::Cmp(compare) => {
            let how = match CmpOps::from_value(compare.get_op().ok()?.into())? {
                CmpOps::Eq => Compare::Equal,
                CmpOps::Neq => Compare::Unequal,
                CmpOps::Lt => Compare::Less,
                CmpOps::Lte => Compare::AtMost,
                CmpOps::Gt => Compare::More,
                CmpOps::Gte => Compare::AtLeast,
            };
            Expression::Compare(compare.get_sreg().ok()?, how, value(compare.get_data().ok()?)?)
        }
        ExprOps::Range(range) => {
            let within = match RangeOps::from_value(range.get_op().ok()?.into())? {
                RangeOps::Eq => true,
                RangeOps::Neq => false,
            };
            let (from, to) =
                (value(range.get_from_data().ok()?)?, value(range.get_to_data().ok()?)?);
            Expression::Range(range.get_sreg().ok()?, within, from, to)
        }
        ExprOps::Immediate(immediate) => {
            immediate_of(immediate.get_dreg().ok()?, immediate.get_data().ok()?)?
        }
        ExprOps::Nat(nat) => {
            if nat.get_type().ok()? != NFT_NAT_SNAT {
                return Some(Expression::Harmless);
            }
            let is_ipv4 = nat.get_family().ok()? == libc::NFPROTO_IPV4 as u32;
            let length = if is_ipv4 { 4 } else { 16 };
            let addresses = match (nat.get_reg_addr_min(), nat.get_reg_addr_max()) {
                (Ok(from), Ok(to)) if from != to => Addresses::Between(from, to, length),
                // Out of one register; what wrote it decides whether it is one address.
                (Ok(from), _) => Addresses::Between(from, from, length),
                _ => Addresses::One,
            };
            let ports = match (nat.get_reg_proto_min(), nat.get_reg_proto_max()) {
                (Ok(from), to) => PortRange::Between(from, to.unwrap_or(from)),
                _ => PortRange::Any,
            };
            Expression::Nat(NatKind::Snat, addresses, ports)
        }
        ExprOps::Match(of_iptables) if of_iptables.get_name().ok()? == c"comment" => {
            Expression::Harmless
        }
        ExprOps::Target(target) => {
            let kind = match target.get_name().ok()?.to_bytes() {
                b"MASQUERADE" => NatKind::Masquerade,
                b"SNAT" => NatKind::Snat,
                b"LOG" | b"NFLOG" | b"MARK" => return Some(Expression::Harmless),
                _ => return None,
            };
            of_iptables(kind, target.get_rev().ok()?, target.get_info().ok()?, family)?
        }
        _ => return None,
    })
}

/// A value, or a verdict.
fn immediate_of(register: u32, mut data: IterableDataAttrs<'_>) -> Option<Expression> {
    let verdict = match data.next()?.ok()? {
        DataAttrs::Value(value) => return Some(Expression::Value(register, value.to_vec())),
        DataAttrs::Verdict(verdict) => verdict,
    };
    let to = || verdict.get_chain().ok().map(text);
    Some(match VerdictCode::from_value(verdict.get_code().ok()?.into())? {
        VerdictCode::Accept => Expression::Turn(Turn::Accept),
        VerdictCode::Drop => Expression::Turn(Turn::Drop),
        VerdictCode::Return => Expression::Turn(Turn::Return),
        VerdictCode::Jump => Expression::Turn(Turn::Jump(to()?)),
        VerdictCode::Goto => Expression::Turn(Turn::Goto(to()?)),
        VerdictCode::Continue => Expression::Harmless,
        _ => return None,
    })
}

fn value(data: IterableDataAttrs<'_>) -> Option<Vec<u8>> {
    data.get_value().ok().map(<[u8]>::to_vec)
}

/// What a target of iptables gives: of revision 0 for IPv4 `nf_nat_ipv4_multi_range_compat`, else
/// `nf_nat_range` or `nf_nat_range2`, which begin alike (include/uapi/linux/netfilter/nf_nat.h).
fn of_iptables(kind: NatKind, revision: u32, info: &[u8], family: Family) -> Option<Expression> {
    let (flags_at, address, addresses_at) =
        if revision == 0 && family == Family::Ip { (4, 4, 8) } else { (0, 16, 4) };
    let flags = u32::from_ne_bytes(info.get(flags_at..flags_at + 4)?.try_into().ok()?);
    let bytes = |at: usize, length: usize| info.get(at..at + length);
    let one = bytes(addresses_at, address)? == bytes(addresses_at + address, address)?;
    let several = flags & MAP_IPS != 0 && !one;
    let ports_at = addresses_at + 2 * address;
    let port = |at| Some(u32::from(u16::from_be_bytes(bytes(at, 2)?.try_into().ok()?)));
    let ports = if flags & PROTO_SPECIFIED != 0 {
        PortRange::Count(port(ports_at + 2)?.checked_sub(port(ports_at)?)? + 1)
    } else {
        PortRange::Any
    };
    let addresses = if several { Addresses::Several } else { Addresses::One };
    Some(Expression::Nat(kind, addresses, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_iptables_are_read_in_both_layouts() {
        let mut old = Vec::new();
        [1_u32, PROTO_SPECIFIED, 0, 0].iter().for_each(|word| old.extend(word.to_ne_bytes()));
        [20_000_u16, 20_299].iter().for_each(|port| old.extend(port.to_be_bytes()));
        let given = |addresses, ports| Some(Expression::Nat(NatKind::Snat, addresses, ports));
        let read = |revision, info: &[u8]| of_iptables(NatKind::Snat, revision, info, Family::Ip);
        assert_eq!(read(0, &old), given(Addresses::One, PortRange::Count(300)));
        let mut new = MAP_IPS.to_ne_bytes().to_vec();
        new.extend([1; 16].into_iter().chain([2; 16]).chain([0; 8]));
        assert_eq!(read(2, &new), given(Addresses::Several, PortRange::Any));
        assert_eq!(read(0, &old[..10]), None, "cut off");
    }

    #[test]
    fn a_kernel_that_tracks_nothing_is_not_asked() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(read(empty.path(), true).unwrap(), Ruleset::default());
    }

    #[test]
    fn a_table_of_the_older_kind_is_told() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("sys/net/netfilter/nf_conntrack_max", "1\n"),
            ("thread-self/net/ip_tables_names", "filter\nnat\n"),
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert!(matches!(read(root.path(), false), Err(NatError::Legacy)));
    }

    #[test]
    fn a_kernel_that_would_load_nftables_is_not_asked() {
        let root = tempfile::tempdir().unwrap();
        let asks = || has_nftables(root.path(), root.path());
        assert!(asks(), "it has no modules");
        fs::write(root.path().join("modules"), "nf_tables_set 1 0 - Live\n").unwrap();
        assert!(!asks());
        fs::write(root.path().join("modules"), "nf_tables 1 0 - Live\n").unwrap();
        assert!(asks());
    }
}
