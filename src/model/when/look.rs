//! What an expression looks at, and what is wrong with it, as far as that tells without rows.

use std::collections::BTreeSet;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{Context, Program, Value};

use super::{BadWhen, ENVIRONMENT, ROWS};
use crate::model::ConflictType;

/// What a condition may be told to have met.
const TYPES: [ConflictType; 5] = [
    ConflictType::InsertExists,
    ConflictType::UpdateOriginDiffers,
    ConflictType::UpdateDeleted,
    ConflictType::DeleteOriginDiffers,
    ConflictType::DeleteMissing,
];

/// What values of a kind are equal to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Number,
    Text,
    Truth,
    Other,
}

impl Kind {
    /// For messages.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Kind::Number => "a number",
            Kind::Text => "text",
            Kind::Truth => "true or false",
            Kind::Other => "something else",
        }
    }

    fn of(literal: &LiteralValue) -> Option<Kind> {
        match literal {
            LiteralValue::Boolean(_) => Some(Kind::Truth),
            LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Some(Kind::Number),
            LiteralValue::String(_) => Some(Kind::Text),
            LiteralValue::Bytes(_) => Some(Kind::Other),
            LiteralValue::Null => None,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Look<'n> {
    nodes: &'n [&'n str],
    pub(super) variables: BTreeSet<String>,
    pub(super) columns: BTreeSet<String>,
    /// A row as a whole, so any column.
    pub(super) whole: bool,
    /// What it takes for columns of the key.
    pub(super) of_key: BTreeSet<String>,
    /// Columns from whose elements lists are made, in their order.
    pub(super) lists: BTreeSet<String>,
    /// Columns that are compared with constants for being equal.
    pub(super) compared: BTreeSet<(String, Kind)>,
    /// The names that macros give to elements.
    bound: Vec<String>,
    in_loop: bool,
}

