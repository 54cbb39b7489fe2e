//! Filter expressions, whatever is typed: no panic, and what is printed is read back the same.

use proptest::prelude::*;
use twtrace::{
    event::Role,
    filter::{EntryState, Expr, MAX_DEPTH, Name, Op, Side, Term, canonical},
    path::Block,
};

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Local), Just(Side::Remote)]
}

fn name() -> impl Strategy<Value = Name> {
    // Digits alone would be a number, and a quote cannot be quoted.
    prop_oneof![
        any::<u64>().prop_map(Name::Number),
        "[ -!#-~é]*[a-z/][ -!#-~é]*".prop_map(Name::Text),
        prop::sample::select(vec!["eq", "neq", "and", "not"])
            .prop_map(|word| Name::Text(word.to_owned())),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    let ops = vec![Op::Eq, Op::Ne, Op::Ge, Op::Le, Op::Gt, Op::Lt];
    let network = (any::<std::net::IpAddr>(), any::<u8>()).prop_map(|(address, prefix)| {
        let prefix = prefix % if address.is_ipv4() { 33 } else { 129 };
        canonical(ipnet::IpNet::new_assert(address, prefix))
    });
    let blocks = Block::ALL.into_iter().filter(|block| *block != Block::FinWait2);
    let reasons: Vec<_> = blocks.map(Some).chain([None]).collect();
    prop_oneof![
        (side(), network).prop_map(|(side, network)| Term::Host(side, network)),
        (side(), prop::sample::select(ops), any::<u16>())
            .prop_map(|(side, op, port)| Term::Port(side, op, port)),
        Just(Term::Timestamps),
        Just(Term::Autobound),
        prop_oneof![Just(Role::Client), Just(Role::Server)].prop_map(Term::Role),
        prop_oneof![Just(EntryState::TimeWait), Just(EntryState::FinWait2)].prop_map(Term::State),
        name().prop_map(Term::Netns),
        any::<u32>().prop_map(Term::Uid),
        name().prop_map(Term::Cgroup),
        prop::sample::select(reasons).prop_map(Term::Blocked),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = term().prop_map(Expr::Term);
    leaf.prop_recursive(6, 48, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Expr::Not(Box::new(inner))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::all),
            prop::collection::vec(inner, 2..4).prop_map(Expr::any),
        ]
    })
}

/// Pieces of expressions, put together at random: far more of these nearly fit than of letters.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "dst",
        "src",
        "dport",
        "sport",
        "timestamps",
        "blocked",
        "reason",
        "role",
        "state",
        "netns",
        "uid",
        "cgroup",
        "autobound",
        "and",
        "or",
        "not",
        "(",
        ")",
        "!",
        "!=",
        "=",
        "==",
        ">=",
        "<",
        "eq",
        "neq",
        "|",
        "||",
        "&",
        "&&",
        "\"",
        "10.0.0.0/8",
        "[::1]:443",
        "[",
        "]",
        ":443",
        ":",
        "*",
        "*:*",
        "443",
        "client",
        "time-wait",
        "reuse-off",
        "fin-wait-2",
        "é",
        "\t",
        "/",
        "1000",
        "::/0",
        "-1",
        "99999999999999999999",
    ]);
    prop::collection::vec((piece, prop::sample::select(vec!["", " "])), 0..24)
        .prop_map(|pieces| pieces.into_iter().flat_map(|(piece, gap)| [piece, gap]).collect())
}

fn check(text: &str) -> Result<(), TestCaseError> {
    match text.parse::<Expr>() {
        Ok(expr) => prop_assert_eq!(expr.to_string().parse::<Expr>(), Ok(expr)),
        Err(error) => {
            prop_assert!(error.column <= text.chars().count(), "{error:?}");
            prop_assert!(!error.expected.is_empty(), "{error:?}");
            prop_assert_eq!(error.to_string().lines().count(), 3);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_printed_is_read_back_the_same(expr in expr()) {
        prop_assert_eq!(expr.to_string().parse::<Expr>(), Ok(expr));
    }

    #[test]
    fn no_text_makes_it_panic(text in ".*") {
        check(&text)?;
    }

    #[test]
    fn no_mixture_of_words_makes_it_panic(text in pieces()) {
        check(&text)?;
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow_of_the_stack() {
    for opening in ["(", "!", "not ", "! ( "] {
        let text = opening.repeat(100_000);
        assert!(text.parse::<Expr>().is_err(), "{opening}");
    }
    let deep = format!("{}uid 1{}", "(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH));
    assert_eq!(deep.parse::<Expr>().unwrap().to_string(), "uid 1");
    let long = "uid 1 ".repeat(100_000);
    assert!(long.parse::<Expr>().is_ok());
}
