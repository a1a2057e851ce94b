//! A table as one node's system catalog describes it, before anything is decided about it.

use crate::model::IndexRule;
use crate::model::table::quote_identifier;
use crate::node::catalog::types::{Determinism, Folding, TypeShape};

/// One table at one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableShape {
    /// Its OID there.
    pub oid: u32,
    /// Schema, unquoted.
    pub schema: String,
    /// Name, unquoted.
    pub name: String,
    /// What it is.
    pub kind: TableKind,
    /// The configuration wants its inserts, and nothing else.
    pub insert_only: bool,
    /// REPLICA IDENTITY.
    pub identity: ReplicaIdentity,
    /// Of a partition, the `pg_class.oid` of each partitioned table that it is a part of.
    pub partition_of: Vec<u32>,
    /// Of a partitioned table, the partitions that hold rows.
    pub leaves: Vec<LeafShape>,
    /// In the cluster's publication at this node.
    pub published: bool,
    /// What the connected role lacks there: SELECT, INSERT, UPDATE, DELETE, TRUNCATE, USAGE of the schema.
    pub missing_privileges: Vec<String>,
    /// The connected role may act as the owner.
    pub owned: bool,
    /// The owner's name.
    pub owner: String,
    /// The owner is superuser, so nobody should be made a member of it.
    pub owner_is_superuser: bool,
    /// Row level security.
    pub row_security: RowSecurity,
    /// In order, generated ones included.
    pub columns: Vec<ColumnShape>,
    /// Its unique indexes, the primary key first.
    pub indexes: Vec<IndexShape>,
}

/// What kind of relation a table is, as far as replication cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableKind {
    /// An ordinary table by itself.
    Plain,
    /// Ordinary, but its contents are not logged, so nothing of it reaches a stream.
    Unlogged,
    /// Partitioned: the rows are in its partitions.
    Partitioned,
    /// Of a foreign server.
    Foreign,
    /// Created by an extension.
    Extension,
}

/// A partition that holds rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeafShape {
    /// Schema-qualified, quoted where needed.
    pub name: String,
    /// A table of a foreign server.
    pub is_foreign: bool,
    /// Not logged.
    pub is_unlogged: bool,
    /// What its old tuples hold; that of the root does not count.
    pub identity: ReplicaIdentity,
}

/// What row level security does to the connected role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowSecurity {
    /// There is none.
    Off,
    /// There is, and the role may pass it by.
    Bypassed,
    /// Rows are hidden from the role.
    Active,
}

/// What a table's old tuples hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// The columns of a chosen index.
    Index,
    /// All columns.
    Full,
    /// Nothing: updates and deletes can't be published.
    Nothing,
}

/// One column at one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnShape {
    /// Its name.
    pub name: String,
    /// As `format_type` shows it, with modifier: `character varying(10)`.
    pub shown_type: String,
    /// The type has a modifier, or a domain among its types has.
    pub has_modifier: bool,
    /// The type under all domains.
    pub base: TypeShape,
    /// How the node folds citext, where the type has to do with that.
    pub folding: Option<Folding>,
    /// NOT NULL.
    pub not_null: bool,
    /// A domain among its types is NOT NULL. The server makes no promise that there is no NULL then, so a key needs more.
    pub domain_not_null: bool,
    /// An INSERT that leaves it out gives it a value: it has a default, or its domain has, or it is an identity column.
    pub has_default: bool,
    /// Computed from others; does not replicate.
    pub generated: bool,
    /// GENERATED ALWAYS AS IDENTITY.
    pub identity_always: bool,
    /// Of the column's collation.
    pub collation: Determinism,
}

/// One unique index at one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexShape {
    /// Its name.
    pub name: String,
    /// The constraint that it stands for.
    pub constraint: Option<String>,
    /// The primary key.
    pub is_primary: bool,
    /// Chosen by REPLICA IDENTITY USING INDEX.
    pub is_identity: bool,
    /// Checked at once, not DEFERRABLE.
    pub immediate: bool,
    /// Whether it is a plain index over columns, and if not, why.
    pub odd: Option<&'static str>,
    /// Its CREATE INDEX CONCURRENTLY succeeded.
    pub valid: bool,
    /// An exclusion constraint's.
    pub is_exclusion: bool,
    /// What two rows must not both have.
    pub rule: IndexRule,
    /// Every column that it looks at.
    pub looks_at: Vec<String>,
    /// NULLS NOT DISTINCT.
    pub nulls_not_distinct: bool,
    /// The statement that makes it.
    pub definition: String,
    /// Its key columns in order; those of an expression are left out.
    pub columns: Vec<String>,
}

