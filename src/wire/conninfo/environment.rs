//! What a connection string's defaults are taken from: variables, the user's name, the home directory.
//!
//! A value of its own, so that tests can give another one: a process's variables cannot be changed safely.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

/// Variables and user that the defaults come from.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: HashMap<String, String>,
    user: Option<String>,
    home: Option<PathBuf>,
}

impl Environment {
    /// This process's.
    pub fn process() -> Environment {
        let account = User::from_uid(Uid::effective()).ok().flatten();
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        Environment {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .filter(|(name, _)| name.starts_with("PG"))
                .collect(),
            home: home.or_else(|| account.as_ref().map(|account| account.dir.clone())),
            user: account.map(|account| account.name),
        }
    }

    /// One with these variables, this user and this home directory only.
    pub fn of(variables: &[(&str, &str)], user: &str, home: &Path) -> Environment {
        Environment {
            variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            user: Some(user.to_owned()),
            home: Some(home.to_owned()),
        }
    }

    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The name of the operating system's user.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// A path in the home directory.
    pub(super) fn in_home(&self, path: &str) -> Option<PathBuf> {
        Some(self.home.as_ref()?.join(path))
    }
}
