//! The statements that write rows in sets: one parameter a column, each an array, unnested.
//!
//! An array is of the column's type if that has a binary format that we make of the source's text ([`BinaryType`]), else of
//! text, which is cast and so goes to the target's input function unparsed. The guard (R4) is part of each statement that
//! touches an existing row: a version is known if it is older than the horizon, was written by the newest local change
//! that we decoded, by this transaction, or by us.

use std::fmt::Write;

use bytes::BufMut;

use crate::model::table::{quote_identifier, quote_literal};
use crate::model::{BinaryType, Cell, Column, Table, Xid};

/// OID of `text[]`.
pub const TEXT_ARRAY: u32 = 1009;
/// OID of `text`.
pub const TEXT: u32 = 25;

/// Whether a statement looks at the version it is about to replace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Only versions that are known to be ours or decoded are touched.
    Known,
    /// Those, and for each row the one that is named.
    KnownEach,
    /// The row is locked and known already.
    Locked,
}

/// An array's form: of values of such a type, or of text.
pub type Form = Option<BinaryType>;

/// What a statement is like beside its table and its columns.
#[derive(Clone, Copy, Debug)]
pub struct Variant<'a> {
    /// The forms of its arrays; where there are none, text.
    pub forms: &'a [Form],
    /// Whether it looks at the versions.
    pub guard: Guard,
    /// Whether it tells the ordinals of the rows that it touched.
    pub tells: bool,
}

impl Variant<'_> {
    /// Of arrays of text; tells which rows it touched.
    pub const fn of_texts(guard: Guard) -> Variant<'static> {
        Variant { forms: &[], guard, tells: true }
    }

    fn returning(self) -> &'static str {
        if self.tells { " RETURNING u.ord" } else { "" }
    }
}

/// An array that is a parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Array {
    /// Of what.
    pub form: Form,
    /// In binary format.
    pub bytes: Vec<u8>,
}

impl Array {
    /// Of values of the type, if all of them have its binary format, else of text.
    pub fn of<'a>(binary: Option<BinaryType>, cells: impl ExactSizeIterator<Item = Option<&'a [u8]>> + Clone) -> Array {
        let bytes = binary.and_then(|of| binary_array(of, cells.clone()));
        let form = binary.filter(|_| bytes.is_some());
        Array { form, bytes: bytes.unwrap_or_else(|| text_array(cells)) }
    }

    /// The array's type.
    pub fn oid(&self) -> u32 {
        self.form.and_then(BinaryType::array).map_or(TEXT_ARRAY, |array| array.oid)
    }
}

/// `u.c0::type, …` names the arrays; the key's columns come first, in key order, then `others`.
struct Shape<'a> {
    table: &'a Table,
    others: &'a [usize],
    forms: &'a [Form],
}

impl Shape<'_> {
    fn is_of_type(&self, place: usize) -> bool {
        self.forms.get(place).is_some_and(Option::is_some)
    }

    fn value(&self, place: usize) -> String {
        let name = format!("u.c{place}");
        if self.is_of_type(place) { name } else { self.table.columns[self.column(place)].value(&name) }
    }

    fn column(&self, place: usize) -> usize {
        self.table.key.get(place).copied().unwrap_or_else(|| self.others[place - self.table.key.len()])
    }

    fn name(&self, place: usize) -> String {
        quote_identifier(&self.table.columns[self.column(place)].name)
    }

    fn len(&self) -> usize {
        self.table.key.len() + self.others.len()
    }

    /// The rows, with their ordinals.
    fn numbered(&self, guard: Guard) -> String {
        let ordinals = format!("pg_catalog.generate_series(1, pg_catalog.cardinality({})) AS ord", self.array(0));
        self.subselect(guard, Some(ordinals))
    }

    fn rows(&self, variant: Variant<'_>) -> String {
        if variant.tells { self.numbered(variant.guard) } else { self.unnumbered(variant.guard) }
    }

    /// The rows.
    fn unnumbered(&self, guard: Guard) -> String {
        self.subselect(guard, None)
    }

    /// `(SELECT unnest($1) AS c0, unnest($2) AS c1, …) AS u`. In FROM a function's values would be stored before they are read, each
    /// array's by themselves (`ExecMakeTableFunctionResult` in src/backend/executor/execSRF.c); in a list of targets each row is made when
    /// it is wanted.
    fn subselect(&self, guard: Guard, more: Option<String>) -> String {
        let names = (0..self.len()).map(|place| format!("c{place}"));
        let names = names.chain(Shape::more(guard).iter().map(|name| (*name).to_owned()));
        let unnested = |(place, name)| format!("pg_catalog.unnest({}) AS {name}", self.array(place));
        let targets: Vec<_> = names.enumerate().map(unnested).chain(more).collect();
        format!("(SELECT {}) AS u", targets.join(", "))
    }

    /// The parameter that is an array, of that place.
    fn array(&self, place: usize) -> String {
        let of = match self.is_of_type(place) {
            true => &self.table.columns[self.column(place)].sql_type,
            false => "pg_catalog.text",
        };
        format!("${}::{of}[]", place + 1)
    }

    fn key_matches(&self) -> String {
        let equals = |place: usize| &self.table.columns[self.column(place)].equals;
        let each = |place: usize| format!("t.{} {} {}", self.name(place), equals(place), self.value(place));
        (0..self.table.key.len()).map(each).collect::<Vec<_>>().join(" AND ")
    }

    /// The guard; its parameters follow the arrays: the horizon, whose age is taken once, and our origins.
    fn guard(&self, guard: Guard) -> String {
        let each = match guard {
            Guard::Locked => return String::new(),
            Guard::KnownEach => " OR t.xmin = u.known::pg_catalog.xid",
            Guard::Known => "",
        };
        let horizon = self.len() + Shape::more(guard).len() + 1;
        format!(
            " AND (pg_catalog.age(t.xmin) > (SELECT pg_catalog.age(${horizon}::pg_catalog.text::pg_catalog.xid)){each} \
             OR t.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid \
             OR (pg_catalog.pg_xact_commit_timestamp_origin(t.xmin)).roident = ANY(${}::pg_catalog.text::pg_catalog.oid[]))",
            horizon + 1
        )
    }

    fn more(guard: Guard) -> &'static [&'static str] {
        match guard {
            Guard::KnownEach => &["known"],
            Guard::Known | Guard::Locked => &[],
        }
    }
}

