//! The wire session against real servers. Each test has its own tables and roles on one server that they share.

#![allow(clippy::unwrap_used)] // its helpers are tests, too, and may stop where they like

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use pgconcord::throwaway::{Binaries, Options, Server, Stop};
use pgconcord::wire::conninfo::Environment;
use pgconcord::wire::{Conninfo, Session};

use crate::harness::{Version, servers};

mod binary;
mod login;
mod pipeline;
mod stream;
mod tls;

/// The server that the tests of this module share, which is never restarted.
fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| servers().start("wire", options()).expect("a server"))
}

fn options() -> Options {
    Options::new(Binaries::find().expect("server binaries")).with("max_prepared_transactions", "5")
}

/// A connection string read without this process's environment.
fn info(text: &str) -> Conninfo {
    let environment = Environment::of(&[], "nobody", Path::new("/nonexistent"));
    Conninfo::parse_in(text, &environment).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A session of the superuser with a schema of its own, which is its search path.
async fn session(schema: &str) -> Session {
    let mut session = Session::connect(&info(&shared().dsn("postgres", "postgres")), &[]).await.expect("a session");
    session.simple(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}")).await.expect("a schema");
    session
}

/// A server with TLS and a line of `pg_hba.conf` for each way to log in.
struct TlsServer {
    server: Server,
    /// `root.crt` and client certificates.
    directory: PathBuf,
}

/// How the server's certificate came to be.
#[derive(Clone, Copy)]
enum Certificate {
    /// Signed by `root.crt`, version 3, for the DNS name localhost and the address 127.0.0.1.
    Signed,
    /// Signed by `root.crt`, version 1, whose only name is the common name localhost: PostgreSQL's documentation.
    Version1,
    /// By itself, an authority as openssl makes it, with the common name localhost only.
    SelfSigned,
}

const HBA: &str = "
local   all all                     scram-sha-256
host    all trusted   127.0.0.1/32  trust
hostssl all certified 127.0.0.1/32  cert
hostnossl all plain   127.0.0.1/32  trust
hostssl all plain     127.0.0.1/32  reject
host    all hashed    127.0.0.1/32  md5
host    all clear     127.0.0.1/32  password
host    all all       127.0.0.1/32  scram-sha-256
";

const ROLES: &str = "
CREATE ROLE trusted LOGIN;
CREATE ROLE certified LOGIN;
CREATE ROLE plain LOGIN;
CREATE ROLE clear LOGIN PASSWORD 'sesame';
CREATE ROLE scrambled LOGIN PASSWORD 'sesame';
SET password_encryption = 'md5';
CREATE ROLE hashed LOGIN PASSWORD 'sesame';
";

impl TlsServer {
    async fn start(name: &str, certificate: Certificate) -> TlsServer {
        TlsServer::start_as(name, certificate, Version::Installed).await
    }

    async fn start_as(name: &str, certificate: Certificate, version: Version) -> TlsServer {
        let mut server = servers().start(name, Options::new(version.binaries())).expect("a server");
        server.sql("postgres", ROLES).await.expect("roles");
        server.stop(Stop::Fast).expect("a stop");
        let directory = servers().root().join(format!("{name}-certificates"));
        fs::create_dir(&directory).expect("a directory");
        certificates(&directory, certificate);
        let data = server.data_dir();
        for file in ["server.crt", "server.key", "root.crt"] {
            fs::copy(directory.join(file), data.join(file)).expect(file);
            give(&data.join(file), &data, 0o600);
        }
        fs::write(data.join("pg_hba.conf"), HBA).expect("pg_hba.conf");
        let tls = [("ssl", "on"), ("ssl_ca_file", "root.crt")];
        server.options_mut().settings.extend(tls.map(|(setting, value)| (setting.to_owned(), value.to_owned())));
        server.start().expect("a start with TLS");
        TlsServer { server, directory }
    }

    /// A connection string to 127.0.0.1 for a role whose password is "sesame" if it has one.
    fn dsn(&self, user: &str, more: &str) -> String {
        format!("hostaddr=127.0.0.1 port={} user={user} dbname=postgres password=sesame {more}", self.server.port())
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

/// The server's user owns what it must read.
fn give(path: &Path, like: &Path, mode: u32) {
    let owner = fs::metadata(like).expect("metadata");
    let ours = fs::metadata(path).expect("metadata");
    if owner.uid() != ours.uid() {
        chown(path, Some(owner.uid()), Some(owner.gid())).expect("the server's user owns its files");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

/// `root.*`, `server.*`, `client.*` (for the role certified) and `other.*` (another root) in `directory`.
fn certificates(directory: &Path, kind: Certificate) {
    fs::write(directory.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("names");
    fs::write(directory.join("leaf"), "basicConstraints=CA:FALSE\n").expect("leaf");
    for authority in ["root", "other"] {
        let files = format!("-keyout {authority}.key -out {authority}.crt");
        openssl(directory, &format!("req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN={authority} {files}"));
    }
    openssl(directory, "req -new -newkey rsa:2048 -nodes -subj /CN=certified -keyout client.key -out client.csr");
    openssl(
        directory,
        "x509 -req -in client.csr -CA root.crt -CAkey root.key -CAcreateserial -days 9 -extfile leaf -out client.crt",
    );
    let request = "req -new -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key";
    let sign = "x509 -req -in server.csr -CA root.crt -CAkey root.key -CAcreateserial -days 9 -out server.crt";
    match kind {
        Certificate::SelfSigned => openssl(directory, &format!("{request} -x509 -days 9 -out server.crt")),
        Certificate::Version1 => {
            openssl(directory, &format!("{request} -out server.csr"));
            openssl(directory, sign);
        }
        Certificate::Signed => {
            openssl(directory, &format!("{request} -out server.csr"));
            openssl(directory, &format!("{sign} -extfile names"));
        }
    }
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(directory).args(arguments.split(' ')).output().expect("openssl");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
