//! A connection string without its password.

/// The string without `password`, and whether it had one. The string must be one that `Conninfo` reads.
pub(super) fn strip(dsn: &str) -> (String, bool) {
    let stripped = match dsn.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", strip_uri(rest)),
        None => strip_pairs(dsn),
    };
    let changed = stripped != dsn;
    (stripped, changed)
}

/// `user:secret@hosts/database?password=secret`
fn strip_uri(rest: &str) -> String {
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let path = place.find('/').unwrap_or(place.len());
    let (authority, path) = place.split_at(path);
    let authority = match authority.rsplit_once('@') {
        Some((login, hosts)) => format!("{}@{hosts}", login.split_once(':').map_or(login, |(user, _)| user)),
        None => authority.to_owned(),
    };
    let kept: Vec<&str> =
        query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.starts_with("password=")).collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    format!("{authority}{path}{query}")
}

/// `key = value` with values in single quotes and backslashes, as libpq reads them.
fn strip_pairs(dsn: &str) -> String {
    let bytes = dsn.as_bytes();
    let skip = |at: usize, test: &dyn Fn(u8) -> bool| at + bytes[at..].iter().take_while(|byte| test(**byte)).count();
    let space = |byte: u8| byte.is_ascii_whitespace();
    let mut kept = Vec::new();
    let mut at = skip(0, &space);
    while at < bytes.len() {
        let start = at;
        at = skip(at, &|byte| byte != b'=' && !space(byte));
        let key = &dsn[start..at];
        at = skip(skip(at, &space), &|byte| byte == b'=');
        at = end_of_value(bytes, skip(at, &space));
        if key != "password" {
            kept.push(&dsn[start..at]);
        }
        at = skip(at, &space);
    }
    kept.join(" ")
}

fn end_of_value(bytes: &[u8], start: usize) -> usize {
    let quoted = bytes.get(start) == Some(&b'\'');
    let mut at = start + usize::from(quoted);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'\'' if quoted => return at + 1,
            byte if !quoted && byte.is_ascii_whitespace() => return at,
            _ => {}
        }
        at += 1;
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_goes_and_the_rest_stays() {
        for (dsn, stripped) in [
            ("host=a password=x user=u", "host=a user=u"),
            ("host=a password = 'x y \\' z' user=u", "host=a user=u"),
            ("password=x\\ y host=a", "host=a"),
            ("postgres://u:p%40@h:5432/db", "postgres://u@h:5432/db"),
            ("postgresql://h/db?password=x&sslmode=require", "postgresql://h/db?sslmode=require"),
            ("postgres://u:p@h?password=x", "postgres://u@h"),
        ] {
            assert_eq!(strip(dsn), (stripped.to_owned(), true));
        }
    }

    #[test]
    fn without_a_password_nothing_changes() {
        for dsn in ["host=a user=u passfile=/x", "postgres://u@h/db?sslmode=require", "host = 'a b' user=u"] {
            assert_eq!(strip(dsn), (dsn.to_owned(), false));
        }
    }
}
