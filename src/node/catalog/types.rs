//! What the columns' types are made of, as far as it decides how values compare and whether nodes agree.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::model::{CaseMap, Input};
use crate::node::NodeError;

const TYPES: &str = include_str!("../../../sql/types.sql");
const CASE_MAP: &str = include_str!("../../../sql/case_map.sql");

/// A type under all domains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypeShape {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Both as SQL, quoted.
    pub sql_name: String,
    /// Its kind, with its parts.
    pub kind: TypeKind,
    /// The extension that brought it.
    pub extension: Option<String>,
    /// The schema of its `=`, quoted, if that is not `pg_catalog`.
    pub equality_schema: Option<String>,
    /// How its text becomes a value; the function of a cast that stands in the way of that.
    pub input: Result<Input, String>,
}

/// A type's kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TypeKind {
    /// A type of its own.
    Base,
    /// An enum, with its labels in order.
    Enum(Vec<String>),
    /// An array of these.
    Array(Arc<TypeShape>),
    /// A range over these, and whether its collation calls only equal bytes equal.
    Range(Arc<TypeShape>, Determinism),
    /// A multirange of that range.
    Multirange(Arc<TypeShape>),
    /// A composite type.
    Composite(Vec<Attribute>),
}

/// A column of a composite type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its type under all domains.
    pub shape: Arc<TypeShape>,
    /// Of its collation.
    pub collation: Determinism,
}

/// Whether a collation calls only equal bytes equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Determinism {
    /// It does, or the type has no collation.
    Deterministic,
    /// It may call other texts equal, such as "a" and "A".
    Nondeterministic,
}

impl Determinism {
    /// From `collisdeterministic`.
    pub fn of(deterministic: bool) -> Determinism {
        if deterministic { Determinism::Deterministic } else { Determinism::Nondeterministic }
    }
}

/// How `lower()` folds texts at a node, which is how `citext` compares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Folding {
    /// Character by character.
    ByCharacter(Arc<CaseMap>),
    /// In a way that depends on a character's neighbours: the reason.
    InContext(String),
}

impl TypeShape {
    /// The type and all that it is made of.
    pub fn any(&self, test: &impl Fn(&TypeShape) -> bool) -> bool {
        test(self)
            || match &self.kind {
                TypeKind::Base | TypeKind::Enum(_) => false,
                TypeKind::Array(part) | TypeKind::Range(part, _) | TypeKind::Multirange(part) => part.any(test),
                TypeKind::Composite(attributes) => attributes.iter().any(|attribute| attribute.shape.any(test)),
            }
    }

    /// Of an extension's type by its extension and name.
    pub fn is_of(&self, extension: &str, name: &str) -> bool {
        self.extension.as_deref() == Some(extension) && self.name == name
    }

    /// Where this type's values would mean something else as values of `other`; labels of enums are not looked at.
    pub fn difference(&self, other: &TypeShape) -> Option<String> {
        if (&self.schema, &self.name) != (&other.schema, &other.name) {
            return Some(format!("{} here and {} there", self.sql_name, other.sql_name));
        }
        match (&self.kind, &other.kind) {
            (TypeKind::Base, TypeKind::Base) | (TypeKind::Enum(_), TypeKind::Enum(_)) => None,
            (TypeKind::Array(mine), TypeKind::Array(theirs))
            | (TypeKind::Range(mine, _), TypeKind::Range(theirs, _))
            | (TypeKind::Multirange(mine), TypeKind::Multirange(theirs)) => mine.difference(theirs),
            (TypeKind::Composite(mine), TypeKind::Composite(theirs)) => {
                let names = |of: &[Attribute]| of.iter().map(|each| each.name.clone()).collect::<Vec<_>>();
                let (mine_names, their_names) = (names(mine), names(theirs));
                if mine_names != their_names {
                    let (here, there) = (mine_names.join(", "), their_names.join(", "));
                    return Some(format!("{} with the columns ({here}) here and ({there}) there", self.sql_name));
                }
                mine.iter().zip(theirs).find_map(|(mine, theirs)| {
                    let found = mine.shape.difference(&theirs.shape)?;
                    Some(format!("{}.{}: {found}", self.sql_name, mine.name))
                })
            }
            _ => Some(format!("{} of another kind", self.sql_name)),
        }
    }

    /// Every enum in it, by name.
    pub fn enums<'a>(&'a self, found: &mut Vec<&'a TypeShape>) {
        match &self.kind {
            TypeKind::Base => {}
            TypeKind::Enum(_) => found.push(self),
            TypeKind::Array(part) | TypeKind::Range(part, _) | TypeKind::Multirange(part) => part.enums(found),
            TypeKind::Composite(attributes) => attributes.iter().for_each(|attribute| attribute.shape.enums(found)),
        }
    }
}

