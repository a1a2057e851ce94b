//! The binary formats that are made of texts, against what the server itself makes of the same values.

use std::fmt::Write;

use pgconcord::model::BinaryType;
use pgconcord::wire::{Session, pin};

use super::session;
use crate::types::values::{Draw, Type, built_in};

/// Random values of each type.
const RANDOM: usize = 50;

#[tokio::test]
async fn values_are_written_as_the_server_sends_them() {
    let mut session = session("in_binary").await;
    session.simple(&pin(&[])).await.unwrap();
    let mut draw = Draw::new(11);
    let (mut types, mut as_text) = (Vec::new(), Vec::new());
    for of in built_in() {
        let (sql_type, send) = name_and_send(&mut session, &of).await;
        let Some(binary) = BinaryType::of(&sql_type) else { continue };
        types.push(sql_type.clone());
        for value in draw.values(&of, RANDOM) {
            let query = format!("SELECT v, encode({send}(v), 'hex') FROM (SELECT ({value})::{}) AS of (v)", of.name);
            let found = session.simple(&query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
            let (text, sent) = (found[0].rows[0].text(0).unwrap(), found[0].rows[0].text(1).unwrap());
            let mut written = Vec::new();
            match binary.write(text.as_bytes(), &mut written) {
                Some(()) => assert_eq!(hex(&written[4..]), sent, "{sql_type}: {text}"),
                None => as_text.push(text.to_owned()),
            }
        }
    }
    assert!(types.len() >= 19, "{types:?}");
    let is_rare = |text: &String| text.ends_with(" BC") || text.starts_with("29427") || text.starts_with("58748");
    assert!(as_text.iter().all(is_rare), "{as_text:?}");
}

/// The type's name as a column has it, and its send function.
async fn name_and_send(session: &mut Session, of: &Type) -> (String, String) {
    let query = format!(
        "SELECT format('pg_catalog.%I', typname), typsend FROM pg_type WHERE oid = '{}'::regtype",
        of.name.replace("\"char\"", "pg_catalog.\"char\"")
    );
    let found = session.simple(&query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let row = &found[0].rows[0];
    (row.text(0).unwrap().to_owned(), row.text(1).unwrap().to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}
