//! What the chains of a network namespace make of a connection that begins.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    NatKind, UNTOLD_PORTS,
    expression::{Addresses, Expression, PortRange, Registers, Turn, goes_on},
    flow::Flow,
};

/// Chains that one may call within another; nftables allows as many (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;
/// Rules looked at for one connection: chains may call each other over and over.
const MOST_STEPS: usize = 4096;

/// Families of addresses that a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    /// The word that nftables has for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        }
    }

    fn has(self, address: &IpAddr) -> bool {
        match self {
            Self::Ip => address.is_ipv4(),
            Self::Ip6 => address.is_ipv6(),
            Self::Inet => true,
        }
    }
}

/// A chain, by family, table and its own name.
pub type ChainName = (Family, String, String);

/// The rules of a network namespace that what leaves it passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Where it begins, with the priority: chains of type nat behind the routing.
    pub begins: Vec<(i32, ChainName)>,
    /// The rules of each chain.
    pub chains: BTreeMap<ChainName, Vec<Vec<Expression>>>,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It keeps its address.
    Kept,
    /// It is given another one.
    Given {
        /// The table that does so, such as `ip nat`.
        table: String,
        /// How.
        kind: NatKind,
        /// Ports for its destination.
        ports: u32,
    },
    /// That cannot be told from the rules as far as they are understood.
    Obscure,
}

/// How a chain ended.
enum End {
    /// Nobody decided.
    Open,
    Decided(Verdict),
}

impl Ruleset {
    /// Whether any rule gives another source address.
    pub fn is_nat(&self) -> bool {
        let mut all = self.chains.values().flatten().flatten();
        !self.begins.is_empty() && all.any(|expression| matches!(expression, Expression::Nat(..)))
    }

    /// What becomes of a connection.
    pub fn verdict(&self, flow: &Flow) -> Verdict {
        let mut begins: Vec<_> =
            self.begins.iter().filter(|(_, (family, ..))| family.has(&flow.to.ip())).collect();
        begins.sort_by_key(|(priority, _)| *priority);
        let mut steps = 0;
        for (_, chain) in begins {
            match self.walk(chain, flow, 0, &mut steps) {
                // Another chain may still do it.
                End::Open | End::Decided(Verdict::Kept) => {}
                End::Decided(verdict) => return verdict,
            }
        }
        Verdict::Kept
    }

    fn walk(&self, chain: &ChainName, flow: &Flow, depth: usize, steps: &mut usize) -> End {
        let obscure = || End::Decided(Verdict::Obscure);
        if depth > DEPTH {
            return obscure();
        }
        for rule in self.chains.get(chain).into_iter().flatten() {
            *steps += 1;
            if *steps > MOST_STEPS {
                return obscure();
            }
            let mut registers = Registers::default();
            let mut sure = true;
            for expression in rule {
                match goes_on(expression, &mut registers, flow) {
                    Some(true) => {}
                    Some(false) => break,
                    None => sure = false,
                }
                let end = match expression {
                    Expression::Nat(kind, addresses, ports) => {
                        End::Decided(given(chain, *kind, *addresses, *ports, &registers))
                    }
                    Expression::Turn(Turn::Accept | Turn::Drop) => End::Decided(Verdict::Kept),
                    Expression::Turn(Turn::Return) if sure => return End::Open,
                    Expression::Turn(Turn::Return) => return obscure(),
                    Expression::Turn(Turn::Jump(to) | Turn::Goto(to)) => {
                        let to = (chain.0, chain.1.clone(), to.clone());
                        match self.walk(&to, flow, depth + 1, steps) {
                            End::Open if matches!(expression, Expression::Turn(Turn::Goto(_))) => {
                                return if sure { End::Open } else { obscure() };
                            }
                            End::Open => break,
                            decided => decided,
                        }
                    }
                    _ => continue,
                };
                return if sure { end } else { obscure() };
            }
        }
        End::Open
    }
}