impl ReplicaIdentity {
    /// From `pg_class.relreplident`.
    pub fn of_letter(letter: &str) -> ReplicaIdentity {
        match letter {
            "d" => ReplicaIdentity::Default,
            "i" => ReplicaIdentity::Index,
            "f" => ReplicaIdentity::Full,
            _ => ReplicaIdentity::Nothing,
        }
    }
}

impl TableShape {
    /// `schema.name`, for people.
    pub fn shown(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// `"schema"."name"`, for statements.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&ColumnShape> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns that replicate.
    pub fn replicated_columns(&self) -> impl Iterator<Item = &ColumnShape> {
        self.columns.iter().filter(|column| !column.generated)
    }

    /// The index that identifies rows: what REPLICA IDENTITY says, the primary key under FULL.
    pub fn key_index(&self) -> Option<&IndexShape> {
        match self.identity {
            ReplicaIdentity::Index => self.indexes.iter().find(|index| index.is_identity),
            ReplicaIdentity::Default | ReplicaIdentity::Full | ReplicaIdentity::Nothing => {
                self.indexes.iter().find(|index| index.is_primary)
            }
        }
    }
}

impl ColumnShape {
    /// An INSERT may leave it out.
    pub fn does_without(&self) -> bool {
        !(self.not_null || self.domain_not_null) || self.has_default || self.generated
    }
}

impl IndexShape {
    /// Its columns quoted, with commas between.
    pub fn columns_sql(&self) -> String {
        self.columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
impl ColumnShape {
    /// A plain NOT NULL column, for tests.
    pub fn of(name: &str, shown_type: &str, sql_type: &str) -> ColumnShape {
        ColumnShape {
            name: name.to_owned(),
            shown_type: shown_type.to_owned(),
            has_modifier: shown_type.contains('('),
            base: sql_type.split_once('.').map(|(schema, name)| TypeShape::base(schema, name)).expect("schema.name"),
            folding: None,
            not_null: true,
            domain_not_null: false,
            has_default: false,
            generated: false,
            identity_always: false,
            collation: Determinism::Deterministic,
        }
    }
}

#[cfg(test)]
impl IndexShape {
    /// A plain unique index, for tests.
    pub fn of(name: &str, columns: &[&str]) -> IndexShape {
        IndexShape {
            name: name.to_owned(),
            constraint: None,
            is_primary: false,
            is_identity: false,
            immediate: true,
            odd: None,
            valid: true,
            is_exclusion: false,
            rule: IndexRule::default(),
            looks_at: columns.iter().map(|column| (*column).to_owned()).collect(),
            nulls_not_distinct: false,
            definition: format!("CREATE UNIQUE INDEX {name} ON public.t ({})", columns.join(", ")),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        }
    }
}

#[cfg(test)]
impl TableShape {
    /// `public.t (id integer PRIMARY KEY, name text)`, for tests.
    pub fn sample() -> TableShape {
        TableShape {
            oid: 1,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            kind: TableKind::Plain,
            insert_only: false,
            identity: ReplicaIdentity::Default,
            partition_of: Vec::new(),
            leaves: Vec::new(),
            published: false,
            missing_privileges: Vec::new(),
            owned: true,
            owner: "app".to_owned(),
            owner_is_superuser: false,
            row_security: RowSecurity::Off,
            columns: vec![
                ColumnShape::of("id", "integer", "pg_catalog.int4"),
                ColumnShape { not_null: false, ..ColumnShape::of("name", "text", "pg_catalog.text") },
            ],
            indexes: vec![IndexShape {
                is_primary: true,
                constraint: Some("t_pkey".to_owned()),
                ..IndexShape::of("t_pkey", &["id"])
            }],
        }
    }
}
