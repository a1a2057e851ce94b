//! `pgconcord demo`: ends equal, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use nix::unistd::Uid;

use crate::harness::quiet;

/// Runs a demo whose temporary files go below `temporary`.
fn demo(mut command: Command, temporary: &Path) -> Output {
    command.args(["demo", "--seconds", "5"]).env("TMPDIR", temporary).current_dir(temporary);
    command.env_remove("PGCONCORD_CONFIG").output().expect("the demo runs")
}

fn assert_good(output: &Output, temporary: &Path) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(text.trim_end().lines().last(), Some("both primaries are equal"), "{text}{errors}");
    for part in ["update_origin_differs", "insert_exists", "east", "west"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let left: Vec<_> = fs::read_dir(temporary).expect("the directory").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "files are left: {left:?}");
    let mark = temporary.display().to_string();
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let ours = processes.filter(|process| {
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        command.contains(&mark)
    });
    assert_eq!(ours.count(), 0, "processes are left");
}

/// A directory that everybody may write to.
fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    directory
}

#[test]
fn the_demo_ends_equal_and_leaves_nothing() {
    let _alone = quiet();
    let temporary = open_directory();
    let output = demo(Command::new(env!("CARGO_BIN_EXE_pgconcord")), temporary.path());
    assert_good(&output, temporary.path());
}

#[test]
fn the_demo_runs_as_an_ordinary_user() {
    if !Uid::effective().is_root() {
        return; // then the other test has just shown it
    }
    let _alone = quiet();
    let (temporary, program) = (open_directory(), open_directory());
    // a target directory may lie where other users cannot go
    let copy = program.path().join("pgconcord");
    fs::copy(env!("CARGO_BIN_EXE_pgconcord"), &copy).expect("a copy");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(copy);
    let output = demo(command, temporary.path());
    assert_good(&output, temporary.path());
}

#[test]
fn a_demo_that_is_killed_leaves_nothing_either() {
    let _alone = quiet();
    let temporary = open_directory();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pgconcord"))
        .args(["demo", "--seconds", "30"])
        .env("TMPDIR", temporary.path())
        .current_dir(temporary.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the demo runs");
    std::thread::sleep(std::time::Duration::from_secs(6));
    child.kill().expect("it runs");
    child.wait().expect("it was ours");
    crate::harness::wait_for("everything has gone", crate::harness::SOON, || {
        fs::read_dir(temporary.path()).expect("the directory").next().is_none().then_some(())
    });
}
