//! Whether a node has the functions by which rules merge rows, and whether they can be called.

use tokio_postgres::Client;

use crate::model::FunctionName;
use crate::node::NodeError;
use crate::node::connect::connect;
use crate::wire::Conninfo;

/// The functions of a name, first the one that takes two rows.
///
/// <https://www.postgresql.org/docs/18/catalog-pg-proc.html>
const FIND: &str = "SELECT p.pronargs = 2 AND p.proargtypes[0] = 'jsonb'::regtype AND p.proargtypes[1] = 'jsonb'::regtype AS fits, \
     pg_get_function_identity_arguments(p.oid), p.prokind::text, p.proretset, p.provolatile::text, \
     p.prorettype = 'jsonb'::regtype, format_type(p.prorettype, NULL), \
     has_schema_privilege(n.oid, 'USAGE'), has_function_privilege(p.oid, 'EXECUTE'), quote_ident(current_user) \
     FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 AND p.proname = $2 \
     ORDER BY fits DESC, p.oid";

/// Why a function can't be called for a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unusable {
    /// Which.
    pub at: usize,
    /// What is wrong, the end of a sentence that begins with the node's name.
    pub what: String,
    /// What to do.
    pub fix: String,
}

/// Those of the functions that the node can't merge rows by.
///
/// # Errors
/// If the node can't be reached.
pub async fn check(info: &Conninfo, functions: &[&FunctionName]) -> Result<Vec<Unusable>, NodeError> {
    let mut unusable = Vec::new();
    if functions.is_empty() {
        return Ok(unusable);
    }
    let client = connect(info, "pgconcord rules").await?;
    for (at, function) in functions.iter().enumerate() {
        let wrong = wrong(&client, function).await.map_err(NodeError::doing("look for the functions of rules"))?;
        unusable.extend(wrong.map(|(what, fix)| Unusable { at, what, fix }));
    }
    Ok(unusable)
}

async fn wrong(client: &Client, function: &FunctionName) -> Result<Option<(String, String)>, tokio_postgres::Error> {
    let call = format!("{}(jsonb, jsonb)", function.sql_name());
    let rows = client.query(FIND, &[&&*function.schema, &&*function.name]).await?;
    let Some(found) = rows.first().filter(|row| row.get(0)) else {
        let others = rows.iter().map(|row| format!("{function}({})", row.get::<_, String>(1))).collect::<Vec<_>>();
        let others = if others.is_empty() { String::new() } else { format!(", only {}", others.join(" and ")) };
        let fix =
            format!("run CREATE FUNCTION {call} RETURNS jsonb IMMUTABLE ... at every node, or correct `function`");
        return Ok(Some((format!("has no function {function}(jsonb, jsonb){others}"), fix)));
    };
    let (kind, volatility): (String, String) = (found.get(2), found.get(4));
    let (is_jsonb, of_type): (bool, String) = (found.get(5), found.get(6));
    let (in_schema, may_call, role): (bool, bool, String) = (found.get(7), found.get(8), found.get(9));
    let is_set: bool = found.get(3);
    let returns = "have it return one jsonb, the row, at every node";
    let so = match kind.as_str() {
        "p" => Some(("is a procedure".to_owned(), "make it a function at every node".to_owned())),
        "a" => Some(("is an aggregate".to_owned(), "name a function that takes two rows".to_owned())),
        "w" => Some(("is a window function".to_owned(), "name a function that takes two rows".to_owned())),
        _ if is_set => Some(("returns a set".to_owned(), returns.to_owned())),
        _ if !is_jsonb => Some((format!("returns {of_type}"), returns.to_owned())),
        _ if volatility != "i" => {
            let is = if volatility == "s" { "STABLE" } else { "VOLATILE" };
            let fix = format!(
                "if it reads no table, no clock and no setting, so that it makes the same of two rows everywhere, run ALTER \
                 FUNCTION {call} IMMUTABLE; at every node"
            );
            Some((format!("is {is}, and rows would differ by it"), fix))
        }
        _ if !in_schema => {
            let schema = crate::model::table::quote_identifier(&function.schema);
            Some((
                "is in a schema that pgconcord's role may not use".to_owned(),
                format!("run GRANT USAGE ON SCHEMA {schema} TO {role}; there"),
            ))
        }
        _ if !may_call => Some((
            "may not be called by pgconcord's role".to_owned(),
            format!("run GRANT EXECUTE ON FUNCTION {call} TO {role}; there"),
        )),
        _ => None,
    };
    Ok(so.map(|(what, fix)| (format!("has a function {function}(jsonb, jsonb) that {what}"), fix)))
}
