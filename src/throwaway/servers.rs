//! The directory that all throwaway servers of one owner live in.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::owner::{Janitor, Owner};
use super::templates::Templates;
use super::{Error, Options, Server, doing};

/// All throwaway servers of one owner. Cheap to clone; the last clone (each [`Server`] holds one) cleans up.
#[derive(Clone, Debug)]
pub struct Servers {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) root: PathBuf,
    pub(super) owner: Owner,
    pub(super) password: String,
    pub(super) janitor: Janitor,
    /// What servers are copied from, if they are.
    pub(super) templates: Option<Arc<Templates>>,
}

impl Servers {
    /// Makes the directory; starts nothing yet.
    ///
    /// # Errors
    /// If the temporary directory cannot be written, or there is no user to run servers as.
    pub fn new() -> Result<Servers, Error> {
        Servers::create(None)
    }

    /// The same for many servers: their clusters are copies of few that are initialised once. A server that is started when another
    /// one has been dropped may have its system identifier.
    ///
    /// # Errors
    /// As [`Servers::new`].
    pub fn copying() -> Result<Servers, Error> {
        Servers::create(Some(Arc::default()))
    }

    fn create(templates: Option<Arc<Templates>>) -> Result<Servers, Error> {
        let owner = Owner::choose()?;
        let root = tempfile::Builder::new().prefix("pgconcord-").tempdir();
        let root = root.map_err(doing("cannot create a temporary directory"))?;
        // The servers' user has to get through; each server's own directory is closed.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711))
            .map_err(doing("cannot open the temporary directory"))?;
        let janitor = Janitor::start(root.path())?;
        let password = random_password().map_err(doing("cannot read /dev/urandom"))?;
        let root = root.keep(); // the janitor removes it, whatever becomes of us
        Ok(Servers { shared: Arc::new(Shared { root, owner, password, janitor, templates }) })
    }

    /// Makes a server with an empty database cluster and starts it; `name` is its directory and appears in messages.
    /// It has a system identifier that no other server has at the time.
    ///
    /// # Errors
    /// If it does not come up; the error carries the end of its log.
    pub fn start(&self, name: &str, options: Options) -> Result<Server, Error> {
        Server::create(self.clone(), name, options)
    }

    /// The directory of everything here.
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// The password of [`SUPERUSER`] at every server.
    pub fn password(&self) -> &str {
        &self.shared.password
    }

    /// Has a process end with us that we started beside the servers (the daemon). Say [`Servers::release`] when it
    /// has been waited for, so that its number may go to another.
    pub fn adopt(&self, pid: u32) {
        self.shared.janitor.started(pid);
    }

    /// The process has been waited for.
    pub fn release(&self, pid: u32) {
        self.shared.janitor.ended(pid);
    }
}

/// Runs a helper to its end; what it printed is in the error.
pub(super) fn run(command: &mut Command) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(doing(format!("cannot run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::Program { program, status: output.status, output: String::from_utf8_lossy(&text).trim().to_owned() })
}

fn random_password() -> std::io::Result<String> {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