/// What a rule that holds gives.
fn given(
    (family, table, _): &ChainName,
    kind: NatKind,
    addresses: Addresses,
    ports: PortRange,
    registers: &Registers,
) -> Verdict {
    let one = match addresses {
        Addresses::One => true,
        Addresses::Several => false,
        Addresses::Between(from, to, length) => {
            let from = registers.read(from, length);
            from.is_some() && from == registers.read(to, length)
        }
    };
    let port = |register| Some(u16::from_be_bytes(registers.read(register, 2)?.try_into().ok()?));
    let ports = match ports {
        PortRange::Any => Some(UNTOLD_PORTS),
        PortRange::Count(count) => Some(count),
        PortRange::Between(from, to) => port(from)
            .zip(port(to))
            .and_then(|(from, to)| Some(u32::from(to.checked_sub(from)?) + 1)),
    };
    match ports.filter(|_| one) {
        Some(ports) => Verdict::Given { table: format!("{} {table}", family.word()), kind, ports },
        None => Verdict::Obscure,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            expression::Compare,
            flow::{Meta, Part},
        },
        *,
    };

    fn name(chain: &str) -> ChainName {
        (Family::Ip, "nat".into(), chain.into())
    }

    fn ruleset(chains: Vec<(&str, Vec<Vec<Expression>>)>) -> Ruleset {
        let chains = chains.into_iter().map(|(chain, rules)| (name(chain), rules)).collect();
        Ruleset { begins: vec![(100, name("POSTROUTING"))], chains }
    }

    fn flow(from: &str, oif_name: &str) -> Flow {
        let (from, to) = (from.parse().unwrap(), "192.0.2.1:443".parse().unwrap());
        let (oif_name, iif_name) = (oif_name.into(), String::new());
        Flow { from, to, oif: 2, oif_name, iif_name }
    }

    /// `-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE`, as iptables writes it.
    fn docker() -> Vec<Expression> {
        let mut device = b"docker0".to_vec();
        device.resize(16, 0);
        vec![
            Expression::Load(1, Part::Network, 12, 2),
            Expression::Compare(1, Compare::Equal, vec![172, 17]),
            Expression::Meta(1, Meta::OifName),
            Expression::Compare(1, Compare::Unequal, device),
            Expression::Harmless,
            Expression::Nat(NatKind::Masquerade, Addresses::One, PortRange::Any),
        ]
    }

    fn masqueraded(ports: u32) -> Verdict {
        Verdict::Given { table: "ip nat".into(), kind: NatKind::Masquerade, ports }
    }

    #[test]
    fn who_comes_from_the_network_and_leaves_it_is_given_another_address() {
        let rules = ruleset(vec![("POSTROUTING", vec![docker()])]);
        assert!(rules.is_nat());
        assert_eq!(rules.verdict(&flow("172.17.0.5", "eth0")), masqueraded(UNTOLD_PORTS));
        assert_eq!(rules.verdict(&flow("172.17.0.5", "docker0")), Verdict::Kept);
        assert_eq!(rules.verdict(&flow("172.18.0.5", "eth0")), Verdict::Kept);
        assert!(!Ruleset::default().is_nat());
        let six = Flow { to: "[2001:db8::1]:443".parse().unwrap(), ..flow("2001:db8::2", "eth0") };
        assert_eq!(rules.verdict(&six), Verdict::Kept, "the table is of the other family");
    }

    #[test]
    fn chains_call_others_and_end_as_their_rules_say() {
        let turn = |turn| vec![Expression::Turn(turn)];
        let only_eth0 = |then: Expression| {
            let name = [&b"eth0\0"[..], &[0; 11]].concat();
            vec![
                Expression::Meta(1, Meta::OifName),
                Expression::Compare(1, Compare::Equal, name),
                then,
            ]
        };
        let range = vec![
            Expression::Value(1, 20_000_u16.to_be_bytes().to_vec()),
            Expression::Value(2, 20_299_u16.to_be_bytes().to_vec()),
            Expression::Nat(NatKind::Masquerade, Addresses::One, PortRange::Between(1, 2)),
        ];
        let rules = ruleset(vec![
            (
                "POSTROUTING",
                vec![turn(Turn::Jump("first".into())), turn(Turn::Goto("last".into())), docker()],
            ),
            ("first", vec![only_eth0(Expression::Turn(Turn::Return)), turn(Turn::Accept)]),
            ("last", vec![range]),
        ]);
        assert_eq!(rules.verdict(&flow("172.17.0.5", "eth0")), masqueraded(300));
        assert_eq!(rules.verdict(&flow("172.17.0.5", "eth1")), Verdict::Kept, "accepted before");
        let round = ruleset(vec![("POSTROUTING", vec![turn(Turn::Jump("POSTROUTING".into()))])]);
        assert_eq!(round.verdict(&flow("172.17.0.5", "eth0")), Verdict::Obscure);
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        let masquerade = Expression::Nat(NatKind::Masquerade, Addresses::One, PortRange::Any);
        // By a mark, of which nothing is known; behind a network that it is not from.
        let marked = vec![
            Expression::Unknown(1),
            Expression::Compare(1, Compare::Equal, vec![1]),
            masquerade.clone(),
        ];
        let rules = ruleset(vec![("POSTROUTING", vec![marked.clone()])]);
        assert_eq!(rules.verdict(&flow("172.17.0.5", "eth0")), Verdict::Obscure);
        let elsewhere = [&docker()[..2], &marked].concat();
        let rules = ruleset(vec![("POSTROUTING", vec![elsewhere])]);
        assert_eq!(rules.verdict(&flow("10.0.0.1", "eth0")), Verdict::Kept);
        // A call behind something obscure that decides nothing changes nothing.
        let call = vec![Expression::Obscure, Expression::Turn(Turn::Jump("none".into()))];
        let rules = ruleset(vec![("POSTROUTING", vec![call, docker()])]);
        assert_eq!(rules.verdict(&flow("172.17.0.5", "eth0")), masqueraded(UNTOLD_PORTS));
        let several = vec![Expression::Nat(NatKind::Snat, Addresses::Several, PortRange::Any)];
        let rules = ruleset(vec![("POSTROUTING", vec![several])]);
        assert_eq!(rules.verdict(&flow("172.17.0.5", "eth0")), Verdict::Obscure);
    }
}