/// `UPDATE` of the rows whose keys are given, setting `columns`.
pub fn update(table: &Table, columns: &[usize], variant: Variant<'_>) -> String {
    let shape = Shape { table, others: columns, forms: variant.forms };
    let keys = table.key.len();
    let mut set: Vec<_> = (keys..shape.len()).map(|i| format!("{} = {}", shape.name(i), shape.value(i))).collect();
    // A key that is written another way (1.0, 1.00) is the same key, yet another text.
    let respelled = |i: &usize| table.columns[table.key[*i]].key_form != crate::model::KeyForm::Bytes;
    set.extend((0..keys).filter(respelled).map(|i| format!("{} = {}", shape.name(i), shape.value(i))));
    if set.is_empty() {
        // Nothing but the key: the row is right as it is. GENERATED ALWAYS columns take nothing but DEFAULT.
        let settable = |place: &usize| !table.columns[shape.column(*place)].identity_always;
        let Some(place) = (0..keys).find(settable) else { return find(&shape, variant.guard) };
        set.push(format!("{0} = t.{0}", shape.name(place)));
    }
    format!(
        "UPDATE {} AS t SET {} FROM {} WHERE {}{}{}",
        table.sql_only(),
        set.join(", "),
        shape.rows(variant),
        shape.key_matches(),
        shape.guard(variant.guard),
        variant.returning()
    )
}

/// The ordinals of the rows whose keys are given, and locks those.
fn find(shape: &Shape<'_>, guard: Guard) -> String {
    format!(
        "SELECT u.ord FROM {} AS t JOIN {} ON {}{} FOR NO KEY UPDATE OF t",
        shape.table.sql_only(),
        shape.numbered(guard),
        shape.key_matches(),
        shape.guard(guard)
    )
}

/// `DELETE` of the rows whose keys are given.
pub fn delete(table: &Table, variant: Variant<'_>) -> String {
    let shape = Shape { table, others: &[], forms: variant.forms };
    format!(
        "DELETE FROM {} AS t USING {} WHERE {}{}{}",
        table.sql_only(),
        shape.rows(variant),
        shape.key_matches(),
        shape.guard(variant.guard),
        variant.returning()
    )
}

/// `DELETE` of all rows but those whose keys are given.
pub fn delete_others(table: &Table) -> String {
    let shape = Shape { table, others: &[], forms: &[] };
    format!(
        "DELETE FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} WHERE {})",
        table.sql_only(),
        shape.unnumbered(Guard::Locked),
        shape.key_matches()
    )
}

/// What an insert does about a row that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnConflict {
    /// Leaves it, whatever unique index it stands in.
    Skip,
    /// Leaves it if it has the key; fails (23505) if it has another unique value.
    SkipKey,
}

