//! The dashboard before the types that Grafana publishes of it: TypeScript finds fields that there are
//! not, values that are none, and fields that are missing.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use super::source::Source;
use crate::{
    build,
    process::{self, print},
};

/// What is installed, by npm: the types, and the compiler that looks.
const PACKAGES: [&str; 2] = ["@grafana/schema@11.6.16", "typescript@7.0.2"];

/// Enumerations are written as their values in JSON, which the types know by name only.
const BEFORE: &str = "\
import type { Dashboard } from '@grafana/schema';
type Written<T> = T extends string ? `${T}`
    : T extends number ? T | (`${T}` extends `${infer N extends number}` ? N : never)
    : T extends object ? { [K in keyof T]: Written<T[K]> } : T;
export const dashboard: Written<Dashboard> = ";

/// Finds no fault with the dashboard.
pub fn check(source: &Source) -> Result<()> {
    let place = build::target_dir().join("dashboard");
    fs::create_dir_all(&place)?;
    fs::write(place.join("package.json"), "{\"private\": true}\n")?;
    let mut install = Command::new("npm");
    install.current_dir(&place).args(["install", "--silent", "--no-save", "--no-audit"]);
    process::run(install.args(PACKAGES))?;
    let dashboard = fs::read_to_string(source.directory.join("packaging/grafana/twtrace.json"))
        .context("the dashboard")?;
    fs::write(place.join("check.ts"), format!("{BEFORE}{dashboard};\n"))?;
    let mut compiler = Command::new("node");
    compiler.current_dir(&place).arg("node_modules/typescript/bin/tsc").args([
        "--noEmit",
        "--strict",
        "--skipLibCheck",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
        "--target",
        "esnext",
        "check.ts",
    ]);
    process::run(&mut compiler)?;
    print("the dashboard is as Grafana's published types have it");
    Ok(())
}
