//! `when` of a rule: an expression in CEL over the two changes of a conflict.
//!
//! It has no clock, no randomness and no state, and depends on no order that is not there, so it says the same of the same
//! two changes at every node. What has no answer (a NULL that is less than a number, a row that is not there) does not hold.
//!
//! <https://github.com/google/cel-spec/blob/master/doc/langdef.md>

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, ExecutionError, Program, Value};

use crate::model::{ConflictType, NodeId, Stamp, Table};

mod look;
mod value;

use look::{Kind, Look};
use value::{kind, moment, typed};

/// A row's values as text, by column; `None` is NULL. A column whose value is not known is not there.
pub type Cells = BTreeMap<String, Option<String>>;

/// A longer expression is refused, in bytes: the parser's stack has an end.
const LONGEST: usize = 1_000;
/// A longer value of a row is not there for an expression, in bytes: nobody waits for what it would take.
pub const LONGEST_VALUE: usize = 8_192;

/// What CEL itself has.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// Rows, by the names that expressions give them.
const ROWS: [&str; 4] = ["remote", "local", "old", "key"];
/// All names of an expression: what a conflict has.
pub const VARIABLES: [&str; 9] =
    ["remote", "local", "old", "key", "type", "source", "target", "remote_stamp", "local_stamp"];

/// An expression that tells whether a rule is for a conflict. Two with the same text are equal.
#[derive(Clone)]
pub struct When {
    text: Arc<str>,
    program: Arc<Program>,
    /// By [`NodeId`].
    nodes: Arc<[String]>,
    /// `None`: it may look at any.
    columns: Option<BTreeSet<String>>,
    /// Those of [`VARIABLES`] that it names.
    variables: BTreeSet<String>,
    of_key: BTreeSet<String>,
    lists: BTreeSet<String>,
    compared: BTreeSet<(String, Kind)>,
}

/// One of two changes, as the other's author met it.
#[derive(Clone, PartialEq, Debug)]
pub struct Party {
    /// The node that made it.
    pub source: NodeId,
    /// When and where it committed.
    pub stamp: Stamp,
    /// The row after it; none if it deleted.
    pub row: Option<Cells>,
    /// What is known of the row before.
    pub old: Option<Cells>,
}

/// What is wrong with an expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadWhen {
    /// It is no CEL: what the parser says, and the place in it, line and column from 1.
    Syntax(String, Option<(usize, usize)>),
    /// It names what a conflict does not have.
    Variable(String),
    /// It calls what CEL does not have.
    Function(String),
    /// It compares with a node that there is not.
    Node(String),
    /// It compares with a type that no two changes come to; those to which they may.
    Type(String, Vec<&'static str>),
    /// Something else: what the expression does, and what to do.
    Other(String, String),
}

impl BadWhen {
    fn other(what: &str, fix: &str) -> BadWhen {
        BadWhen::Other(what.to_owned(), fix.to_owned())
    }
}