/// Reads the types and all that they are made of, by OID.
pub(super) async fn read(client: &Client, types: &[u32]) -> Result<HashMap<u32, Arc<TypeShape>>, NodeError> {
    let rows =
        client.query_typed(TYPES, &[(&types, Type::OID_ARRAY)]).await.map_err(NodeError::doing("read the types"))?;
    let rows: HashMap<u32, Row> = rows.into_iter().map(|row| (row.get("oid"), row)).collect();
    if let Some(gone) = types.iter().find(|oid| !rows.contains_key(oid)) {
        let what = format!("a type ({gone}) was dropped while the tables were read: try again");
        return Err(NodeError::Operator(what));
    }
    let mut read = HashMap::new();
    types.iter().for_each(|oid| drop(build(*oid, &rows, &mut read)));
    Ok(read)
}

/// Types can't contain themselves: the server refuses that.
fn build(oid: u32, rows: &HashMap<u32, Row>, read: &mut HashMap<u32, Arc<TypeShape>>) -> Arc<TypeShape> {
    if let Some(shape) = read.get(&oid) {
        return shape.clone();
    }
    let row = &rows[&oid];
    let oid_at = |column: &str| Some(row.get::<_, u32>(column)).filter(|oid| *oid != 0);
    let shape = if row.get::<_, &str>("kind") == "d" {
        build(row.get("base"), rows, read)
    } else {
        let bound = oid_at("bound").map(|bound| build(bound, rows, read));
        let element = oid_at("element").map(|element| build(element, rows, read));
        let kind = match (row.get("kind"), bound, element) {
            ("e", ..) => TypeKind::Enum(row.get("labels")),
            ("c", ..) => TypeKind::Composite(attributes(row, rows, read)),
            ("r", Some(bound), _) => TypeKind::Range(bound, Determinism::of(row.get("deterministic"))),
            ("m", Some(bound), _) => TypeKind::Multirange(bound),
            (_, _, Some(element)) => TypeKind::Array(element),
            _ => TypeKind::Base,
        };
        Arc::new(TypeShape {
            schema: row.get("schema"),
            name: row.get("name"),
            sql_name: row.get("sql_name"),
            kind,
            extension: row.get("extension"),
            equality_schema: row.get("equality_schema"),
            input: input(row),
        })
    };
    read.insert(oid, shape.clone());
    shape
}

fn input(row: &Row) -> Result<Input, String> {
    let cast: Option<String> = row.get("text_cast");
    match (row.get("schema"), row.get("name"), cast) {
        ("pg_catalog", "char", _) => Ok(Input::Char),
        // these casts do what the input function does
        ("pg_catalog", "name" | "xml", _) | (_, _, None) => Ok(Input::Text),
        (_, _, Some(function)) if row.get("blank_cast") => Err(function),
        (_, _, Some(_)) => Ok(Input::Blank),
    }
}

fn attributes(row: &Row, rows: &HashMap<u32, Row>, read: &mut HashMap<u32, Arc<TypeShape>>) -> Vec<Attribute> {
    let (names, types): (Vec<String>, Vec<u32>) = (row.get("attributes"), row.get("attribute_types"));
    let deterministic: Vec<bool> = row.get("attributes_deterministic");
    let each = names.into_iter().zip(types).zip(deterministic);
    each.map(|((name, oid), deterministic)| Attribute {
        name,
        shape: build(oid, rows, read),
        collation: Determinism::of(deterministic),
    })
    .collect()
}

#[cfg(test)]
impl TypeShape {
    /// A base type, for tests.
    pub fn base(schema: &str, name: &str) -> TypeShape {
        TypeShape {
            schema: schema.to_owned(),
            name: name.to_owned(),
            sql_name: format!("{schema}.{name}"),
            kind: TypeKind::Base,
            extension: None,
            equality_schema: None,
            input: Ok(Input::Text),
        }
    }
}

/// How the node folds `citext`.
pub(super) async fn folding(client: &Client) -> Result<Folding, NodeError> {
    let doing = NodeError::doing("read how texts are folded to lower case");
    // By way of JSON: the column is there from 15 on, and before that there was libc only.
    let query = "SELECT pg_encoding_to_char(d.encoding)::text AS encoding, \
        COALESCE(to_jsonb(d) ->> 'datlocprovider', 'c') AS provider, \
        COALESCE(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', '') AS locale \
        FROM pg_database d WHERE d.datname = current_database()";
    let row = client.query_one(query, &[]).await.map_err(&doing)?;
    let (encoding, provider, locale): (String, String, String) =
        (row.get("encoding"), row.get("provider"), row.get("locale"));
    match provider.as_str() {
        "i" => return Ok(Folding::InContext(format!("the database's locale {locale} is ICU's"))),
        "b" if locale == "PG_UNICODE_FAST" => {
            return Ok(Folding::InContext(format!("the database's locale is {locale}")));
        }
        _ => {}
    }
    let last: i32 = match encoding.as_str() {
        "UTF8" => 0x10_FFFF,
        "LATIN1" => 255,
        _ => return Ok(Folding::InContext(format!("the database's encoding is {encoding}"))),
    };
    let rows = client.query(CASE_MAP, &[&last]).await.map_err(&doing)?;
    let pair = |row: &Row| Some((row.get::<_, String>("upper").chars().next()?, row.get("lower")));
    Ok(Folding::ByCharacter(Arc::new(CaseMap::new(rows.iter().filter_map(pair)))))
}
