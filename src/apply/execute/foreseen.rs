//! The batch after the one that is being written: its first piece, mostly all of it, is folded and made into statements meanwhile, on
//! another thread, so that the server need not wait for that. Nothing is decided.

use std::io;
use std::sync::Arc;

use crate::apply::batch::{Fetching, Pieces};
use crate::apply::execute::piece::Piece;
use crate::apply::manner::{Inserting, Manner, Mode};
use crate::apply::sets::Judging;
use crate::apply::shared::Shared;
use crate::conflict::Batch;
use crate::model::{Link, Resolvers};

/// A batch that will be next unless something happens.
#[derive(Debug)]
pub struct Foreseen {
    batch: Batch,
    resolvers: Arc<Resolvers>,
    inserting: Inserting,
    first: Fetching<Piece>,
}

impl Foreseen {
    /// What will come after the batch in flight if it is joined from at most `most` changes: if there is so little yet that more will
    /// have come by then, nothing.
    pub fn begin(shared: &Shared, link: Link, manner: Manner, most: u64) -> Option<Foreseen> {
        if manner.mode != Mode::Sets {
            return None;
        }
        let (batch, resolvers) = {
            let coordinator = shared.coordinator();
            (coordinator.foresee(link, most / 2, most)?, coordinator.resolvers().clone())
        };
        let (rules, inserting) = (resolvers.clone(), manner.inserting);
        let pieces = Pieces::new(&batch, shared.settings.batch_changes);
        let make = move |folded| Piece::of(folded, &rules, inserting, Judging::Told);
        Some(Foreseen { first: pieces.fetch(shared.catalog.hasher, make), batch, resolvers, inserting })
    }

    /// How many changes it has.
    pub fn changes(&self) -> u64 {
        self.batch.changes()
    }

    /// Whether it is this batch.
    pub fn is(&self, batch: &Batch) -> bool {
        let ours = &self.batch;
        let alike = ours.transactions.iter().zip(&batch.transactions).all(|(ours, other)| Arc::ptr_eq(ours, other));
        (ours.first, &ours.views) == (batch.first, &batch.views) && alike
    }

    /// The batch's first piece, and the walk after it; its statements only if they would be made alike now.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub(super) async fn first(
        self,
        resolvers: &Arc<Resolvers>,
        inserting: Inserting,
    ) -> io::Result<(Pieces, Option<Piece>)> {
        let is_so = Arc::ptr_eq(&self.resolvers, resolvers) && self.inserting == inserting;
        let (pieces, piece) = self.first.piece().await?;
        Ok((pieces, if is_so { piece } else { piece.map(|piece| Piece::plain(piece.folded)) }))
    }
}