/// `INSERT` of rows with the key and `columns`.
pub fn insert(table: &Table, columns: &[usize], on_conflict: OnConflict, forms: &[Form]) -> String {
    let shape = Shape { table, others: columns, forms };
    let names: Vec<_> = (0..shape.len()).map(|i| shape.name(i)).collect();
    let values: Vec<_> = (0..shape.len()).map(|i| shape.value(i)).collect();
    let overriding =
        if table.columns.iter().any(|column| column.identity_always) { " OVERRIDING SYSTEM VALUE" } else { "" };
    let on_conflict = match on_conflict {
        _ if table.key.is_empty() => String::new(),
        OnConflict::Skip => " ON CONFLICT DO NOTHING".to_owned(),
        OnConflict::SkipKey => format!(" ON CONFLICT ({}) DO NOTHING", names[..table.key.len()].join(", ")),
    };
    format!(
        "INSERT INTO {} ({}){overriding} SELECT {} FROM {}{on_conflict}",
        table.sql_name(),
        names.join(", "),
        values.join(", "),
        shape.unnumbered(Guard::Locked)
    )
}

/// The statement, with an error unless it touches as many rows as its parameter of that number says; one that explains itself
/// to who reads the server's log.
pub fn all_or_error(statement: &str, parameter: usize) -> String {
    let returning = if statement.starts_with("INSERT") { " RETURNING 1" } else { "" };
    format!(
        "WITH touched AS ({statement}{returning}) \
         SELECT CASE WHEN pg_catalog.count(*) = ${parameter}::pg_catalog.text::pg_catalog.int8 THEN 1 \
         ELSE ('pgconcord looks at each row again, of which this found ' || pg_catalog.count(*))::pg_catalog.int4 END \
         FROM touched"
    )
}

/// `COPY` of rows with the key and `columns`, in its text format or in the binary one.
pub fn copy(table: &Table, columns: &[usize], format: CopyFormat) -> String {
    let shape = Shape { table, others: columns, forms: &[] };
    let names: Vec<_> = (0..shape.len()).map(|i| shape.name(i)).collect();
    let format = match format {
        CopyFormat::Text => "",
        CopyFormat::Binary => " (FORMAT binary)",
    };
    format!("COPY {} ({}) FROM STDIN{format}", table.sql_name(), names.join(", "))
}

/// An error unless these columns and the key's have the types of the catalog, by which a COPY in binary was made: the server reads it
/// by whatever type a column has by now. To be asked behind that COPY, whose lock keeps the types as they are.
pub fn types_or_error(table: &Table, columns: &[usize]) -> String {
    let all = table.key.iter().chain(columns).map(|column| &table.columns[*column]);
    let expected = |column: &Column| {
        let (name, of_type) = (quote_literal(&column.name), quote_literal(&column.sql_type));
        format!("({name}::pg_catalog.name, {of_type}::pg_catalog.regtype::pg_catalog.oid)")
    };
    let expected: Vec<_> = all.map(expected).collect();
    format!(
        "WITH RECURSIVE found AS (SELECT a.attname AS name, a.atttypid AS type FROM pg_catalog.pg_attribute AS a \
         WHERE a.attrelid = {}::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped \
         UNION ALL SELECT f.name, y.typbasetype FROM found AS f JOIN pg_catalog.pg_type AS y ON y.oid = f.type WHERE y.typtype = 'd') \
         SELECT CASE WHEN pg_catalog.count(*) = {} THEN 1 ELSE ('pgconcord writes these rows without COPY, for a column has \
         another type than at its start; so many are as they were: ' || pg_catalog.count(*))::pg_catalog.int4 END \
         FROM found AS f JOIN (VALUES {}) AS e (name, type) ON f.name = e.name AND f.type = e.type",
        quote_literal(&table.sql_name()),
        expected.len(),
        expected.join(", ")
    )
}

/// The format of a COPY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyFormat {
    /// Lines.
    Text,
    /// Binary.
    Binary,
}

/// Locks the rows whose keys are given; returns the ordinal of each that is there, whether this transaction wrote it, and
/// `columns` as the types write them.
pub fn lock(table: &Table, columns: &[usize]) -> String {
    let shape = Shape { table, others: &[], forms: &[] };
    format!(
        "SELECT u.ord, t.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid{} FROM {} JOIN {} AS t ON {} \
         ORDER BY u.ord FOR NO KEY UPDATE OF t",
        listed(table, columns),
        shape.numbered(Guard::Locked),
        table.sql_only(),
        shape.key_matches()
    )
}

/// Reads all columns as text, after the ordinal, of the rows whose keys are given and that this transaction wrote: a
/// savepoint's writes have ids of their own, later than the transaction's.
pub fn written(table: &Table) -> String {
    let columns: Vec<usize> = (0..table.columns.len()).collect();
    format!(
        "{} WHERE pg_catalog.age(t.xmin) <= pg_catalog.age(pg_catalog.pg_current_xact_id()::pg_catalog.xid)",
        read(table, &columns)
    )
}

