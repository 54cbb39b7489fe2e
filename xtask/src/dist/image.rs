//! An image for containers, from scratch: the static program, what it owes others, and nothing else.
//! It is an OCI layout in an archive, which `podman load`, `skopeo copy oci-archive:` and
//! `ctr images import` take; making it needs no daemon.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::Builder;

use super::{archive, source::Source};

/// Files of the archive that are in the image beside the program.
const OWED: &str = "share/doc/twtrace";
/// Which of them.
const KEPT: [&str; 5] =
    ["LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL2", "THIRD-PARTY.txt", "twtrace.cdx.json"];
/// Directories that the program writes to and reads settings from: where volumes are mounted.
const PLACES: [&str; 3] = ["etc/twtrace", "run/twtrace", "var/lib/twtrace"];

/// Makes it of what is laid out; answers the file.
pub fn make(source: &Source, tree: &Path, place: &Path) -> Result<PathBuf> {
    let layout = tempfile::tempdir()?;
    let layout = layout.path();
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;

    let files = layer(source, tree)?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&files)?;
    let kind = |name: &str| format!("application/vnd.oci.image.{name}");
    let layer = put(&blobs, &kind("layer.v1.tar+gzip"), &packed.finish()?)?;

    let created = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(source.time));
    let created = created.to_string();
    let labels = json!({
        "org.opencontainers.image.title": "twtrace",
        "org.opencontainers.image.description": "Explains why TIME_WAIT sockets pile up",
        "org.opencontainers.image.version": source.version,
        "org.opencontainers.image.revision": source.commit,
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.licenses": "(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)",
        "org.opencontainers.image.source": "https://github.com/twtrace/twtrace",
    });
    let configuration = json!({
        "created": created,
        "architecture": source.architecture.debian(),
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/twtrace"],
            "Cmd": ["daemon"],
            "Env": ["PATH=/usr/bin"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sum(&files))]},
        "history": [{"created": created, "created_by": "cargo xtask dist"}],
    });
    let configuration = put_json(&blobs, &kind("config.v1+json"), &configuration)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": kind("manifest.v1+json"),
        "config": configuration,
        "layers": [layer],
        "annotations": labels,
    });
    let mut manifest = put_json(&blobs, &kind("manifest.v1+json"), &manifest)?;
    manifest["platform"] = json!({"architecture": source.architecture.debian(), "os": "linux"});
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": source.version});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": kind("index.v1+json"),
        "manifests": [manifest],
    });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;

    let file = place.join(format!("{}-oci.tar", source.name()));
    let mut whole = Builder::new(fs::File::create(&file)?);
    for path in archive::list(layout)?.iter().skip(1) {
        archive::append(&mut whole, source, path.strip_prefix(layout)?, path)?;
    }
    whole.into_inner()?.flush()?;
    Ok(file)
}

/// The only layer, not compressed.
fn layer(source: &Source, tree: &Path) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for place in PLACES {
        // Any directory will do: only that it is one is taken from it.
        archive::append(&mut layer, source, Path::new(place), tree)?;
    }
    let program = Path::new("bin/twtrace");
    archive::append(&mut layer, source, &Path::new("usr").join(program), &tree.join(program))?;
    for name in KEPT {
        let path = Path::new(OWED).join(name);
        archive::append(&mut layer, source, &Path::new("usr").join(&path), &tree.join(&path))?;
    }
    layer.into_inner().context("a layer")
}

fn put_json(blobs: &Path, kind: &str, value: &Value) -> Result<Value> {
    put(blobs, kind, &serde_json::to_vec(value)?)
}

/// Puts something where its sum leads to; answers what points to it.
fn put(blobs: &Path, kind: &str, bytes: &[u8]) -> Result<Value> {
    let sum = sum(bytes);
    fs::write(blobs.join(&sum), bytes)?;
    Ok(json!({"mediaType": kind, "digest": format!("sha256:{sum}"), "size": bytes.len()}))
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
