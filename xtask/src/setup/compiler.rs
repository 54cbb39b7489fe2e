//! What compiling the kernel programs needs: one of two routes, completed where possible.

use std::path::{Path, PathBuf};

use super::requirement::{Look, Remedy, Requirement, packaged};
use crate::toolchain::{self, DEBIAN_TOOLCHAIN, Facts, State};

/// Packages of the compiler whose `core` for BPF is prebuilt.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// What gives the upstream route its compiler; never done unasked, nightlies change daily.
const ADD_RUST_SRC: &str = "rustup toolchain install nightly --component rust-src";

/// Needs of the route that works, or of the one that can be completed here.
pub fn needs(facts: &Facts, look: &dyn Look) -> Vec<Requirement> {
    let why = "compiles the kernel programs";
    let compiler = |name: &str, present, remedy| Requirement {
        name: name.to_owned(),
        why,
        present,
        remedy: Remedy::ByHand(remedy),
    };
    if let Ok(choice) = toolchain::decide(facts.clone()) {
        return vec![compiler(&choice.to_string(), true, "")];
    }
    let installed = ["/usr/bin/rustc", "/usr/bin/cargo"]
        .map(PathBuf::from)
        .into_iter()
        .chain([Path::new("/usr/lib/rustlib").join(toolchain::bpf_target())])
        .all(|path| look.has_file(&path));
    let debian = installed || DEBIAN_COMPILER.iter().all(|name| look.has_package(name));
    let nightly = "rustup nightly with rust-src";

    let mut needs = Vec::new();
    match facts.upstream {
        State::NoLinker { llvm } | State::LinkerRefuses { llvm, .. }
            if !debian || can_link(llvm, look) =>
        {
            needs.push(compiler(nightly, true, ""));
            needs.extend(linker(llvm, look));
        }
        _ if debian => {
            let name = "compiler with prebuilt BPF core";
            needs.push(packaged(name, why, installed, &DEBIAN_COMPILER));
            needs.push(Requirement {
                name: format!("rustup toolchain `{DEBIAN_TOOLCHAIN}`"),
                why: "lets cargo call that compiler",
                present: installed && facts.debian != State::Absent,
                remedy: Remedy::LinkToolchain,
            });
            if let State::NoLinker { llvm } | State::LinkerRefuses { llvm, .. } = facts.debian {
                needs.extend(linker(llvm, look));
            }
        }
        _ => {
            needs.push(compiler(nightly, false, ADD_RUST_SRC));
            let linker = "cargo install bpf-linker, with that nightly's LLVM for development";
            needs.push(compiler("bpf-linker", facts.linker.is_some(), linker));
        }
    }
    if needs.iter().all(|need| need.present) {
        // Such as a compiler that is there but too old: the build would only fail later.
        needs.push(compiler("a compiler that works for BPF", false, ADD_RUST_SRC));
    }
    needs
}

fn can_link(llvm: u32, look: &dyn Look) -> bool {
    look.has_program(&format!("llvm-config-{llvm}")) || look.has_package(&llvm_package(llvm))
}

fn llvm_package(llvm: u32) -> String {
    format!("llvm-{llvm}-dev")
}

/// bpf-linker and what it is built with; asked only when the present one does not do.
fn linker(llvm: u32, look: &dyn Look) -> Vec<Requirement> {
    let config = format!("llvm-config-{llvm}");
    vec![
        packaged(
            &format!("LLVM {llvm} for development"),
            "bpf-linker is built with it",
            look.has_program(&config),
            &[&llvm_package(llvm)],
        ),
        Requirement {
            name: format!("bpf-linker with LLVM {llvm}"),
            why: "links the kernel programs",
            present: false,
            remedy: Remedy::BuildLinker(llvm),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::requirement::tests::Stage;

    const COMPILER: [&str; 3] =
        ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/bpfel-unknown-none"];

    fn facts(upstream: State, debian: State) -> Facts {
        Facts { rustup: true, linker: None, upstream, debian }
    }

    fn missing(facts: &Facts, look: &Stage) -> Vec<String> {
        needs(facts, look).into_iter().filter(|it| !it.present).map(|it| it.name).collect()
    }

    #[test]
    fn a_fresh_machine_first_needs_the_compiler_that_decides_about_the_rest() {
        let facts = facts(State::NoCore, State::Absent);
        let look = Stage(&[], &DEBIAN_COMPILER);
        assert_eq!(
            missing(&facts, &look),
            ["compiler with prebuilt BPF core", "rustup toolchain `debian`"]
        );
    }

    #[test]
    fn an_upstream_machine_only_needs_the_linker() {
        let facts = facts(State::NoLinker { llvm: 22 }, State::Absent);
        let look = Stage(&["llvm-config-22"], &DEBIAN_COMPILER);
        assert_eq!(missing(&facts, &look), ["bpf-linker with LLVM 22"]);
    }

    #[test]
    fn a_nightly_too_new_for_the_distributions_llvm_gives_way() {
        let facts = facts(State::NoLinker { llvm: 99 }, State::NoLinker { llvm: 22 });
        let look = Stage(&COMPILER, &["llvm-22-dev"]);
        assert_eq!(missing(&facts, &look), ["LLVM 22 for development", "bpf-linker with LLVM 22"]);
    }

    #[test]
    fn without_packages_the_user_is_told_of_upstreams_compiler() {
        let facts = facts(State::NoCore, State::Absent);
        let look = Stage(&[], &[]);
        assert_eq!(missing(&facts, &look), ["rustup nightly with rust-src", "bpf-linker"]);
    }

    #[test]
    fn a_compiler_that_is_there_but_unfit_is_not_passed_over() {
        let facts = facts(State::NoCore, State::Unfit("too old".into()));
        let look = Stage(&COMPILER, &[]);
        assert!(missing(&facts, &look).contains(&"a compiler that works for BPF".into()));
    }
}
