//! The two settings that `conflicts` and `status` need, read from the configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

/// Where the journal lies; relative to the configuration file.
pub fn journal_path(config: &Path) -> anyhow::Result<PathBuf> {
    let path = text(config, "journal", "path")?.unwrap_or_else(|| "pgconcord.db".to_owned());
    Ok(config.parent().unwrap_or(Path::new("")).join(path))
}

/// Where the daemon listens.
pub fn http_listen(config: &Path) -> anyhow::Result<SocketAddr> {
    let listen = text(config, "http", "listen")?
        .ok_or_else(|| anyhow!("{} has no [http] listen, so the daemon tells nothing", config.display()))?;
    listen.parse().with_context(|| format!("{}: [http] listen is {listen:?}", config.display()))
}

fn text(config: &Path, section: &str, key: &str) -> anyhow::Result<Option<String>> {
    let source = std::fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
    let table: toml::Table = source.parse().with_context(|| format!("cannot read {}", config.display()))?;
    Ok(table.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_str).map(str::to_owned))
}
