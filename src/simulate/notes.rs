//! The text to which changes append, as a few numbers, so that a row stays a plain value.

use std::fmt;
use std::io;

use crate::model::ColumnMerge;

/// From so many entries on an edit begins anew.
const FULL: usize = 8;
/// What four nodes together make of full texts.
const MOST: usize = 4 * FULL;

/// Entries in order; each number is given once.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Notes {
    entries: [u32; MOST],
    count: usize,
}

impl Notes {
    /// The entries.
    pub fn entries(&self) -> &[u32] {
        &self.entries[..self.count]
    }

    /// Whether the entry is there.
    pub fn has(&self, entry: u32) -> bool {
        self.entries().contains(&entry)
    }

    /// With one more entry at the end; `None` if there is no room.
    pub fn with(mut self, entry: u32) -> Option<Notes> {
        *self.entries.get_mut(self.count)? = entry;
        self.count += 1;
        Some(self)
    }

    /// What a user makes of it who has something to add: mostly he does, now and then he clears, shortens or replaces it.
    pub fn edited(self, entry: u32) -> Notes {
        let kept = match entry % 16 {
            0 => return Notes::default(),
            1 => self.entries().get(1..).unwrap_or_default(),
            2 => &[],
            _ => self.entries(),
        };
        let kept = if kept.len() < FULL { kept } else { &[] };
        kept.iter().chain([&entry]).fold(Notes::default(), |notes, entry| notes.with(*entry).unwrap_or(notes))
    }

    /// As a column has it: NULL if there is no entry, else a line each.
    pub fn text(&self) -> Option<String> {
        let entries: Vec<String> = self.entries().iter().map(u32::to_string).collect();
        (!entries.is_empty()).then(|| entries.join(ColumnMerge::NEW_LINE))
    }

    /// Of such a text.
    ///
    /// # Errors
    /// If it has too many entries, or one is no number.
    pub fn read(text: Option<&[u8]>) -> io::Result<Notes> {
        let Some(text) = text else { return Ok(Notes::default()) };
        let text = std::str::from_utf8(text).map_err(io::Error::other)?;
        text.split(ColumnMerge::NEW_LINE).try_fold(Notes::default(), |notes, entry| {
            let entry = entry.parse().map_err(io::Error::other)?;
            notes.with(entry).ok_or_else(|| io::Error::other("more entries than four nodes can make"))
        })
    }
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries().fmt(f)
    }
}
