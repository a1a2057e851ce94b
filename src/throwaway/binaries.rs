//! Where the PostgreSQL server binaries of this machine are.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// The oldest major version that pgconcord works with.
const OLDEST: u32 = 14;
/// What a directory must hold to be of use.
const PROGRAMS: [&str; 2] = ["postgres", "initdb"];

/// A directory of server binaries of one version.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Binaries {
    directory: PathBuf,
    major: u32,
}

impl Binaries {
    /// The binaries in `directory`.
    ///
    /// # Errors
    /// If one is missing, does not run, or is older than 14.
    pub fn at(directory: impl Into<PathBuf>) -> Result<Binaries, Error> {
        let directory = directory.into();
        match major_of(&directory) {
            Ok(major) if major >= OLDEST => Ok(Binaries { directory, major }),
            Ok(major) => Err(Error::BadBinaries { directory, why: format!("version {major} is older than {OLDEST}") }),
            Err(why) => Err(Error::BadBinaries { directory, why }),
        }
    }

    /// The best on this machine: PGCONCORD_PG_BIN if set, else the newest version among `pg_config --bindir`,
    /// the places where distributions put them, and PATH.
    ///
    /// # Errors
    /// If there are none; the message says what to install.
    pub fn find() -> Result<Binaries, Error> {
        if let Some(directory) = std::env::var_os("PGCONCORD_PG_BIN") {
            return Binaries::at(directory);
        }
        let places = places();
        let searched = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
        places
            .into_iter()
            .rev() // of equal versions the first place counts
            .filter_map(|place| Binaries::at(place).ok())
            .max_by_key(|found| found.major)
            .ok_or(Error::NoBinaries { searched })
    }

    /// The major version: 14, 15, …
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Every directory worth a look.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    // Debian and Ubuntu, then the PGDG packages for Red Hat and its relatives
    for (parent, below) in [("/usr/lib/postgresql", "bin"), ("/usr", "bin")] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let versions = entries.flatten().map(|entry| entry.path());
        places.extend(versions.filter(|path| parent != "/usr" || names_version(path)).map(|path| path.join(below)));
    }
    places.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    places.retain(|place| !place.as_os_str().is_empty());
    places
}

/// Whether a directory of /usr is one of PGDG's `pgsql-16`.
fn names_version(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgsql-"))
}

/// The major version of the binaries, or what is wrong with them.
fn major_of(directory: &Path) -> Result<u32, String> {
    if let Some(missing) = PROGRAMS.iter().find(|program| !directory.join(program).is_file()) {
        return Err(format!("there is no {missing} in it"));
    }
    let output = Command::new(directory.join("postgres")).arg("--version").output();
    let output = output.map_err(|error| format!("postgres does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    parse_major(&text).ok_or_else(|| format!("postgres --version says {text:?}"))
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15; also `18beta1`.
fn parse_major(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL) ")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_prints() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta2"), Some(19));
        assert_eq!(parse_major("bash: postgres: not found"), None);
    }

    #[test]
    fn a_directory_without_servers_is_refused_with_what_is_missing() {
        let empty = tempfile::tempdir().unwrap();
        let error = Binaries::at(empty.path()).unwrap_err().to_string();
        assert!(error.contains("there is no postgres in it"), "{error}");
    }
}
