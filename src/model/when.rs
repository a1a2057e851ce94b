//! `when` of a rule: an expression in CEL over the two changes of a conflict.
//!
//! It has no clock, no randomness and no state, so it says the same of the same two changes at every node. What has no
//! answer (a NULL compared with a number, a row that is not there) does not hold, as in SQL's WHERE.
//!
//! <https://github.com/google/cel-spec/blob/master/doc/langdef.md>

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{Context, Env, ExecutionError, Program, Value};

use crate::model::{ConflictType, NodeId, Stamp, Table};

mod value;

use value::{moment, typed};

/// A row's values as text, by column; `None` is NULL. A column whose value is not known is not there.
pub type Cells = BTreeMap<String, Option<String>>;

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
    reads_old: bool,
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
}

impl When {
    /// Reads an expression, for these nodes in the order of [`NodeId`].
    ///
    /// # Errors
    /// If it is no CEL, or names or calls what there is not.
    pub fn compile(text: &str, nodes: &[&str]) -> Result<When, BadWhen> {
        let program = Program::compile(text).map_err(|errors| {
            let first = errors.errors.first();
            let place = first.and_then(|error| {
                Some((usize::try_from(error.pos.0).ok()?.max(1), usize::try_from(error.pos.1).ok()?.max(1)))
            });
            BadWhen::Syntax(first.map_or_else(String::new, |error| error.msg.trim().to_owned()), place)
        })?;
        let mut looked = Looked::default();
        looked.at(program.expression(), &mut Vec::new());
        if let Some(unknown) = looked.variables.iter().find(|name| !VARIABLES.contains(&name.as_str())) {
            return Err(BadWhen::Variable(unknown.clone()));
        }
        let references = program.references();
        let known = |name: &&str| name.starts_with('_') || name.ends_with('_') || name.starts_with('@');
        let mut functions: Vec<&str> = references.functions().into_iter().filter(|name| !known(name)).collect();
        functions.sort_unstable();
        if let Some(unknown) = functions.iter().find(|name| !FUNCTIONS.contains(name)) {
            return Err(BadWhen::Function((*unknown).to_owned()));
        }
        let Looked { columns, whole, variables } = looked;
        let reads_old = variables.contains("old");
        Ok(When {
            text: text.into(),
            nodes: nodes.iter().map(|name| (*name).to_owned()).collect(),
            columns: (!whole).then_some(columns),
            reads_old,
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
        self.reads_old
    }

    /// Whether it holds for `remote`, as a change that met `local`; `kind` is what that is called.
    pub fn holds(&self, table: &Table, remote: &Party, local: &Party, kind: ConflictType) -> bool {
        self.evaluate(table, remote, local, kind) == Ok(Value::Bool(true))
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
        let key = key(remote).or_else(|| key(local));
        for (name, cells) in ROWS.into_iter().zip([&remote.row, &local.row, &remote.old, &key]) {
            context.add_variable_from_value(name, row(table, cells.as_ref()));
        }
        context.add_variable_from_value("type", kind.name());
        for (node, stamp, party) in [("source", "remote_stamp", remote), ("target", "local_stamp", local)] {
            let name = self.nodes.get(party.source.index()).map_or("", String::as_str);
            context.add_variable_from_value(node, name);
            context.add_variable_from_value(stamp, moment(party.stamp));
        }
        self.program.execute(&context)
    }

    /// Why the expression can hold for no row of the table, as far as rows with a value in each column tell; `None` if it may.
    pub fn misfit(&self, table: &Table) -> Option<String> {
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
        Some((column.name.clone(), text.map_or(Value::Null, |text| typed(&column.sql_type, text))))
    });
    known.collect::<HashMap<String, Value>>().into()
}

/// Functions of CEL that expressions may call, beside operators and macros.
pub const FUNCTIONS: [&str; 25] = [
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
    "type",
    "uint",
];

/// What an expression looks at.
#[derive(Default)]
struct Looked {
    variables: BTreeSet<String>,
    columns: BTreeSet<String>,
    /// A row as a whole, so any column.
    whole: bool,
}

impl Looked {
    /// `bound` are the names that macros give to elements.
    fn at(&mut self, expression: &IdedExpr, bound: &mut Vec<String>) {
        match &expression.expr {
            Expr::Ident(name) => self.variable(name, None, bound),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) => self.variable(name, Some(&select.field), bound),
                _ => self.at(&select.operand, bound),
            },
            Expr::Call(call) => {
                if call.func_name == operators::INDEX
                    && let [IdedExpr { expr: Expr::Ident(name), .. }, IdedExpr { expr: Expr::Literal(literal), .. }] =
                        &call.args[..]
                    && let LiteralValue::String(column) = literal
                {
                    return self.variable(name, Some(column.inner()), bound);
                }
                call.target.iter().for_each(|target| self.at(target, bound));
                call.args.iter().for_each(|each| self.at(each, bound));
            }
            Expr::Comprehension(each) => {
                self.at(&each.iter_range, bound);
                self.at(&each.accu_init, bound);
                let outside = bound.len();
                bound.extend([each.iter_var.clone(), each.accu_var.clone()]);
                bound.extend(each.iter_var2.clone());
                [&each.loop_cond, &each.loop_step, &each.result].into_iter().for_each(|part| self.at(part, bound));
                bound.truncate(outside);
            }
            Expr::List(list) => list.elements.iter().for_each(|each| self.at(each, bound)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(&entry.expr, bound)),
            Expr::Struct(made) => made.entries.iter().for_each(|entry| self.entry(&entry.expr, bound)),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn entry(&mut self, entry: &EntryExpr, bound: &mut Vec<String>) {
        match entry {
            EntryExpr::StructField(field) => self.at(&field.value, bound),
            EntryExpr::MapEntry(entry) => {
                self.at(&entry.key, bound);
                self.at(&entry.value, bound);
            }
        }
    }

    fn variable(&mut self, name: &str, column: Option<&str>, bound: &[String]) {
        if bound.iter().any(|each| each == name) {
            return;
        }
        self.variables.insert(name.to_owned());
        match column {
            _ if !ROWS.contains(&name) => {}
            Some(column) => {
                self.columns.insert(column.to_owned());
            }
            None => self.whole = true,
        }
    }
}

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
