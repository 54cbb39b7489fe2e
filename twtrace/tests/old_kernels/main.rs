//! The object for old kernels against the rules of the oldest of them, Linux 4.4.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod elf;
mod verifier;

use elf::ObjectFile;
use twtrace::{attached::ObjectKind, kernel::object_bytes};

/// `BPF_MAP_TYPE_HASH`, `ARRAY` and `PERF_EVENT_ARRAY`: all that 4.4 has and we use.
const MAP_KINDS: [u32; 3] = [1, 2, verifier::PERF_EVENT_ARRAY];

#[test]
fn every_program_passes_the_rules_of_linux_4_4() {
    let object = ObjectFile::parse(object_bytes(ObjectKind::Perf));
    let mut failures = Vec::new();
    println!("{:<30} {:>6} {:>7} {:>6}  helpers", "PROGRAM", "LENGTH", "WALKED", "STACK");
    for program in &object.programs {
        match verifier::verify(program, &object.maps) {
            Ok(verdict) => println!(
                "{:<30} {:>6} {:>7} {:>6}  {:?}",
                program.name,
                program.code.len(),
                verdict.walked,
                verdict.stack,
                verdict.helpers
            ),
            Err(why) => failures.push(format!("{} ({}): {why}", program.name, program.code.len())),
        }
    }
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(object.programs.len(), 22, "kprobes for all hooks, their returns, and one to learn");
}

#[test]
fn there_are_only_maps_that_linux_4_4_has() {
    let object = ObjectFile::parse(object_bytes(ObjectKind::Perf));
    let unknown: Vec<_> = object.maps.iter().filter(|map| !MAP_KINDS.contains(&map.kind)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(object.maps.len() >= 6, "{:?}", object.maps);
}

#[test]
fn the_ring_buffer_object_fails_them() {
    // The rules would be worth little if they let this one pass.
    let object = ObjectFile::parse(object_bytes(ObjectKind::RingBuf));
    let refused = object.programs.iter().filter(|it| verifier::verify(it, &object.maps).is_err());
    assert!(refused.count() >= 8);
    assert!(object.maps.iter().any(|map| !MAP_KINDS.contains(&map.kind)));
}
