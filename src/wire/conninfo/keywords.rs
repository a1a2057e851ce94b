//! Every keyword that libpq (PostgreSQL 14 to 18) knows, with its environment variable, and what is done with it here.
//!
//! A keyword that would change what the session does and is not implemented is refused by name: ignoring
//! `requirepeer` or `sslcrl` would be a silent loss of security.

use super::ConninfoError;

/// What happens with a keyword.
enum Support {
    /// Read by [`super::Conninfo`].
    Used,
    /// These values ask for what happens anyway; any other is refused. No value at all: whatever it says, it concerns
    /// nothing that happens here.
    Only(&'static [&'static str]),
    /// Refused, with what to do instead.
    Refused(&'static str),
}

struct Keyword {
    name: &'static str,
    variable: Option<&'static str>,
    support: Support,
}

const fn used(name: &'static str, variable: Option<&'static str>) -> Keyword {
    Keyword { name, variable, support: Support::Used }
}

const fn only(name: &'static str, variable: Option<&'static str>, values: &'static [&'static str]) -> Keyword {
    Keyword { name, variable, support: Support::Only(values) }
}

const fn refused(name: &'static str, variable: Option<&'static str>, instead: &'static str) -> Keyword {
    Keyword { name, variable, support: Support::Refused(instead) }
}

const KEYWORDS: &[Keyword] = &[
    used("host", Some("PGHOST")),
    used("hostaddr", Some("PGHOSTADDR")),
    used("port", Some("PGPORT")),
    used("dbname", Some("PGDATABASE")),
    used("user", Some("PGUSER")),
    used("password", Some("PGPASSWORD")),
    used("passfile", Some("PGPASSFILE")),
    used("channel_binding", Some("PGCHANNELBINDING")),
    used("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    used("options", Some("PGOPTIONS")),
    used("application_name", Some("PGAPPNAME")),
    used("fallback_application_name", None),
    used("keepalives", None),
    used("keepalives_idle", None),
    used("keepalives_interval", None),
    used("keepalives_count", None),
    used("tcp_user_timeout", None),
    used("sslmode", Some("PGSSLMODE")),
    used("sslnegotiation", Some("PGSSLNEGOTIATION")),
    used("sslcert", Some("PGSSLCERT")),
    used("sslkey", Some("PGSSLKEY")),
    used("sslrootcert", Some("PGSSLROOTCERT")),
    used("sslsni", Some("PGSSLSNI")),
    used("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    used("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    used("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    only("client_encoding", None, &["UTF8", "utf8", "UTF-8", "utf-8", "unicode", "auto"]),
    only("gssencmode", Some("PGGSSENCMODE"), &["disable", "prefer"]),
    only("gssdelegation", Some("PGGSSDELEGATION"), &["0"]),
    only("krbsrvname", Some("PGKRBSRVNAME"), &[]),
    only("gsslib", Some("PGGSSLIB"), &[]),
    only("sslcompression", Some("PGSSLCOMPRESSION"), &[]),
    only("sslcertmode", Some("PGSSLCERTMODE"), &["allow"]),
    only("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), &["disable"]),
    only("min_protocol_version", Some("PGMINPROTOCOLVERSION"), &["3.0"]),
    only("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), &[]),
    refused("replication", None, "leave it out: pgconcord chooses for each session whether it replicates"),
    refused("service", Some("PGSERVICE"), "write the service's settings into the connection string itself"),
    refused("servicefile", Some("PGSERVICEFILE"), "write the service's settings into the connection string itself"),
    refused("sslpassword", None, "store the key without a passphrase, readable by pgconcord's user only"),
    refused("sslkeylogfile", None, "leave it out"),
    refused(
        "sslcrl",
        Some("PGSSLCRL"),
        "revocation lists are not checked; trust a root that issues for these servers only",
    ),
    refused(
        "sslcrldir",
        Some("PGSSLCRLDIR"),
        "revocation lists are not checked; trust a root that issues for these servers only",
    ),
    refused("requiressl", Some("PGREQUIRESSL"), "write sslmode=require"),
    refused("requirepeer", Some("PGREQUIREPEER"), "restrict who can create a socket in the directory instead"),
    refused(
        "require_auth",
        Some("PGREQUIREAUTH"),
        "channel_binding=require demands SCRAM; sslmode=verify-full authenticates the server",
    ),
    refused("scram_client_key", None, "give the password instead"),
    refused("scram_server_key", None, "give the password instead"),
    refused("oauth_issuer", None, "let the role log in by password or certificate"),
    refused("oauth_client_id", None, "let the role log in by password or certificate"),
    refused("oauth_client_secret", None, "let the role log in by password or certificate"),
    refused("oauth_scope", None, "let the role log in by password or certificate"),
];

/// Checks one option and gives its name for good. `origin` says where it was written: its keyword or its variable.
pub(super) fn check(keyword: &str, value: &str, origin: &str) -> Result<&'static str, ConninfoError> {
    let Some(known) = KEYWORDS.iter().find(|known| known.name == keyword) else {
        return Err(ConninfoError::UnknownKeyword(keyword.to_owned()));
    };
    match known.support {
        Support::Used => Ok(known.name),
        Support::Only([]) => Ok(known.name),
        Support::Only(values) if value.is_empty() || values.contains(&value) => Ok(known.name),
        Support::Only(values) => Err(ConninfoError::Unsupported {
            origin: format!("{origin}={value}"),
            instead: format!("use {}", values.join(" or ")),
        }),
        Support::Refused(_) if value.is_empty() => Ok(known.name),
        Support::Refused(instead) => {
            Err(ConninfoError::Unsupported { origin: origin.to_owned(), instead: instead.to_owned() })
        }
    }
}

/// The keywords that an environment variable may set, each with the variable.
pub(super) fn variables() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYWORDS.iter().filter_map(|keyword| Some((keyword.name, keyword.variable?)))
}
