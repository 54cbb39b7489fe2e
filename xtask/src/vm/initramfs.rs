//! The file system a virtual machine boots into: static init, tracer, tools, modules.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    foreign,
    kernel::Kernel,
    modules::{Modules, WANTED},
    tools,
    tree::Tree,
};
use crate::{architecture::Architecture, build::Programs, process::say};

/// Writes the initramfs for one kernel into a directory and gives back its path.
pub fn build(kernel: &Kernel, programs: &Programs, args: &[String], dir: &Path) -> Result<PathBuf> {
    let mut tree = Tree::default();
    if kernel.architecture == Architecture::here() {
        tools::add(&mut tree)?;
    } else {
        foreign::add(&mut tree, kernel.architecture)?;
    }
    for dir in ["dev", "proc", "sys", "run", "tmp", "root", "etc", "var"] {
        tree.dir(dir);
    }
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    tree.program("init", read(&programs.tests)?);
    tree.program("usr/bin/twtrace", read(&programs.twtrace)?);
    tree.file(
        "etc/twtrace-tests.args",
        args.iter().map(|it| it.clone() + "\n").collect::<String>(),
    );
    tree.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    tree.file("etc/group", "root:x:0:\n");
    tree.file("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
    let modules = add_modules(&mut tree, kernel)?;
    tree.file("etc/modules.list", modules);

    let path = dir.join("initramfs.cpio");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    // Left uncompressed: an emulated processor takes longer to unpack than to copy.
    tree.write(BufWriter::new(file))?;
    Ok(path)
}

/// Adds the kernel's modules; the answer is the list of their paths in load order.
fn add_modules(tree: &mut Tree, kernel: &Kernel) -> Result<String> {
    let Some(dir) = &kernel.modules else { return Ok(String::new()) };
    let selection = Modules::find(dir)?.select(&WANTED)?;
    if !selection.absent.is_empty() {
        say!("{}: not a module there: {}", kernel.label, selection.absent.join(", "));
    }
    let mut list = String::new();
    for module in selection.load {
        let path = format!("/usr/lib/modules/{}.ko", module.name);
        list.push_str(format!("{path} {}", module.parameters()).trim_end());
        list.push('\n');
        tree.file(&path, module.object);
    }
    Ok(list)
}
