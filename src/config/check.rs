//! The one conversion from what was typed into [`Config`]; collects every error before it gives up.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::config::reader::{Section, Typed};
use crate::config::report::{ConfigErrors, Problem, Report};
use crate::config::rules::{self, filter, globs, syntax_problem};
use crate::config::units::{duration, size};
use crate::config::{Config, JournalConfig, Limits, NAME_LIMIT, NodeConfig, TableFilter, object_name, origin_name};
use crate::model::NodeId;
use crate::wire::Conninfo;

/// Retention of the journal where the file says nothing: 90 days.
const RETENTION: std::time::Duration = std::time::Duration::from_secs(90 * 86_400);
/// Size of the journal where the file says nothing: 4 GB, some three million conflicts of ordinary rows.
const JOURNAL_SIZE: u64 = 4 << 30;
/// The least size of the journal that makes sense: some hundred conflicts of wide rows.
const LEAST_JOURNAL_SIZE: u64 = 16 << 20;
/// The least memory that makes sense: one window of messages and one large row.
const LEAST_MEMORY: u64 = 16 << 20;

pub(super) fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let mut report = Report::default();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let problem = Problem::error(0..0, format!("the configuration can't be read: {error}"));
            let help = "write one with `pgconcord init`, or name it with --config or PGCONCORD_CONFIG";
            report.add(path, "", vec![problem.help(help)]);
            return Err(ConfigErrors(report));
        }
    };
    let mut problems = Vec::new();
    let typed = parse(&text, path.parent().unwrap_or(Path::new("")), &mut problems);
    let rule_files = typed.as_ref().map(|typed| typed.rule_files.clone()).unwrap_or_default();
    report.add(path, &text, problems);
    let nodes = typed.as_ref().map_or(&[][..], |typed| &typed.config.nodes);
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let conflict_rules = rules::load(&rule_files, &names, &mut report);
    match typed {
        Some(typed) if !report.has_errors() => Ok(Config { conflict_rules, warnings: report, ..typed.config }),
        _ => Err(ConfigErrors(report)),
    }
}

/// A configuration whose rule files are known but not read yet. With errors noted, parts of it are defaults.
struct Parsed {
    config: Config,
    rule_files: Vec<PathBuf>,
}

fn parse(text: &str, base: &Path, problems: &mut Vec<Problem>) -> Option<Parsed> {
    let (root, errors) = DeTable::parse_recoverable(text);
    problems.extend(errors.iter().map(syntax_problem));
    if !errors.is_empty() {
        return None;
    }
    let mut root = Section::new("", root.get_ref(), 0..0);
    let cluster = cluster(&mut root, problems);
    let nodes = nodes(&mut root, base, cluster.as_ref().map(|c| c.value.as_str()), problems);
    let tables = tables(&mut root, problems);
    let (rules_path, rule_files) = rule_files(&mut root, base, problems);
    let journal = journal(&mut root, base, problems);
    let limits = limits(&mut root, base, problems);
    let http = http(&mut root, problems);
    root.finish(problems);
    let config = Config {
        cluster: cluster.map(|cluster| cluster.value).unwrap_or_default(),
        nodes,
        tables: tables.unwrap_or_else(TableFilter::all),
        rules_path,
        conflict_rules: Vec::new(),
        journal,
        limits,
        http,
        warnings: Report::default(),
    };
    Some(Parsed { config, rule_files })
}

fn cluster(root: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<Typed<String>> {
    let mut section = section_or_missing(root, "cluster", "[cluster]\nname = \"shop\"", problems)?;
    let name = section.required("name", "\"shop\"", problems);
    section.finish(problems);
    let name = name?;
    check_name("cluster", &name, object_name(&name.value).len(), problems);
    Some(name)
}

fn section_or_missing<'a>(
    root: &mut Section<'a>,
    key: &'static str,
    example: &str,
    problems: &mut Vec<Problem>,
) -> Option<Section<'a>> {
    if root.get(key).is_none() {
        problems.push(Problem::error(0..0, format!("the section [{key}] is missing")).help(format!("add\n{example}")));
    }
    root.section(key, problems)
}

/// `length` is that of the longest object's name that is made of it.
fn check_name(what: &str, name: &Typed<String>, length: usize, problems: &mut Vec<Problem>) {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.value.is_empty() || !name.value.bytes().all(fits) {
        let title = format!("{:?} is no {what} name", name.value);
        let help = "use a-z, 0-9 and _ only: it becomes part of the name of a replication slot";
        problems.push(Problem::error(name.span.clone(), title).help(help));
    } else if length > NAME_LIMIT {
        let title = format!("the {what} name is {} bytes too long", length - NAME_LIMIT);
        let help = format!("slot and origin names hold {NAME_LIMIT} bytes: pgconcord_<cluster>_<node>");
        problems.push(Problem::error(name.span.clone(), title).help(help));
    }
}

