//! The operating system user that servers run as, and the process that ends them when ours has died.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Uid, User};

use super::{Error, doing};

/// Who runs the servers: ourselves, or another user if we are root.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    /// Whoever runs this process.
    Ourselves,
    /// We are root and lend the servers this user.
    User { uid: u32, gid: u32 },
}

impl Owner {
    pub(super) fn choose() -> Result<Owner, Error> {
        if !Uid::effective().is_root() {
            return Ok(Owner::Ourselves);
        }
        let named = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = named.ok_or(Error::NoOwner)?;
        Ok(Owner::User { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }

    /// A command that runs as the owner, in a process group of its own: Ctrl-C at the terminal is for us, and we
    /// decide in which order things end.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.process_group(0).stdin(Stdio::null());
        if let Owner::User { uid, gid } = self {
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Creates a directory that is the owner's, and nobody else's to read.
    pub(super) fn create_dir(&self, path: &Path) -> Result<(), Error> {
        let what = || format!("cannot create {}", path.display());
        fs::create_dir(path).map_err(doing(what()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(doing(what()))?;
        self.give(path)
    }

    /// Makes a file or directory of ours the owner's.
    pub(super) fn give(&self, path: &Path) -> Result<(), Error> {
        match self {
            Owner::Ourselves => Ok(()),
            Owner::User { uid, gid } => {
                chown(path, Some(*uid), Some(*gid)).map_err(doing(format!("cannot give away {}", path.display())))
            }
        }
    }
}

/// What the shell does: remembers who runs, and at the end of file ends them and removes the directory. The
/// signals of a terminal are not for it.
const JANITOR: &str = r#"
trap '' INT TERM HUP QUIT
running=
while read -r verb pid; do
    case $verb in
    started) running="$running $pid" ;;
    ended) rest=
        for each in $running; do [ "$each" = "$pid" ] || rest="$rest $each"; done
        running=$rest ;;
    esac
done
for pid in $running; do kill -QUIT "$pid" 2>/dev/null; done
tries=0
for pid in $running; do
    while kill -0 "$pid" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || kill -KILL "$pid" 2>/dev/null
        sleep 0.05
    done
done
tries=0
while [ -e "$1" ] && [ "$tries" -lt 50 ]; do
    rm -rf "$1"
    tries=$((tries + 1))
    [ ! -e "$1" ] || sleep 0.1
done
"#;

/// Ends what we started and removes the directory, even if we are killed.
#[derive(Debug)]
pub(super) struct Janitor {
    pipe: Mutex<Option<ChildStdin>>,
    child: Mutex<Child>,
}

impl Janitor {
    pub(super) fn start(directory: &Path) -> Result<Janitor, Error> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", JANITOR, "pgconcord-janitor"])
            .arg(directory)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(doing("cannot start /bin/sh"))?;
        Ok(Janitor { pipe: Mutex::new(child.stdin.take()), child: Mutex::new(child) })
    }

    pub(super) fn started(&self, pid: u32) {
        self.tell(&format!("started {pid}\n"));
    }

    pub(super) fn ended(&self, pid: u32) {
        self.tell(&format!("ended {pid}\n"));
    }

    /// A janitor that has gone (somebody killed it) is no reason to fail: `Drop` still cleans up.
    fn tell(&self, line: &str) {
        if let Some(pipe) = self.pipe.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

impl Drop for Janitor {
    /// Lets it do its work, and waits for it.
    fn drop(&mut self) {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }
}
