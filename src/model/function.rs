//! The name of a function as rules write it: its schema and its own, each as SQL reads it.

use std::fmt;
use std::str::{Chars, FromStr};
use std::sync::Arc;

use crate::model::table::quote_identifier;

/// A function, named with its schema.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FunctionName {
    /// Unquoted.
    pub schema: Arc<str>,
    /// Unquoted.
    pub name: Arc<str>,
}

/// What keeps a text from being the name of a function with its schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoFunctionName {
    /// It is a name without a schema.
    NoSchema,
    /// It is something else.
    Malformed,
}

impl FunctionName {
    /// `"schema"."name"`, for SQL.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl FromStr for FunctionName {
    type Err = NoFunctionName;

    /// As SQL does: what is not quoted is in lower case.
    fn from_str(text: &str) -> Result<FunctionName, NoFunctionName> {
        let mut rest = text.trim().chars();
        let schema = identifier(&mut rest).ok_or(NoFunctionName::Malformed)?;
        match rest.next() {
            None => return Err(NoFunctionName::NoSchema),
            Some('.') => {}
            Some(_) => return Err(NoFunctionName::Malformed),
        }
        let name = identifier(&mut rest).filter(|_| rest.as_str().is_empty()).ok_or(NoFunctionName::Malformed)?;
        Ok(FunctionName { schema: schema.into(), name: name.into() })
    }
}

/// Takes an identifier off the front.
///
/// <https://www.postgresql.org/docs/18/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>
fn identifier(rest: &mut Chars<'_>) -> Option<String> {
    let text = rest.as_str();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c| !continues(c)).unwrap_or(text.len());
        *rest = text[end..].chars();
        return text[..end].starts_with(begins).then(|| text[..end].to_ascii_lowercase());
    };
    *rest = quoted.chars();
    let mut name = String::new();
    loop {
        match rest.next()? {
            '"' if rest.as_str().starts_with('"') => name.extend(rest.next()),
            '"' => return (!name.is_empty()).then_some(name),
            '\0' => return None,
            other => name.push(other),
        }
    }
}

fn begins(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn continues(c: char) -> bool {
    begins(c) || c.is_ascii_digit() || c == '$'
}

impl fmt::Display for FunctionName {
    /// As rules write it, quoted where it must be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = |name: &str| {
            let plain = name.starts_with(begins) && name.chars().all(|c| continues(c) && !c.is_ascii_uppercase());
            if plain { name.to_owned() } else { quote_identifier(name) }
        };
        write!(f, "{}.{}", written(&self.schema), written(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_sql_reads_it_and_written_so_that_it_is_read_again() {
        for (text, schema, name, written) in [
            ("public.resolve_price", "public", "resolve_price", "public.resolve_price"),
            (" Shop.Resolve$1 ", "shop", "resolve$1", "shop.resolve$1"),
            (r#""My Shop"."a ""b"".c""#, "My Shop", r#"a "b".c"#, r#""My Shop"."a ""b"".c""#),
            (r#""shop".größe"#, "shop", "größe", "shop.größe"),
            (r#"shop."1st""#, "shop", "1st", r#"shop."1st""#),
        ] {
            let read: FunctionName = text.parse().expect(text);
            assert_eq!((&*read.schema, &*read.name, read.to_string().as_str()), (schema, name, written));
            assert_eq!(written.parse(), Ok(read));
        }
    }

    #[test]
    fn what_is_no_name_with_a_schema_is_told_apart() {
        for text in ["resolve_price", "\"a.b\""] {
            assert_eq!(text.parse::<FunctionName>(), Err(NoFunctionName::NoSchema), "{text}");
        }
        for text in
            ["", ".", "a.", ".b", "a.b.c", "a.b(jsonb, jsonb)", "a. b", "1a.b", "a.\"\"", "a.\"b", "a.\"\0\"", "a-b.c"]
        {
            assert_eq!(text.parse::<FunctionName>(), Err(NoFunctionName::Malformed), "{text}");
        }
    }
}