fn nodes(root: &mut Section<'_>, base: &Path, cluster: Option<&str>, problems: &mut Vec<Problem>) -> Vec<NodeConfig> {
    let sections = root.sections("node", problems);
    let help =
        "add one\n[[node]]\nname = \"east\"\ndsn = \"host=10.0.0.1 dbname=shop user=pgconcord\"\nfor each primary";
    match sections.len() {
        2..=NodeId::MOST => {}
        0 | 1 => {
            let at = sections.first().map_or(0..0, |section| section.span.clone());
            problems.push(Problem::error(at, "a cluster needs at least two [[node]] sections").help(help));
        }
        more => {
            let title = format!("a cluster has at most {} nodes; here are {more}", NodeId::MOST);
            problems.push(Problem::error(sections[NodeId::MOST].span.clone(), title));
        }
    }
    let mut nodes = Vec::new();
    let mut names = HashSet::new();
    for (id, section) in NodeId::all(sections.len().min(NodeId::MOST)).zip(sections) {
        let Some((name, conninfo)) = node(section, base, cluster, problems) else { continue };
        if !names.insert(name.value.clone()) {
            problems.push(Problem::error(name.span, format!("there are two nodes called {:?}", name.value)));
        }
        if let Some(conninfo) = conninfo {
            nodes.push(NodeConfig { id, name: name.value, conninfo });
        }
    }
    nodes
}

fn node(
    mut section: Section<'_>,
    base: &Path,
    cluster: Option<&str>,
    problems: &mut Vec<Problem>,
) -> Option<(Typed<String>, Option<Conninfo>)> {
    let name = section.required("name", "\"east\"", problems);
    let dsn = section.required("dsn", "\"host=10.0.0.1 dbname=shop user=pgconcord\"", problems);
    let password_file = section.text("password_file", problems);
    section.finish(problems);
    if let Some(name) = &name {
        check_name("node", name, origin_name(cluster.unwrap_or_default(), &name.value).len(), problems);
    }
    let conninfo = dsn.and_then(|dsn| match Conninfo::parse(&dsn.value) {
        Ok(conninfo) => Some(conninfo),
        Err(error) => {
            problems.push(Problem::error(dsn.span, "the connection string can't be used").help(error.to_string()));
            None
        }
    });
    let conninfo = match (conninfo, password_file) {
        (Some(conninfo), Some(file)) => {
            password_file_path(&file, base, problems).map(|path| conninfo.with_password_file(path))
        }
        (conninfo, _) => conninfo,
    };
    Some((name?, conninfo))
}

/// Looks at the file now, so that a wrong one is told with the rest; it is read again at every connect. libpq
/// warns likewise where others may read a passfile.
fn password_file_path(file: &Typed<String>, base: &Path, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = base.join(&file.value);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            let title = format!("the password file {} can't be read: {error}", path.display());
            problems.push(Problem::error(file.span.clone(), title));
            return None;
        }
    };
    let mode = fs::metadata(&path).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
    if mode & 0o077 != 0 {
        let title = format!("others may read the password file {}", path.display());
        problems.push(Problem::warning(file.span.clone(), title).help(format!("chmod 600 {}", path.display())));
    }
    if text.lines().next().unwrap_or_default().is_empty() {
        let title = format!("{} has no password in its first line", path.display());
        problems.push(Problem::error(file.span.clone(), title));
        return None;
    }
    Some(path)
}