impl When {
    /// Reads an expression, for these nodes in the order of [`NodeId`].
    ///
    /// # Errors
    /// If it is no CEL, or names or calls what there is not.
    pub fn compile(text: &str, nodes: &[&str]) -> Result<When, BadWhen> {
        if text.len() > LONGEST {
            let what = format!("is longer than {LONGEST} bytes");
            return Err(BadWhen::other(&what, "take the rule apart into several with shorter ones"));
        }
        let program = Program::compile(text).map_err(|errors| {
            let first = errors.errors.first();
            let place = first.and_then(|error| {
                Some((usize::try_from(error.pos.0).ok()?.max(1), usize::try_from(error.pos.1).ok()?.max(1)))
            });
            BadWhen::Syntax(first.map_or_else(String::new, |error| error.msg.trim().to_owned()), place)
        })?;
        let look = Look::new(program.expression(), nodes)?;
        if let Some(unknown) = look.variables.iter().find(|name| !VARIABLES.contains(&name.as_str())) {
            return Err(BadWhen::Variable(unknown.clone()));
        }
        if look.variables.is_empty() {
            return Err(BadWhen::other("looks at nothing of the conflict", "compare something of remote and local"));
        }
        let references = program.references();
        let is_operator = |name: &str| name.contains(|each: char| !each.is_alphanumeric() && each != '_');
        let mut functions: Vec<&str> = references.functions().into_iter().filter(|name| !is_operator(name)).collect();
        functions.sort_unstable();
        if let Some(unknown) = functions.iter().find(|name| !FUNCTIONS.contains(name)) {
            return Err(BadWhen::Function((*unknown).to_owned()));
        }
        let Look { columns, whole, variables, of_key, lists, compared, .. } = look;
        Ok(When {
            text: text.into(),
            nodes: nodes.iter().map(|name| (*name).to_owned()).collect(),
            columns: (!whole).then_some(columns),
            variables,
            of_key,
            lists,
            compared,
            program: program.into(),
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The columns that it looks at; `None` if it may look at any.
    pub fn columns(&self) -> Option<&BTreeSet<String>> {
        self.columns.as_ref()
    }

    /// Whether it looks at the row before a change.
    pub fn reads_old(&self) -> bool {
        self.names("old")
    }

    /// Whether it holds for `remote`, as a change that met `local`; `kind` is what that is called.
    pub fn holds(&self, table: &Table, remote: &Party, local: &Party, kind: ConflictType) -> bool {
        self.evaluate(table, remote, local, kind) == Ok(Value::Bool(true))
    }

    fn names(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    fn evaluate(
        &self,
        table: &Table,
        remote: &Party,
        local: &Party,
        kind: ConflictType,
    ) -> Result<Value, ExecutionError> {
        let mut context = Context::with_env(ENVIRONMENT.clone());
        let key = |party: &Party| {
            let row = party.row.as_ref().or(party.old.as_ref())?;
            let names = table.key.iter().map(|column| &table.columns[*column].name);
            names.map(|name| Some((name.clone(), row.get(name)?.clone()))).collect::<Option<Cells>>()
        };
        let key = if self.names("key") { key(remote).or_else(|| key(local)) } else { None };
        let rows = ROWS.into_iter().zip([&remote.row, &local.row, &remote.old, &key]);
        for (name, cells) in rows.filter(|(name, _)| self.names(name)) {
            context.add_variable_from_value(name, row(table, cells.as_ref()));
        }
        context.add_variable_from_value("type", kind.name());
        for (node, stamp, party) in [("source", "remote_stamp", remote), ("target", "local_stamp", local)] {
            if self.names(node) {
                let name = self.nodes.get(party.source.index()).map_or("", String::as_str);
                context.add_variable_from_value(node, name);
            }
            if self.names(stamp) {
                context.add_variable_from_value(stamp, moment(party.stamp));
            }
        }
        self.program.execute(&context)
    }

    /// Why the expression is not for rows of the table, as far as that tells without them; `None` if it may be.
    pub fn misfit(&self, table: &Table) -> Option<String> {
        let is_key = |name: &&String| table.key.iter().any(|key| table.columns[*key].name == **name);
        if let Some(name) = self.of_key.iter().find(|name| !is_key(name)) {
            let key: Vec<_> = table.key.iter().map(|key| table.columns[*key].name.as_str()).collect();
            return Some(format!("{name:?} is not in the key ({})", key.join(", ")));
        }
        let of_type = |name: &str| table.column(name).map(|at| table.columns[at].sql_type.as_str());
        if let Some(name) = self.lists.iter().find(|name| of_type(name).is_some_and(|of| !value::is_array(of))) {
            return Some(format!(
                "map and filter go through arrays, whose elements are in order, and {name:?} is none"
            ));
        }
        let never = |(name, compared): &&(String, Kind)| {
            of_type(name).and_then(kind).is_some_and(|kind| kind != *compared || kind == Kind::Other)
        };
        if let Some((name, kind)) = self.compared.iter().find(never) {
            return Some(format!("{name:?} is compared with {}, to which it is never equal", kind.describe()));
        }
        let is_loose = |name: &String| of_type(name).is_some_and(|of| kind(of).is_none() || value::is_array(of));
        if self.columns.iter().flatten().any(is_loose) {
            return None; // values of any type may be in there
        }
        let cells: Cells =
            table.columns.iter().map(|column| (column.name.clone(), Some(value::sample(&column.sql_type)))).collect();
        let party = |node: u8| Party {
            source: NodeId(node),
            stamp: Stamp { micros: 0, node: NodeId(node) },
            row: Some(cells.clone()),
            old: Some(cells.clone()),
        };
        match self.evaluate(table, &party(0), &party(1), ConflictType::UpdateOriginDiffers) {
            Ok(Value::Bool(_)) => None,
            Ok(other) => Some(format!("it comes to {}, not to true or false", said(&other))),
            Err(ExecutionError::NoSuchOverload(error)) => Some(error.to_string()),
            Err(error @ (ExecutionError::UndeclaredReference(_) | ExecutionError::InvalidArgumentCount { .. })) => {
                Some(error.to_string())
            }
            Err(ExecutionError::ValuesNotComparable(one, other)) => {
                Some(format!("{} can't be compared with {}", said(&one), said(&other)))
            }
            Err(ExecutionError::UnsupportedBinaryOperator(operator, one, other)) => {
                Some(format!("{operator:?} is not for {} and {}", said(&one), said(&other)))
            }
            Err(ExecutionError::UnexpectedType { got, want }) => Some(format!("a value is of type {got}, not {want}")),
            // what other values may not come to: an index, a number to divide by, a key of an object
            Err(_) => None,
        }
    }
}

fn said(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        other => format!("a value of type {:?}", other.type_of()).to_lowercase(),
    }
}

fn row(table: &Table, cells: Option<&Cells>) -> Value {
    let Some(cells) = cells else { return Value::Null };
    let known = table.columns.iter().filter_map(|column| {
        let text = cells.get(&column.name)?.as_deref();
        if text.is_some_and(|text| text.len() > LONGEST_VALUE) {
            return None;
        }
        Some((column.name.clone(), text.map_or(Value::Null, |text| typed(&column.sql_type, text))))
    });
    known.collect::<HashMap<String, Value>>().into()
}

/// Functions of CEL that expressions may call, beside operators and macros.
pub const FUNCTIONS: [&str; 24] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "int",
    "matches",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "uint",
];

impl PartialEq for When {
    fn eq(&self, other: &When) -> bool {
        self.text == other.text && self.nodes == other.nodes
    }
}

impl Eq for When {}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "When({:?})", self.text)
    }
}

#[cfg(test)]
mod tests;
