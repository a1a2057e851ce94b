//! The two spellings of a connection string, `key=value` pairs and URI, into options in the order given.
//!
//! Grammar: PostgreSQL's documentation, "Connection Strings" (libpq). Values are not interpreted here.

use super::ConninfoError;

/// One option as it was written: keyword, value.
pub(super) type Pair = (String, String);

/// The options of a connection string in either spelling.
pub(super) fn pairs(text: &str) -> Result<Vec<Pair>, ConninfoError> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None => key_values(text),
    }
}

fn syntax(problem: impl Into<String>) -> ConninfoError {
    ConninfoError::Syntax(problem.into())
}

/// `host=a port=5432 dbname='with space'`: a backslash takes the next character as it is, quoted or not.
fn key_values(text: &str) -> Result<Vec<Pair>, ConninfoError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_ascii_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let keyword = &rest[..end];
        rest = rest[end..].trim_ascii_start();
        rest = rest
            .strip_prefix('=')
            .ok_or_else(|| syntax(format!("missing \"=\" after \"{}\"", shown(keyword))))?
            .trim_ascii_start();
        let (value, after) = value(rest)?;
        pairs.push((keyword.to_owned(), value));
        rest = after.trim_ascii_start();
    }
    Ok(pairs)
}

/// A word that turns up where a keyword belongs may be part of a password with a space in it: only its start is shown.
fn shown(word: &str) -> String {
    match word.char_indices().nth(20) {
        Some((end, _)) => format!("{}...", &word[..end]),
        None => word.to_owned(),
    }
}

/// One value from the start of `text`, and what follows it.
fn value(text: &str) -> Result<(String, &str), ConninfoError> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_ascii_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(syntax("unterminated quoted string"));
    }
    Ok((value, ""))
}

/// `user:password@host:port,host:port/dbname?keyword=value&…`, after the scheme.
fn uri(text: &str) -> Result<Vec<Pair>, ConninfoError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    if let Some(at) = text.find(['@', '/']).filter(|at| text[*at..].starts_with('@')) {
        let (user, password) = match text[..at].split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (&text[..at], None),
        };
        push(&mut pairs, "user", user)?;
        push(&mut pairs, "password", password.unwrap_or(""))?;
        rest = &text[at + 1..];
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    hosts(&rest[..end], &mut pairs)?;
    rest = &rest[end..];
    if let Some(path) = rest.strip_prefix('/') {
        let end = path.find('?').unwrap_or(path.len());
        push(&mut pairs, "dbname", &path[..end])?;
        rest = &path[end..];
    }
    if let Some(query) = rest.strip_prefix('?').filter(|query| !query.is_empty()) {
        for parameter in query.split('&') {
            pairs.push(query_parameter(parameter)?);
        }
    }
    Ok(pairs)
}