fn tables(root: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<TableFilter> {
    let mut section = section_or_missing(root, "tables", "[tables]\ninclude = [\"public.*\"]", problems)?;
    let include = section.list("include", problems);
    let exclude = section.list("exclude", problems);
    let insert_only = section.list("insert_only", problems);
    let had_include = section.get("include").is_some();
    let span = section.span.clone();
    section.finish(problems);
    if include.is_empty() && !had_include {
        let problem = Problem::error(span, "[tables] names no table");
        problems.push(problem.help("add include = [\"public.*\"]"));
    } else if include.is_empty() {
        problems.push(Problem::error(span, "`include` is empty, so nothing would replicate"));
    }
    let filter = filter(&include, &exclude, problems)?;
    let insert_only = globs(&insert_only, problems);
    let error = |error| Problem::error(0..0, format!("the table patterns can't be used: {error}"));
    filter.with_insert_only(insert_only).map_err(|failed| problems.push(error(failed))).ok()
}

/// Where the rules lie, and the files there. Without a `[rules]` section and without the usual directory the
/// built-in rule holds, which is that of conflict-rules/default.toml.
fn rule_files(root: &mut Section<'_>, base: &Path, problems: &mut Vec<Problem>) -> (PathBuf, Vec<PathBuf>) {
    let usual = base.join("conflict-rules");
    let Some(mut section) = root.section("rules", problems) else {
        let files = if usual.exists() { rules::files(&usual) } else { Ok(Vec::new()) };
        return (usual, named(files, 0..0, problems));
    };
    let typed = section.text("path", problems);
    let span = typed.as_ref().map_or(section.span.clone(), |typed| typed.span.clone());
    section.finish(problems);
    let path = typed.map_or(usual, |typed| base.join(typed.value));
    let files = rules::files(&path);
    (path, named(files, span, problems))
}

/// The files, or a problem at `span`.
fn named(files: Result<Vec<PathBuf>, String>, span: Range<usize>, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    files.unwrap_or_else(|error| {
        let help = "`pgconcord init` writes conflict-rules/default.toml; [rules] path = names the directory";
        problems.push(Problem::error(span, format!("there are no conflict rules: {error}")).help(help));
        Vec::new()
    })
}

fn journal(root: &mut Section<'_>, base: &Path, problems: &mut Vec<Problem>) -> JournalConfig {
    let mut journal = JournalConfig { path: base.join("pgconcord.db"), retention: RETENTION, max_size: JOURNAL_SIZE };
    if let Some(mut section) = root.section("journal", problems) {
        if let Some(path) = section.text("path", problems) {
            journal.path = base.join(path.value);
        }
        journal.retention = section.parsed("retention", duration, problems).unwrap_or(journal.retention);
        let max_size = |text: &str| at_least(text, LEAST_JOURNAL_SIZE);
        journal.max_size = section.parsed("max_size", max_size, problems).unwrap_or(journal.max_size);
        section.finish(problems);
    }
    journal
}

/// A size of `least` bytes or more.
fn at_least(text: &str, least: u64) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes < least => Err(format!("at least {} MB are needed", least >> 20)),
        bytes => Ok(bytes),
    }
}

fn limits(root: &mut Section<'_>, base: &Path, problems: &mut Vec<Problem>) -> Limits {
    let mut limits = Limits::default();
    let Some(mut section) = root.section("limits", problems) else { return limits };
    let memory = |text: &str| at_least(text, LEAST_MEMORY);
    let wait = |text: &str| match duration(text)? {
        time if time.is_zero() => Err("it must be more than nothing".to_owned()),
        time => Ok(time),
    };
    limits.max_clock_skew = section.parsed("max_clock_skew", duration, problems).unwrap_or(limits.max_clock_skew);
    limits.memory = section.parsed("memory", memory, problems).unwrap_or(limits.memory);
    limits.barrier_timeout = section.parsed("barrier_timeout", wait, problems).unwrap_or(limits.barrier_timeout);
    limits.lock_timeout = section.parsed("lock_timeout", wait, problems).unwrap_or(limits.lock_timeout);
    limits.batch_rows = section.count("batch_rows", problems).unwrap_or(limits.batch_rows);
    if let Some(spill) = section.text("spill", problems) {
        limits.spill = base.join(&spill.value);
        if !limits.spill.is_dir() {
            let title = format!("the spill directory {} does not exist", limits.spill.display());
            problems.push(Problem::error(spill.span, title));
        }
    }
    section.finish(problems);
    limits
}