impl<'n> Look<'n> {
    /// Looks at an expression, for these nodes.
    pub(super) fn new(expression: &IdedExpr, nodes: &'n [&'n str]) -> Result<Look<'n>, BadWhen> {
        let mut look = Look { nodes, ..Look::default() };
        look.at(expression)?;
        Ok(look)
    }

    fn at(&mut self, expression: &IdedExpr) -> Result<(), BadWhen> {
        if let Some((row, column)) = column(expression) {
            self.variable(row, Some(column));
            return Ok(());
        }
        match &expression.expr {
            Expr::Ident(name) => self.variable(name, None),
            Expr::Select(select) => return self.at(&select.operand),
            Expr::Call(call) => return self.call(call, expression),
            Expr::Comprehension(each) => return self.each(each),
            Expr::List(list) => return list.elements.iter().try_for_each(|each| self.at(each)),
            Expr::Map(map) => return map.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(made) => return made.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
        Ok(())
    }

    fn call(&mut self, call: &CallExpr, whole: &IdedExpr) -> Result<(), BadWhen> {
        let is_equality = [operators::EQUALS, operators::NOT_EQUALS].contains(&call.func_name.as_str());
        if let [one, other] = &call.args[..] {
            if is_equality {
                for (one, other) in [(one, other), (other, one)] {
                    if let (Expr::Ident(name), Expr::Literal(LiteralValue::Null)) = (&one.expr, &other.expr)
                        && ROWS.contains(&name.as_str())
                    {
                        self.variables.insert(name.clone());
                        return Ok(()); // whether there is a row
                    }
                    self.compare(one, other)?;
                }
            } else if let (operators::IN, Expr::List(list)) = (call.func_name.as_str(), &other.expr) {
                list.elements.iter().try_for_each(|each| self.compare(one, each))?;
            }
        }
        match call.func_name.as_str() {
            "matches" => match call.args.last().map(|pattern| &pattern.expr) {
                Some(Expr::Literal(LiteralValue::String(pattern))) => check_pattern(pattern.inner())?,
                _ => {
                    return Err(BadWhen::other(
                        "takes a pattern from a row",
                        "write the pattern itself into `matches`",
                    ));
                }
            },
            "timestamp" | "duration" if call.args.iter().all(|each| matches!(each.expr, Expr::Literal(_))) => {
                let context = Context::with_env(ENVIRONMENT.clone());
                if Value::resolve(whole, &context).is_err() {
                    let what = format!("has a {} that is none", call.func_name);
                    let fix = "write timestamp('2026-11-27T12:00:00Z'), or duration('1h30m')";
                    return Err(BadWhen::other(&what, fix));
                }
            }
            _ => {}
        }
        call.target.iter().try_for_each(|target| self.at(target))?;
        call.args.iter().try_for_each(|each| self.at(each))
    }

    /// A loop over something: what `all`, `exists`, `exists_one`, `map` and `filter` are.
    fn each(&mut self, each: &ComprehensionExpr) -> Result<(), BadWhen> {
        if self.in_loop {
            // its time would grow with the square of what a row has
            return Err(BadWhen::other("has a loop within a loop", "take them apart, or decide by something simpler"));
        }
        // Of an object's names nobody knows the order, so nothing may depend on it.
        if matches!(each.accu_init.expr, Expr::List(_)) {
            match (&each.iter_range.expr, column(&each.iter_range)) {
                (Expr::List(_) | Expr::Comprehension(_), _) => {}
                (_, Some((row, column))) if ROWS.contains(&row) => drop(self.lists.insert(column.to_owned())),
                _ => {
                    let fix = "map and filter go through an array column or a list; use all, exists or `in` otherwise";
                    return Err(BadWhen::other("makes a list of something that may have no order", fix));
                }
            }
        }
        self.at(&each.iter_range)?;
        self.at(&each.accu_init)?;
        let outside = self.bound.len();
        self.bound.extend([each.iter_var.clone(), each.accu_var.clone()]);
        self.bound.extend(each.iter_var2.clone());
        self.in_loop = true;
        let within = [&each.loop_cond, &each.loop_step, &each.result].into_iter().try_for_each(|part| self.at(part));
        self.in_loop = false;
        self.bound.truncate(outside);
        within
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), BadWhen> {
        match entry {
            EntryExpr::StructField(field) => self.at(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.at(&entry.key)?;
                self.at(&entry.value)
            }
        }
    }

    fn compare(&mut self, one: &IdedExpr, other: &IdedExpr) -> Result<(), BadWhen> {
        let Expr::Literal(literal) = &other.expr else { return Ok(()) };
        if let (Expr::Ident(name), LiteralValue::String(text)) = (&one.expr, literal) {
            let text = text.inner();
            match name.as_str() {
                "source" | "target" if !self.nodes.contains(&text) => return Err(BadWhen::Node(text.to_owned())),
                "type" if !TYPES.iter().any(|each| each.name() == text) => {
                    return Err(BadWhen::Type(text.to_owned(), TYPES.map(ConflictType::name).to_vec()));
                }
                _ => {}
            }
        }
        if let (Some((row, column)), Some(kind)) = (column(one), Kind::of(literal))
            && ROWS.contains(&row)
        {
            self.compared.insert((column.to_owned(), kind));
        }
        Ok(())
    }

    fn variable(&mut self, name: &str, column: Option<&str>) {
        if self.bound.iter().any(|each| each == name) {
            return;
        }
        self.variables.insert(name.to_owned());
        match column {
            _ if !ROWS.contains(&name) => {}
            Some(column) => {
                self.columns.insert(column.to_owned());
                if name == "key" {
                    self.of_key.insert(column.to_owned());
                }
            }
            None => self.whole = true,
        }
    }
}

/// `row.column` or `row["column"]`.
fn column(expression: &IdedExpr) -> Option<(&str, &str)> {
    match &expression.expr {
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(name) => Some((name, &select.field)),
            _ => None,
        },
        Expr::Call(call) if call.func_name == operators::INDEX => match &call.args[..] {
            [
                IdedExpr { expr: Expr::Ident(name), .. },
                IdedExpr { expr: Expr::Literal(LiteralValue::String(column)), .. },
            ] => Some((name, column.inner())),
            _ => None,
        },
        _ => None,
    }
}

fn check_pattern(pattern: &str) -> Result<(), BadWhen> {
    let mut context = Context::with_env(ENVIRONMENT.clone());
    context.add_variable_from_value("pattern", pattern);
    let tried = Program::compile("''.matches(pattern)").map(|program| program.execute(&context));
    match tried {
        Ok(Ok(_)) => Ok(()),
        _ => Err(BadWhen::other(&format!("has a pattern that is none: {pattern:?}"), "mend the regular expression")),
    }
}