/// The part of a URI between the user and the database.
fn hosts(text: &str, pairs: &mut Vec<Pair>) -> Result<(), ConninfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in text.split(',') {
        let (host, after) = match one.strip_prefix('[') {
            Some(literal) => literal.split_once(']').ok_or_else(|| syntax("missing \"]\" after an IPv6 address"))?,
            None => one.split_at(one.find(':').unwrap_or(one.len())),
        };
        let port = match after.strip_prefix(':') {
            Some(port) => port,
            None if after.is_empty() => "",
            None => return Err(syntax(format!("unexpected {after:?} after a host"))),
        };
        if one.starts_with('[') && host.is_empty() {
            return Err(syntax("an IPv6 address in brackets is empty"));
        }
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        pairs.push(("host".to_owned(), hosts.join(",")));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn push(pairs: &mut Vec<Pair>, keyword: &str, encoded: &str) -> Result<(), ConninfoError> {
    if !encoded.is_empty() {
        pairs.push((keyword.to_owned(), decode(encoded)?));
    }
    Ok(())
}

/// `keyword=value` of a URI's query; `ssl=true` is what JDBC writes for `sslmode=require`.
fn query_parameter(text: &str) -> Result<Pair, ConninfoError> {
    let (keyword, value) = text
        .split_once('=')
        .ok_or_else(|| syntax(format!("missing \"=\" in the URI's parameter \"{}\"", shown(text))))?;
    if value.contains('=') {
        return Err(syntax(format!("a second \"=\" in the URI's parameter \"{}\"", shown(keyword))));
    }
    match (decode(keyword)?, decode(value)?) {
        (keyword, value) if keyword == "ssl" && value == "true" => Ok(("sslmode".to_owned(), "require".to_owned())),
        pair => Ok(pair),
    }
}

/// Percent-decoding; `+` stands for itself, as libpq has it.
fn decode(text: &str) -> Result<String, ConninfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let byte = after.get(..2).and_then(|two| Some(hex(two[0])? << 4 | hex(two[1])?));
        match byte {
            Some(0) => return Err(syntax("%00 cannot stand in a connection URI")),
            Some(byte) => bytes.push(byte),
            None => {
                return Err(syntax(
                    "a \"%\" in a connection URI is followed by two hexadecimal digits; write %25 for the sign itself",
                ));
            }
        }
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| syntax("a percent-encoded part of the connection URI is not UTF-8"))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        pairs(text).expect(text)
    }

    fn expect(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(read(text), expected, "{text}");
    }

    #[test]
    fn key_value_pairs_with_quotes_spaces_and_escapes() {
        expect("", &[]);
        expect("  host=a\tport = 5433 ", &[("host", "a"), ("port", "5433")]);
        expect(r"password='it\'s \\ here' user=u\ v", &[("password", r"it's \ here"), ("user", "u v")]);
        expect("user='' dbname=x", &[("user", ""), ("dbname", "x")]);
        expect("user='a'dbname=x", &[("user", "a"), ("dbname", "x")]);
        expect("options='-c a=b'", &[("options", "-c a=b")]);
        expect("user=", &[("user", "")]);
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        for text in ["host", "host =a port", "user='open", "host a=b"] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stray_word_is_not_repeated_whole() {
        let message = pairs("password=part averylongsecondpartofapassword").unwrap_err().to_string();
        assert!(message.contains("averylong") && !message.contains("ofapassword"), "{message}");
    }

    #[test]
    fn a_uri_with_everything() {
        expect(
            "postgres://u%40x:p%3Aw@h1:1,h2/db%20name?sslmode=require&options=-c%20a%3Db",
            &[
                ("user", "u@x"),
                ("password", "p:w"),
                ("host", "h1,h2"),
                ("port", "1,"),
                ("dbname", "db name"),
                ("sslmode", "require"),
                ("options", "-c a=b"),
            ],
        );
    }

    #[test]
    fn a_uri_may_leave_out_any_part() {
        expect("postgresql://", &[]);
        expect("postgresql:///db", &[("dbname", "db")]);
        expect("postgresql://h", &[("host", "h")]);
        expect("postgresql://:5433", &[("port", "5433")]);
        expect("postgresql://u@", &[("user", "u")]);
        expect("postgresql:///db?host=/tmp&port=1", &[("dbname", "db"), ("host", "/tmp"), ("port", "1")]);
        expect("postgresql://h?user=u", &[("host", "h"), ("user", "u")]);
        expect("postgresql://%2Frun%2Fpg/db", &[("host", "/run/pg"), ("dbname", "db")]);
    }

    #[test]
    fn a_uri_with_ipv6_addresses() {
        expect("postgres://[::1]:5433,[fe80::1]/x", &[("host", "::1,fe80::1"), ("port", "5433,"), ("dbname", "x")]);
        for text in ["postgres://[::1", "postgres://[]", "postgres://[::1]x"] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn jdbc_ssl_means_require() {
        expect("postgres://h?ssl=true", &[("host", "h"), ("sslmode", "require")]);
        expect("postgres://h?ssl=false", &[("host", "h"), ("ssl", "false")]);
    }

    #[test]
    fn bad_escapes_and_parameters_in_a_uri_are_refused() {
        for text in ["postgres://h%", "postgres://h%2", "postgres://h%zz", "postgres://%00", "postgres://%ff"] {
            assert!(pairs(text).is_err(), "{text}");
        }
        for text in ["postgres://h?user", "postgres://h?user=a=b", "postgres://h?&"] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r"(postgres://)?[a-z=%'\\\\@:/?&,\\[\\] é]{0,40}") {
            let _ = pairs(&text);
        }

        #[test]
        fn a_quoted_value_reads_back(value in r"[a-z'\\\\ =é]{0,20}") {
            let quoted = value.replace('\\', r"\\").replace('\'', r"\'");
            proptest::prop_assert_eq!(read(&format!("password='{quoted}'")), [("password".to_owned(), value)]);
        }
    }

    #[test]
    fn a_question_mark_in_a_password_stays_in_it() {
        expect("postgres://u:p?w@h", &[("user", "u"), ("password", "p?w"), ("host", "h")]);
    }
}