fn http(root: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let mut section = root.section("http", problems)?;
    let read =
        |text: &str| text.parse().map_err(|_| "write an IP address and a port, such as \"127.0.0.1:7432\"".to_owned());
    section.need("listen", "\"127.0.0.1:7432\"", problems);
    let listen = section.parsed("listen", read, problems);
    section.finish(problems);
    listen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::Style;

    const GOOD: &str = r#"
[cluster]
name = "shop"

[[node]]
name = "east"
dsn = "host=10.0.0.1 dbname=shop user=pgconcord"
[[node]]
name = "west"
dsn = "postgres://pgconcord@10.1.0.1/shop"

[tables]
include = ["public.*"]
exclude = ["public.audit_*"]

[rules]
path = "rules"

[journal]
path = "log.db"
retention = "30d"
max_size = "1GB"

[limits]
max_clock_skew = "2s"
memory = "64MB"
batch_rows = 500

[http]
listen = "127.0.0.1:7432"
"#;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("rules")).unwrap();
        fs::write(directory.path().join("rules/a.toml"), include_str!("../../conflict-rules/default.toml")).unwrap();
        directory
    }

    fn load_text(text: &str) -> Result<Config, String> {
        let directory = directory();
        let path = directory.path().join("pgconcord.toml");
        fs::write(&path, text).unwrap();
        load(&path).map_err(|errors| errors.0.render(Style::Plain))
    }

    #[test]
    fn a_good_file_is_read_whole() {
        let directory = directory();
        let path = directory.path().join("pgconcord.toml");
        fs::write(&path, GOOD).unwrap();
        let config = load(&path).unwrap();
        assert_eq!(config.object_name(), "pgconcord_shop");
        assert_eq!(config.origin_name("east"), "pgconcord_shop_east");
        assert_eq!(config.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["east", "west"]);
        assert_eq!(config.nodes[1].id, NodeId(1));
        assert_eq!(config.journal.path, directory.path().join("log.db"));
        assert_eq!(config.limits.memory, 64 << 20);
        assert_eq!(config.limits.batch_rows, 500);
        assert_eq!(config.conflict_rules.len(), 1);
        assert!(config.tables.matches("public", "orders") && !config.tables.matches("public", "audit_log"));
    }

    #[test]
    fn ten_kinds_of_mistakes_are_each_named() {
        for (from, to, wanted) in [
            ("retention =", "retenton =", "did you mean `retention`?"),
            ("[cluster]\nname = \"shop\"", "", "the section [cluster] is missing"),
            ("[[node]]\nname = \"west\"\ndsn = \"postgres://pgconcord@10.1.0.1/shop\"", "", "at least two [[node]]"),
            ("\"west\"", "\"east\"", "two nodes called \"east\""),
            ("\"shop\"", "\"Shop-1\"", "use a-z, 0-9 and _ only"),
            ("\"30d\"", "\"a month\"", "`retention` can't be read"),
            ("\"1GB\"", "\"1MB\"", "at least 16 MB are needed"),
            ("\"64MB\"", "64", "`memory` is a string"),
            ("\"public.*\"", "\"public.[\"", "no table pattern"),
            ("\"127.0.0.1:7432\"", "\"localhost\"", "an IP address and a port"),
            ("\"rules\"", "\"elsewhere\"", "there are no conflict rules"),
            ("host=10.0.0.1 dbname=shop user=pgconcord", "10.0.0.1", "the connection string can't be used"),
            ("batch_rows = 500", "batch_rows = 0", "a whole number from 1 on"),
            ("[http]", "[http", "this is no TOML"),
            ("[[node]]\nname = \"east\"", "[[node]]", "[[node]] needs `name`"),
            ("include = [\"public.*\"]", "", "[tables] names no table"),
            ("[limits]", "[limit]", "did you mean `limits`?"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let shown = load_text(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(shown.contains(wanted), "{from} -> {to}\n{shown}");
        }
    }

    #[test]
    fn one_mistake_does_not_hide_the_next() {
        let text = GOOD.replace("\"30d\"", "\"x\"").replace("64MB", "x").replace("\"west\"", "\"West\"");
        let shown = load_text(&text).unwrap_err();
        assert_eq!(shown.matches("error:").count(), 3, "{shown}");
    }

    #[test]
    fn names_that_would_not_fit_in_an_origin_are_refused() {
        let shown = load_text(&GOOD.replace("\"west\"", &format!("{:?}", "w".repeat(49)))).unwrap_err();
        assert!(shown.contains("1 bytes too long"), "{shown}");
        assert!(load_text(&GOOD.replace("\"west\"", &format!("{:?}", "w".repeat(48)))).is_ok());
    }

    #[test]
    fn a_password_file_that_others_may_read_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let directory = directory();
        let secret = directory.path().join("secret");
        fs::write(&secret, "s3cret\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
        let path = directory.path().join("pgconcord.toml");
        fs::write(
            &path,
            GOOD.replace("[[node]]\nname = \"west\"", "password_file = \"secret\"\n[[node]]\nname = \"west\""),
        )
        .unwrap();
        let config = load(&path).unwrap();
        assert!(config.warnings.render(Style::Plain).contains("others may read"));
    }

    #[test]
    fn without_rules_the_built_in_one_holds() {
        let text = GOOD.replace("[rules]\npath = \"rules\"", "");
        assert!(load_text(&text).unwrap().conflict_rules.is_empty());
    }

    #[test]
    fn a_missing_file_says_how_to_write_one() {
        let errors = load(Path::new("/nonexistent/pgconcord.toml")).unwrap_err();
        assert!(errors.to_string().contains("pgconcord init"));
    }
}