/// Reads `columns` of the rows whose keys are given, after the ordinal; as the types write them, which a cast to text is
/// not always (bool, inet).
pub fn read(table: &Table, columns: &[usize]) -> String {
    let shape = Shape { table, others: &[], forms: &[] };
    let texts = listed(table, columns);
    format!(
        "SELECT u.ord{texts} FROM {} JOIN {} AS t ON {}",
        shape.numbered(Guard::Locked),
        table.sql_only(),
        shape.key_matches()
    )
}

/// `, t.a, t.b`.
fn listed(table: &Table, columns: &[usize]) -> String {
    let mut texts = String::new();
    for column in columns {
        write!(texts, ", t.{}", quote_identifier(&table.columns[*column].name))
            .expect("writing to a String cannot fail");
    }
    texts
}

/// What text that passes as bytes is encoded in on a control connection. In SQL_ASCII it is no text in particular, and one
/// that speaks UTF-8 would have it refused.
const ENCODING: &str =
    "(CASE pg_catalog.getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END)::pg_catalog.name";

/// The parameter of that number, a text that passes as bytes.
pub fn from_bytes(number: usize) -> String {
    text_of_bytes(&format!("${number}"))
}

/// The text that these bytes are, given as a parameter or a literal of bytea.
pub fn text_of_bytes(bytes: &str) -> String {
    format!("pg_catalog.convert_from({bytes}::pg_catalog.bytea, {ENCODING})")
}

/// Reads `columns`, as bytes of their text, of the row whose key is given in parameters that pass as bytes, if the
/// transaction that follows them made its version, or if that is older than the horizon that comes last (never, if that is
/// NULL); both as bytes too.
pub fn read_known(table: &Table, columns: &[usize]) -> String {
    let text = |c: &usize| {
        let name = quote_identifier(&table.columns[*c].name);
        format!("pg_catalog.convert_to(t.{name}::pg_catalog.text, {ENCODING})")
    };
    let texts: Vec<_> = columns.iter().map(text).collect();
    let matches = |(i, c): (usize, &usize)| {
        let column = &table.columns[*c];
        format!("t.{} {} {}", quote_identifier(&column.name), column.equals, column.value(&from_bytes(i + 1)))
    };
    let matches: Vec<_> = table.key.iter().enumerate().map(matches).collect();
    format!(
        "SELECT {} FROM {} AS t WHERE {} \
         AND (t.xmin = {}::pg_catalog.xid OR pg_catalog.age(t.xmin) > pg_catalog.age({}::pg_catalog.xid))",
        texts.join(", "),
        table.sql_only(),
        matches.join(" AND "),
        from_bytes(table.key.len() + 1),
        from_bytes(table.key.len() + 2)
    )
}

/// An array of text in binary form.
pub fn text_array<'a>(cells: impl ExactSizeIterator<Item = Option<&'a [u8]>>) -> Vec<u8> {
    array(TEXT, cells, |text, out| {
        out.put_i32(i32::try_from(text.len()).expect("a value is at most 1 GB"));
        out.put_slice(text);
        Some(())
    })
    .expect("every text can be written")
}

/// An array of values of the type; `None` if it has no arrays of its own, or if a value can't be written so.
fn binary_array<'a>(of: BinaryType, cells: impl ExactSizeIterator<Item = Option<&'a [u8]>>) -> Option<Vec<u8>> {
    array(of.array()?.element, cells, |text, out| of.write(text, out))
}

/// An array in binary form, one dimension, from 1; `None` if `write` gives up.
/// <https://www.postgresql.org/docs/current/xtypes.html>, `array_recv` in src/backend/utils/adt/arrayfuncs.c
fn array<'a>(
    element: u32,
    cells: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
    write: impl Fn(&[u8], &mut Vec<u8>) -> Option<()>,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(20 + cells.len() * 12);
    if cells.len() == 0 {
        [0, 0, element].iter().for_each(|word| out.put_u32(*word));
        return Some(out);
    }
    let count = i32::try_from(cells.len()).expect("a set has far fewer than 2^31 rows");
    out.put_i32(1);
    out.put_i32(1); // there may be NULLs
    out.put_u32(element);
    out.put_i32(count);
    out.put_i32(1);
    for cell in cells {
        match cell {
            None => out.put_i32(-1),
            Some(text) => write(text, &mut out)?,
        }
    }
    Some(out)
}

/// A cell's text for an array.
pub fn text_of(cell: Option<Cell<'_>>) -> Option<&[u8]> {
    match cell {
        Some(Cell::Text(text) | Cell::Binary(text)) => Some(text),
        Some(Cell::Null | Cell::Unchanged) | None => None,
    }
}

/// Our origins' ids as the text of an `oid[]`.
pub fn oid_array(ids: &[u32]) -> String {
    let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// A transaction id as text.
pub fn xid_text(xid: Xid) -> String {
    xid.to_string()
}
