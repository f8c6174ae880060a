//! An image for containers that holds the command and nothing else.
//!
//! The file is an image of OCI and what `docker load` reads at the same time,
//! as `docker save` writes it: both describe the same blobs.

use super::files::{entry, sum};
use serde_json::{Value, json};
use std::io::{self, Write};

/// The user that it runs as: nobody in particular, and not root.
const USER: &str = "65532:65532";

/// When it was made: never, so that it is the same each time.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Writes the image of `program` to `to`.
///
/// # Errors
///
/// Those of `to`.
pub fn write(program: &[u8], version: &str, to: impl Write) -> io::Result<()> {
    let layer = layer(program)?;
    let layer_sum = sum(&layer);
    let config = bytes(&json!({
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": {
            "Entrypoint": ["/lguest"],
            "Cmd": ["run"],
            "User": USER,
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "lguest",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
            },
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [format!("sha256:{layer_sum}")],
        },
        "history": [{
            "created": CREATED,
            "created_by": "cargo xtask dist",
        }],
    }));
    let manifest = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("image.config.v1+json", &config),
        "layers": [blob("image.layer.v1.tar", &layer)],
    }));
    let mut in_index = blob("image.manifest.v1+json", &manifest);
    in_index["annotations"] = json!({
        "io.containerd.image.name":
            format!("docker.io/library/lguest:{version}"),
        "org.opencontainers.image.ref.name": version,
    });
    let index = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [in_index],
    }));
    let for_docker = bytes(&json!([{
        "Config": path(&config),
        "RepoTags": [format!("lguest:{version}")],
        "Layers": [path(&layer)],
    }]));
    let mut archive = tar::Builder::new(to);
    entry(&mut archive, "blobs/", 0o755, &[])?;
    entry(&mut archive, "blobs/sha256/", 0o755, &[])?;
    for blob in [&layer, &config, &manifest] {
        entry(&mut archive, &path(blob), 0o644, blob)?;
    }
    let layout = bytes(&json!({"imageLayoutVersion": "1.0.0"}));
    entry(&mut archive, "index.json", 0o644, &index)?;
    entry(&mut archive, "manifest.json", 0o644, &for_docker)?;
    entry(&mut archive, "oci-layout", 0o644, &layout)?;
    archive.into_inner()?.flush()
}

/// The files of a container: the program, and a folder for machines with names.
fn layer(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    entry(&mut archive, "lguest", 0o755, program)?;
    entry(&mut archive, "tmp/", 0o1777, &[])?;
    archive.into_inner()
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Where a blob is in the image.
fn path(blob: &[u8]) -> String {
    format!("blobs/sha256/{}", sum(blob))
}

/// How a blob is described where it is used.
fn blob(kind: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.{kind}"),
        "digest": format!("sha256:{}", sum(bytes)),
        "size": bytes.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::process::{Command, Stdio};

    fn files(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mode = entry.header().mode().unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (path, (mode, bytes))
        });
        entries.collect()
    }

    fn image(version: &str) -> Vec<u8> {
        let mut image = Vec::new();
        write(b"program", version, &mut image).unwrap();
        image
    }

    #[test]
    fn both_descriptions_lead_to_the_same_blobs() {
        let files = files(&image("1.2.3"));
        let read = |path: &str| -> Value {
            serde_json::from_slice(&files[path].1).unwrap()
        };
        let found = |described: &Value| {
            let digest = described["digest"].as_str().unwrap();
            let digest = digest.strip_prefix("sha256:").unwrap();
            let path = format!("blobs/sha256/{digest}");
            let bytes = &files[&path].1;
            assert_eq!(sum(bytes), digest);
            assert_eq!(described["size"], bytes.len());
            path
        };
        let manifest = found(&read("index.json")["manifests"][0]);
        let manifest = read(&manifest);
        let layer = found(&manifest["layers"][0]);
        let config = found(&manifest["config"]);
        let for_docker = &read("manifest.json")[0];
        assert_eq!(for_docker["Config"], config);
        assert_eq!(for_docker["Layers"], json!([layer]));
        assert_eq!(for_docker["RepoTags"], json!(["lguest:1.2.3"]));
        let config = read(&config);
        let digest = layer.strip_prefix("blobs/sha256/").unwrap();
        let digest = format!("sha256:{digest}");
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest]));
        assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
        let inside = super::tests::files(&files[&layer].1);
        assert_eq!(inside["lguest"], (0o755, b"program".to_vec()));
        assert_eq!(inside["tmp/"].0, 0o1777);
        assert_eq!(inside.len(), 2);
    }

    #[test]
    fn docker_loads_it() {
        let test = "docker_loads_it";
        let mut info = Command::new("docker");
        let info = info.arg("info").output();
        if !info.is_ok_and(|info| info.status.success()) {
            return crate::program::skip(test, "no docker runs here");
        }
        // An image of the user's is not replaced.
        let version = format!("0.0.0-test-{}", std::process::id());
        let name = format!("lguest:{version}");
        let mut load = Command::new("docker");
        load.arg("load")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut load = load.spawn().unwrap();
        let mut stdin = load.stdin.take().unwrap();
        stdin.write_all(&image(&version)).unwrap();
        drop(stdin);
        let said = load.wait_with_output().unwrap();
        assert!(said.status.success(), "{said:?}");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(&name), "{said}");
        let mut remove = Command::new("docker");
        let removed = remove.args(["rmi", &name]).output();
        assert!(removed.unwrap().status.success());
    }
}
