//! `pgconcord init`: two or more connection strings → a commented pgconcord.toml and conflict-rules/default.toml.
//!
//! A password goes to a file of its own, which only its owner may read: a configuration is copied and committed,
//! a password must not be.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{Global, USAGE};
use crate::model::NodeId;
use crate::wire::Conninfo;
use crate::wire::conninfo::{Host, HostAddress};

mod password;
mod template;

const RULES: &str = include_str!("../../conflict-rules/default.toml");

/// Arguments of `pgconcord init`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The cluster's name: a-z, 0-9 and _ [default: the first database's name]
    #[arg(long)]
    name: Option<String>,
    /// Where to write pgconcord.toml and conflict-rules/ [default: where --config says]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    /// Two or more primaries: NAME=CONNECTION, or a connection string (key=value or URI) alone
    #[arg(required = true, num_args = 1.., value_name = "NAME=CONNECTION")]
    nodes: Vec<String>,
}

/// A node as it will be written.
#[derive(Debug, PartialEq, Eq)]
struct Draft {
    name: String,
    /// Without password.
    dsn: String,
    /// The password that it had.
    password: Option<Vec<u8>>,
}

/// Runs the command.
pub async fn run(global: Global, args: Args) -> anyhow::Result<ExitCode> {
    let (cluster, drafts) = match read(&args) {
        Ok(read) => read,
        Err(problem) => {
            eprintln!("pgconcord: {problem}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let config = args.dir.as_ref().map_or(global.config, |directory| directory.join("pgconcord.toml"));
    let rules = config.parent().unwrap_or(Path::new("")).join("conflict-rules/default.toml");
    if !args.force
        && let Some(exists) = files(&config, &rules, &drafts).into_iter().find(|path| path.exists())
    {
        eprintln!("pgconcord: {} exists; --force overwrites it", exists.display());
        return Ok(ExitCode::FAILURE);
    }
    write(&rules, RULES.as_bytes(), Readers::All)?;
    write(&config, template::render(&cluster, &drafts).as_bytes(), Readers::All)?;
    println!("wrote {} and {}", config.display(), rules.display());
    for draft in &drafts {
        if let Some(password) = &draft.password {
            let path = config.with_file_name(draft.password_file());
            write(&path, password, Readers::Owner)?;
            println!(
                "wrote the password of {} to {}, for its owner only; keep it out of version control",
                draft.name,
                path.display()
            );
        }
    }
    let usual = config == Path::new("pgconcord.toml");
    let flag = if usual { String::new() } else { format!(" --config {}", config.display()) };
    println!("\nNext:");
    println!("  pgconcord doctor{flag}   what to change at the servers");
    println!("  pgconcord setup{flag}    create publication, slot and origins");
    println!("  pgconcord run{flag}      replicate");
    Ok(ExitCode::SUCCESS)
}

impl Draft {
    fn password_file(&self) -> String {
        format!("{}.password", self.name)
    }
}

/// All files that would be written.
fn files(config: &Path, rules: &Path, drafts: &[Draft]) -> Vec<PathBuf> {
    let passwords = drafts.iter().filter(|draft| draft.password.is_some());
    let passwords = passwords.map(|draft| config.with_file_name(draft.password_file()));
    [config.to_owned(), rules.to_owned()].into_iter().chain(passwords).collect()
}

/// Who may read a file.
#[derive(Clone, Copy)]
enum Readers {
    All,
    Owner,
}

fn write(path: &Path, text: &[u8], readers: Readers) -> anyhow::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mode = match readers {
        Readers::All => 0o644,
        Readers::Owner => 0o600,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    // the mode above is for a new file only
    file.set_permissions(std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    file.write_all(text).with_context(|| format!("cannot write {}", path.display()))
}

/// The cluster's name and its nodes; the error is a sentence.
fn read(args: &Args) -> Result<(String, Vec<Draft>), String> {
    if !(2..=NodeId::MOST).contains(&args.nodes.len()) {
        return Err(format!("give 2 to {} connection strings; here are {}", NodeId::MOST, args.nodes.len()));
    }
    let mut drafts: Vec<Draft> = Vec::new();
    let mut database = None;
    let mut taken = HashSet::new();
    for (place, text) in args.nodes.iter().enumerate() {
        let (name, dsn) = split(text);
        let info =
            Conninfo::parse(dsn).map_err(|error| format!("{}: {error}", name.unwrap_or("a connection string")))?;
        database.get_or_insert_with(|| info.dbname().to_owned());
        let name = match name {
            Some(name) => name.to_owned(),
            None => from_host(&info).filter(|name| !taken.contains(name)).unwrap_or(format!("node{}", place + 1)),
        };
        if !usable(&name) {
            return Err(format!("{name:?} is no node name; use a-z, 0-9 and _"));
        }
        if !taken.insert(name.clone()) {
            return Err(format!("two nodes are called {name:?}"));
        }
        let (stripped, had_password) = password::strip(dsn);
        let password = match had_password {
            true => info.password(&info.hosts()[0]).map_err(|error| error.to_string())?.text,
            false => None,
        };
        drafts.push(Draft { name, dsn: stripped, password });
    }
    let cluster = match &args.name {
        Some(name) if usable(name) => name.clone(),
        Some(name) => return Err(format!("{name:?} is no cluster name; use a-z, 0-9 and _")),
        None => Some(sanitised(&database.unwrap_or_default())).filter(|name| usable(name)).unwrap_or("main".to_owned()),
    };
    Ok((cluster, drafts))
}

/// `NAME=DSN`, unless the whole is a connection string itself.
fn split(text: &str) -> (Option<&str>, &str) {
    if Conninfo::parse(text).is_ok() {
        return (None, text);
    }
    match text.split_once('=') {
        Some((name, dsn)) if usable(name) && (dsn.contains('=') || dsn.contains("://")) => (Some(name), dsn),
        _ => (None, text),
    }
}

fn usable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn sanitised(text: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    text.chars().map(fit).collect()
}

/// The host's own name, where it has one: `east` of `east.example.org`.
fn from_host(info: &Conninfo) -> Option<String> {
    let Host { address: HostAddress::Tcp { name, .. }, .. } = info.hosts().first()? else { return None };
    let label = name.split('.').next().filter(|_| name.parse::<std::net::IpAddr>().is_err())?;
    Some(sanitised(label)).filter(|name| usable(name) && name != "localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(nodes: &[&str]) -> Args {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Args { name: None, dir: None, force: false, nodes }
    }

    fn names(nodes: &[&str]) -> Vec<String> {
        read(&args(nodes)).unwrap().1.into_iter().map(|draft| draft.name).collect()
    }

    #[test]
    fn names_are_given_or_come_from_hosts() {
        assert_eq!(names(&["a=host=x user=u", "b=postgres://u@y/db"]), ["a", "b"]);
        assert_eq!(names(&["host=east.example.org user=u", "postgres://u@west-1/db"]), ["east", "west_1"]);
        assert_eq!(names(&["host=10.0.0.1 user=u", "host=/tmp user=u"]), ["node1", "node2"]);
        assert_eq!(names(&["host=east user=u", "host=east port=5433 user=u"]), ["east", "node2"]);
    }

    #[test]
    fn the_cluster_is_called_after_the_database() {
        assert_eq!(read(&args(&["host=a user=u dbname=My-Shop", "host=b user=u"])).unwrap().0, "my_shop");
    }

    #[test]
    fn too_few_or_unreadable_strings_are_refused() {
        for nodes in [&["host=a user=u"][..], &["host=a user=u", "nonsense"], &["a=host=x user=u", "a=host=y user=u"]] {
            assert!(read(&args(nodes)).is_err(), "{nodes:?}");
        }
    }

    #[test]
    fn what_init_writes_is_a_good_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.toml");
        let (cluster, drafts) = read(&args(&["a=host=x user=u password='s e'", "b=postgres://u:p%20w@y/db"])).unwrap();
        let text = template::render(&cluster, &drafts);
        assert!(!text.contains("s e") && !text.contains("p w"), "{text}");
        assert_eq!(drafts.iter().map(|draft| draft.password.clone().unwrap()).collect::<Vec<_>>(), [b"s e", b"p w"]);
        write(&path, text.as_bytes(), Readers::All).unwrap();
        write(&directory.path().join("conflict-rules/default.toml"), RULES.as_bytes(), Readers::All).unwrap();
        for draft in &drafts {
            write(&path.with_file_name(draft.password_file()), b"x", Readers::Owner).unwrap();
        }
        let config = crate::config::Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.nodes.len(), 2);
        assert!(config.http.is_some() && config.conflict_rules.len() == 1);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}
