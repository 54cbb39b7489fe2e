//! Installing what `setup` found missing.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{
    charts, python,
    requirement::{Remedy, Requirement},
};
use crate::{
    architecture::Architecture,
    process::{self, say},
    toolchain::DEBIAN_TOOLCHAIN,
};

/// The release that builds with the compilers this project accepts.
const LINKER_VERSION: &str = "0.13.0";

/// How cargo installs a command of its own.
const fn cargo_install(name: &'static str) -> [&'static str; 4] {
    ["install", name, "--locked", "--force"]
}

/// Gets everything on the list, or says how to and fails.
pub fn install(missing: &[Requirement]) -> Result<()> {
    refuse_what_only_the_user_can_do(missing)?;
    let mut packages: Vec<&str> = Vec::new();
    for requirement in missing {
        if let Remedy::Packages(names) = &requirement.remedy {
            packages.extend(names.iter().map(String::as_str));
        }
    }
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    for requirement in missing {
        match requirement.remedy {
            Remedy::LinkToolchain => process::run(Command::new("rustup").args([
                "toolchain",
                "link",
                DEBIAN_TOOLCHAIN,
                "/usr",
            ]))?,
            Remedy::BuildLinker(llvm) => build_linker(llvm)?,
            Remedy::Python => python::install()?,
            Remedy::Charts => charts::install()?,
            Remedy::CargoCommand(name) => {
                process::run(Command::new("cargo").args(cargo_install(name)))?;
            }
            Remedy::Packages(_) | Remedy::ByHand(_) => {}
        }
    }
    Ok(())
}

/// Ends here, with the whole list, if one thing on it is beyond xtask.
fn refuse_what_only_the_user_can_do(missing: &[Requirement]) -> Result<()> {
    let apt = process::find("apt-get").is_some();
    let beyond = missing.iter().any(|it| match it.remedy {
        Remedy::ByHand(_) => true,
        Remedy::Packages(_) => !apt,
        Remedy::LinkToolchain
        | Remedy::BuildLinker(_)
        | Remedy::Python
        | Remedy::Charts
        | Remedy::CargoCommand(_) => false,
    });
    if !beyond {
        return Ok(());
    }
    if !apt {
        say!("there is no apt-get here, so please install by hand:");
    }
    for requirement in missing {
        say!("  {}: {}", requirement.name, by_hand(&requirement.remedy));
    }
    bail!("set-up cannot go on by itself");
}

fn by_hand(remedy: &Remedy) -> String {
    match remedy {
        Remedy::Packages(names) => format!("what Debian calls {}", names.join(", ")),
        Remedy::LinkToolchain => format!("rustup toolchain link {DEBIAN_TOOLCHAIN} /usr"),
        Remedy::BuildLinker(llvm) => {
            format!("LLVM_PREFIX=$(llvm-config --prefix) {}", linker_words(*llvm).join(" "))
        }
        Remedy::Python => format!("by `cargo xtask setup`, into {}", python::place().display()),
        Remedy::Charts => "by `cargo xtask setup --for try-dist`".to_owned(),
        Remedy::CargoCommand(name) => format!("cargo {}", cargo_install(name).join(" ")),
        Remedy::ByHand(how) => (*how).to_owned(),
    }
}

/// Fetches the lists of what the distribution offers, if it is one that has apt.
pub fn refresh_package_lists() -> Result<()> {
    if process::find("apt-get").is_none() {
        return Ok(());
    }
    if let Err(error) =
        process::run(process::as_root("apt-get")?.arg("update").args(process::quiet()))
    {
        // One dead source among many fails the whole; what is needed may be in another.
        say!("{error:#}; going on with the lists there are");
    }
    Ok(())
}

/// Lets packages of another architecture be installed beside this machine's own.
pub fn add_architecture(architecture: Architecture) -> Result<()> {
    let mut command = process::as_root("dpkg")?;
    process::run(command.args(["--add-architecture", architecture.debian()]))
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let mut command = process::as_root("apt-get")?;
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "--no-install-recommends"])
        .args(process::quiet())
        .args(packages);
    process::run(&mut command)
        .with_context(|| format!("this distribution may not have all of: {}", packages.join(", ")))
}

fn linker_words(llvm: u32) -> Vec<String> {
    let feature = format!("llvm-{llvm}");
    ["cargo", "install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]
        .into_iter()
        .chain(["--no-default-features", "--features"])
        .map(str::to_owned)
        .chain([feature])
        .collect()
}

/// Builds bpf-linker; about a minute and a half on two cores.
fn build_linker(llvm: u32) -> Result<()> {
    let config = format!("llvm-config-{llvm}");
    let ask = |what: &str| process::output(Command::new(&config).arg(what));
    // Without the prefix the build takes the directory the link to llvm-config lies in.
    let prefix = PathBuf::from(ask("--prefix")?.trim());
    let words = linker_words(llvm);
    process::run(Command::new(&words[0]).args(&words[1..]).env("LLVM_PREFIX", prefix))
        .with_context(|| format!("bpf-linker {LINKER_VERSION} does not build with LLVM {llvm}"))
}
