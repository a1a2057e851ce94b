//! Which of two rows keeps a unique value: `unique`.

use crate::config::reader::{Section, suggestion};
use crate::config::report::Problem;
use crate::config::rules::Afterwards;
use crate::config::rules::resolve::{self, ERROR, HOLD, ORIGIN_PRIORITY, Order};
use crate::model::UniqueWinner;

const LAST_UPDATE_WINS: &str = "last_update_wins";
/// What `unique` may be.
const NAMES: [&str; 4] = [LAST_UPDATE_WINS, ORIGIN_PRIORITY, HOLD, ERROR];

/// Reads it; `None` also with a problem noted.
pub(super) fn read(
    section: &mut Section<'_>,
    order: &Order,
    nodes: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<(UniqueWinner, Afterwards)> {
    let typed = section.text("unique", problems)?;
    let winner = match typed.value.as_str() {
        LAST_UPDATE_WINS | HOLD | ERROR => Some(UniqueWinner::LastUpdateWins),
        ORIGIN_PRIORITY => order.whole(&typed, nodes, problems).map(UniqueWinner::OriginPriority),
        "rename" => {
            let help = "write rename = { email = \"email || '.' || id\" }: what the row gets that loses its value";
            problems.push(Problem::error(typed.span.clone(), "`unique` says which row keeps a value").help(help));
            None
        }
        other => {
            let help = suggestion(other, &NAMES);
            let title = format!("which row keeps a unique value can't be told by {other:?}");
            problems.push(Problem::error(typed.span.clone(), title).help(help));
            None
        }
    };
    Some((winner?, resolve::afterwards(section, Some(&typed), problems)))
}
