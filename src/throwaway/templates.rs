//! Database clusters that those of servers are copied from: to initialise one takes two to three times as long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Binaries;

/// For each version as many as servers have existed at a time: copies of one have the same system identifier, and no two servers at
/// a time may have that.
#[derive(Debug, Default)]
pub(super) struct Templates(Mutex<Vec<Template>>);

#[derive(Debug)]
struct Template {
    binaries: Binaries,
    lent: bool,
}

/// A template that nobody else has meanwhile.
#[derive(Debug)]
pub(super) struct Lease {
    templates: Arc<Templates>,
    number: usize,
}

impl Templates {
    /// One of these binaries, which may have to be initialised first.
    pub fn lend(self: &Arc<Templates>, binaries: &Binaries) -> Lease {
        let mut templates = self.lock();
        let free = templates.iter().position(|each| !each.lent && each.binaries == *binaries);
        let number = free.unwrap_or_else(|| {
            templates.push(Template { binaries: binaries.clone(), lent: false });
            templates.len() - 1
        });
        templates[number].lent = true;
        Lease { templates: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Template>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The name of its directory.
    pub fn name(&self) -> String {
        format!("template-{}", self.number)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.templates.lock()[self.number].lent = false;
    }
}
