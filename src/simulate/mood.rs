//! How likely each step of a schedule is: drawn anew for each seed, so that schedules differ in kind.

use crate::simulate::Focus;
use crate::simulate::random::Random;

/// One step of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// An application begins a transaction.
    BeginLocal,
    /// One of them runs a statement or commits.
    StepLocal,
    /// A stream delivers.
    Deliver,
    /// The daemon does something at a target.
    StepJob,
    /// The daemon reads the guard's horizon.
    ReadHorizon,
    /// A server writes its log out.
    Flush,
    /// The daemon confirms and forgets what is stable.
    Forget,
    /// The daemon connects.
    Connect,
    /// The loser of a unique conflict is deleted at its home.
    SettleLoser,
    /// A connection is lost.
    LoseConnection,
    /// A server crashes.
    Crash,
    /// The daemon is killed and started again.
    Restart,
    /// A clock is set.
    StepClock,
    /// A server writes its slot's position out.
    SaveSlot,
}

const USUAL: [(Action, usize); 14] = [
    (Action::BeginLocal, 80),
    (Action::StepLocal, 150),
    (Action::Deliver, 190),
    (Action::StepJob, 380),
    (Action::ReadHorizon, 60),
    (Action::Flush, 30),
    (Action::Forget, 40),
    (Action::Connect, 40),
    (Action::SettleLoser, 15),
    (Action::LoseConnection, 3),
    (Action::Crash, 2),
    (Action::Restart, 2),
    (Action::StepClock, 4),
    (Action::SaveSlot, 4),
];

/// Without these the daemon would only fall behind.
fn keeps_up(action: Action) -> bool {
    matches!(action, Action::Deliver | Action::StepJob | Action::Connect | Action::StepLocal)
}

/// The weights of one schedule.
#[derive(Clone, Debug)]
pub struct Mood {
    weights: Vec<(Action, usize)>,
    /// How many of a thousand local commits do not wait for their flush.
    pub lazy_commits: usize,
    /// How many of a thousand times the daemon dies between confirming one slot and the next.
    pub torn: usize,
}

impl Mood {
    /// Draws one.
    pub fn new(focus: Focus, random: &mut Random) -> Mood {
        let starts = focus == Focus::Starts;
        let calm = focus == Focus::HotKey || !starts && random.permille(250);
        let weight = |action: Action, usual: usize, random: &mut Random| {
            let fault = matches!(action, Action::LoseConnection | Action::Crash | Action::Restart | Action::StepClock);
            match (fault, calm) {
                (true, true) => 0,
                (true, false) if starts => usual * 32,
                (false, _) if starts && matches!(action, Action::Forget | Action::SaveSlot) => usual * 16,
                (true, false) => usual * random.pick(&[0, 4, 8, 16]),
                (false, _) if matches!(action, Action::BeginLocal) => usual * random.pick(&[2, 4, 8]),
                (false, _) if keeps_up(action) => usual * random.pick(&[8, 16, 32]),
                (false, _) => usual * random.pick(&[1, 4, 16]),
            }
        };
        let weights = USUAL.iter().map(|(action, usual)| (*action, weight(*action, *usual, random))).collect();
        Mood { weights, lazy_commits: *random.pick(&[0, 100, 700]), torn: if calm { 0 } else { 20 } }
    }

    /// The next step.
    pub fn draw(&self, random: &mut Random) -> Action {
        let mut at = random.below(self.weights.iter().map(|(_, weight)| weight).sum());
        let chosen = self.weights.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.wrapping_sub(*weight);
            here
        });
        chosen.expect("the number is below the sum").0
    }
}
