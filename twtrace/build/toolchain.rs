//! Which compiler builds the kernel programs: the one place that knows.
//!
//! Included by `twtrace/build.rs`, which builds with the route chosen here, and by xtask,
//! which installs what a route lacks. Hence nothing but the standard library.

mod probe;

use std::{env, fmt, path::PathBuf};

pub use probe::probe;

/// Name of the rustup toolchain that stands for the distribution's compiler in /usr.
pub const DEBIAN_TOOLCHAIN: &str = "debian";

/// A way to turn the kernel programs' source into an object file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// rustup's nightly, which compiles `core` itself from `rust-src`.
    Upstream,
    /// The distribution's compiler, which ships `core` compiled for BPF.
    Debian,
}

impl Route {
    /// The name that `rustup run` knows this route's compiler by.
    pub const fn rustup_name(self) -> &'static str {
        match self {
            Self::Upstream => "nightly",
            Self::Debian => DEBIAN_TOOLCHAIN,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream => f.write_str("rustup nightly with rust-src"),
            Self::Debian => f.write_str("distribution compiler with prebuilt BPF core"),
        }
    }
}

/// How far one route's compiler is from being usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// rustup knows no toolchain of this name.
    Absent,
    /// There is a compiler, but nothing to take `core` for the BPF target from.
    NoCore,
    /// The compiler does not run or is older than the workspace allows.
    Unfit(String),
    /// Everything but bpf-linker is there; it has to be built with this LLVM or a newer one.
    NoLinker {
        /// The compiler's LLVM major version.
        llvm: u32,
    },
    /// bpf-linker cannot read what this compiler emits; its LLVM is usually too old.
    LinkerRefuses {
        /// The compiler's LLVM major version.
        llvm: u32,
        /// What the linker said.
        why: String,
    },
    /// Usable.
    Ready {
        /// The compiler's release, such as `1.96.0`.
        release: String,
        /// The compiler's own program, for a build that must notice its replacement.
        rustc: PathBuf,
    },
}

/// What was found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether rustup answers; both routes are addressed through it.
    pub rustup: bool,
    /// Where bpf-linker lies.
    pub linker: Option<PathBuf>,
    /// The upstream route's state.
    pub upstream: State,
    /// The Debian route's state.
    pub debian: State,
}

/// A usable route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which one.
    pub route: Route,
    /// The compiler's release.
    pub release: String,
    /// Programs whose replacement calls for a rebuild.
    pub programs: Vec<PathBuf>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rustc {})", self.route, self.release)
    }
}

/// Why no route works; the message ends with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(Box<Facts>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nothing here can compile the kernel programs:")?;
        if self.0.rustup {
            writeln!(f, "  {}: {}", Route::Upstream, Lack(&self.0.upstream, Route::Upstream))?;
            writeln!(f, "  {}: {}", Route::Debian, Lack(&self.0.debian, Route::Debian))?;
        } else {
            writeln!(f, "  rustup is not on PATH; both ways need it")?;
        }
        write!(f, "run: cargo xtask setup")
    }
}

impl std::error::Error for Missing {}

/// One route's state as half a sentence.
struct Lack<'a>(&'a State, Route);

impl fmt::Display for Lack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (State::Absent, route) => write!(f, "no rustup toolchain `{}`", route.rustup_name()),
            (State::NoCore, Route::Upstream) => f.write_str("the nightly has no rust-src"),
            (State::NoCore, Route::Debian) => {
                write!(f, "no core for {} in its library directory", bpf_target())
            }
            (State::Unfit(why), _) => f.write_str(why),
            (State::NoLinker { .. }, _) => f.write_str("bpf-linker is not on PATH"),
            (State::LinkerRefuses { why, .. }, _) => {
                write!(f, "bpf-linker cannot link what it emits: {why}")
            }
            (State::Ready { release, .. }, _) => write!(f, "usable, rustc {release}"),
        }
    }
}

/// Looks at this machine and picks the route to build with.
pub fn choose() -> Result<Choice, Missing> {
    decide(probe())
}

/// Picks the first usable route, upstream's before the distribution's.
pub fn decide(facts: Facts) -> Result<Choice, Missing> {
    for (route, state) in [(Route::Upstream, &facts.upstream), (Route::Debian, &facts.debian)] {
        if let State::Ready { release, rustc } = state {
            let programs = facts.linker.iter().chain([rustc]).cloned().collect();
            return Ok(Choice { route, release: release.clone(), programs });
        }
    }
    Err(Missing(Box::new(facts)))
}

/// The target whose byte order is this machine's.
pub const fn bpf_target() -> &'static str {
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

/// The first program of this name on PATH.
pub fn find_on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(upstream: State, debian: State) -> Facts {
        Facts { rustup: true, linker: Some("/bin/bpf-linker".into()), upstream, debian }
    }

    fn ready(release: &str) -> State {
        State::Ready { release: release.into(), rustc: "/x/bin/rustc".into() }
    }

    #[test]
    fn upstream_comes_first_where_it_works() {
        let choice = decide(facts(ready("1.99.0-nightly"), ready("1.96.0"))).unwrap();
        assert_eq!((choice.route, choice.release.as_str()), (Route::Upstream, "1.99.0-nightly"));
    }

    #[test]
    fn a_nightly_that_the_linker_cannot_read_gives_way_to_the_distribution() {
        let refused = State::LinkerRefuses { llvm: 24, why: "Invalid record".into() };
        let choice = decide(facts(refused, ready("1.96.0"))).unwrap();
        assert_eq!(choice.route, Route::Debian);
        assert_eq!(
            choice.to_string(),
            "distribution compiler with prebuilt BPF core (rustc 1.96.0)"
        );
        assert_eq!(choice.programs.len(), 2, "the linker and the compiler");
    }

    #[test]
    fn what_is_missing_is_said_for_each_route_with_the_remedy() {
        let missing = decide(facts(State::NoCore, State::NoLinker { llvm: 22 })).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "nothing here can compile the kernel programs:\n  \
             rustup nightly with rust-src: the nightly has no rust-src\n  \
             distribution compiler with prebuilt BPF core: bpf-linker is not on PATH\n\
             run: cargo xtask setup"
        );
    }
}
