//! Where a password is found: libpq's password file, or a file that holds nothing else.
//!
//! Format and rules of the first: PostgreSQL's documentation, "The Password File". Like libpq, a file that others
//! may read is passed over, and the login error says so.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use super::{Host, HostAddress};

/// A password, or why there is none.
#[derive(Clone)]
pub struct Password {
    /// The bytes to log in with.
    pub text: Option<Vec<u8>>,
    /// Where they come from, or where they were missed.
    pub source: PasswordSource,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password({:?})", self.source)
    }
}

/// Where a password was looked for last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// The connection string or PGPASSWORD.
    ConnectionString,
    /// `password_file`.
    File(PathBuf),
    /// The password file; the line that matched, from 1.
    Passfile(PathBuf, usize),
    /// The password file exists and no line in it matches.
    NoLine(PathBuf),
    /// The password file was passed over, and why.
    PassedOver(PathBuf, &'static str),
    /// There is no password file either.
    Nowhere,
}

impl fmt::Display for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordSource::ConnectionString => f.write_str("the connection string or PGPASSWORD"),
            PasswordSource::File(path) => write!(f, "the file {}", path.display()),
            PasswordSource::Passfile(path, line) => write!(f, "line {line} of {}", path.display()),
            PasswordSource::NoLine(path) => write!(f, "{}, where no line matches", path.display()),
            PasswordSource::PassedOver(path, why) => write!(f, "{}, which was passed over: {why}", path.display()),
            PasswordSource::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// The password in a file that holds nothing else: all of it but the line's end.
pub(super) fn whole_file(path: &Path) -> io::Result<Password> {
    let mut text =
        fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    for end in [b'\n', b'\r'] {
        if text.last() == Some(&end) {
            text.pop();
        }
    }
    Ok(Password { text: Some(text), source: PasswordSource::File(path.to_owned()) })
}

/// The first line of a password file that matches.
pub(super) fn search(path: &Path, host: &Host, dbname: &str, user: &str) -> Password {
    let none = |source| Password { text: None, source };
    let passed_over = |why| none(PasswordSource::PassedOver(path.to_owned(), why));
    let Ok(metadata) = fs::metadata(path) else { return none(PasswordSource::Nowhere) };
    if !metadata.is_file() {
        return passed_over("it is not a plain file");
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return passed_over("others may read it; chmod 600 it");
    }
    let Ok(text) = fs::read(path) else { return passed_over("it cannot be read") };
    let (name, port) = (host_name(host), host.port.to_string());
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(password) = matching(line, [name.as_bytes(), port.as_bytes(), dbname.as_bytes(), user.as_bytes()]) {
            let source = PasswordSource::Passfile(path.to_owned(), number + 1);
            return Password { text: Some(password), source };
        }
    }
    none(PasswordSource::NoLine(path.to_owned()))
}

/// The name that a line has for this host: a socket in a default directory is `localhost`.
fn host_name(host: &Host) -> String {
    match &host.address {
        HostAddress::Tcp { name, .. } => name.clone(),
        HostAddress::Unix(directory) if directory == Path::new("/var/run/postgresql") => "localhost".to_owned(),
        HostAddress::Unix(directory) if directory == Path::new("/tmp") => "localhost".to_owned(),
        HostAddress::Unix(directory) => directory.display().to_string(),
    }
}

/// The password of `line` if its first four fields match.
fn matching(line: &[u8], wanted: [&[u8]; 4]) -> Option<Vec<u8>> {
    if line.first() == Some(&b'#') {
        return None;
    }
    let mut rest = line;
    for value in wanted {
        let (field, starred, after) = field(rest)?;
        if !starred && field != value {
            return None;
        }
        rest = after;
    }
    Some(last_field(rest))
}

/// One field up to its colon: unescaped, whether it is a bare `*`, and what follows.
fn field(text: &[u8]) -> Option<(Vec<u8>, bool, &[u8])> {
    let mut field = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b':' => return Some((field, &text[..at] == b"*", &text[at + 1..])),
            b'\\' if at + 1 < text.len() => {
                field.push(text[at + 1]);
                at += 2;
            }
            byte => {
                field.push(byte);
                at += 1;
            }
        }
    }
    None
}

/// The password, unescaped: to the line's end, or to a further colon as libpq has it.
fn last_field(text: &[u8]) -> Vec<u8> {
    field(&[text, b":"].concat()).map(|(field, ..)| field).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn passfile(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn find(text: &str, host: &str) -> Option<String> {
        let file = passfile(text, 0o600);
        let found = search(file.path(), &Host::new(host, None, 5432), "db", "me");
        found.text.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let text = "# h:5432:db:me:comment\nother:5432:db:me:a\nh:*:db:me:b\nh:5432:db:me:c\n";
        assert_eq!(find(text, "h").as_deref(), Some("b"));
        assert_eq!(find(text, "x"), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        assert_eq!(find(r"h:5432:db:me:a\:b\\c", "h").as_deref(), Some(r"a:b\c"));
        assert_eq!(find("fe80\\:\\:1:5432:db:me:six\r\n", "fe80::1").as_deref(), Some("six"));
        assert_eq!(find("\\*:5432:db:me:no", "h"), None);
    }

    #[test]
    fn a_default_socket_directory_is_localhost() {
        assert_eq!(find("localhost:5432:db:me:a", "/tmp").as_deref(), Some("a"));
        assert_eq!(find("/srv/pg:5432:db:me:a", "/srv/pg").as_deref(), Some("a"));
    }

    #[test]
    fn a_bare_colon_ends_the_password_as_in_libpq() {
        assert_eq!(find("h:5432:db:me:a:b", "h").as_deref(), Some("a"));
    }

    #[test]
    fn a_file_that_others_may_read_is_passed_over() {
        let file = passfile("*:*:*:*:secret", 0o640);
        let found = search(file.path(), &Host::new("h", None, 5432), "db", "me");
        assert!(found.text.is_none());
        assert!(found.source.to_string().contains("chmod 600"), "{}", found.source);
    }

    #[test]
    fn a_password_file_is_taken_whole() {
        let file = passfile(" pass word \r\n", 0o600);
        assert_eq!(whole_file(file.path()).unwrap().text.unwrap(), b" pass word ");
        assert!(whole_file(Path::new("/nonexistent/x")).unwrap_err().to_string().contains("/nonexistent/x"));
    }
}
