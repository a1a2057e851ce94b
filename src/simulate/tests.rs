//! The properties, and that the simulation can fail.

use super::*;

fn failing(nodes: usize, seeds: std::ops::Range<u64>, change: impl Fn(&mut Settings)) -> Vec<u64> {
    let settings = |seed| {
        let mut settings = Settings::new(nodes, seed);
        change(&mut settings);
        settings
    };
    seeds.filter(|seed| !matches!(run(&settings(*seed)), Ok(_) | Err((Failure::Held { .. }, _)))).collect()
}

#[test]
fn probe() {
    let var = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (nodes, first, count) = (var("NODES", 2) as usize, var("FIRST", 0), var("COUNT", 300));
    if let Ok(seed) = std::env::var("PGCONCORD_SEED") {
        let mut settings = Settings::new(nodes, seed.parse().unwrap());
        settings.story = true;
        match std::env::var("FOCUS").as_deref() {
            Ok("N") => settings.focus = Focus::Nothing,
            Ok("S") => settings.focus = Focus::Starts,
            Ok("T") => settings.focus = Focus::Toast,
            Ok("X") => settings.focus = Focus::Truncations,
            _ => {}
        }
        match run(&settings) {
            Ok(tally) => println!("{tally:?}"),
            Err((failure, story)) => {
                story.iter().for_each(|line| println!("{line}"));
                println!("{failure}");
            }
        }
        return;
    }
    let start = std::time::Instant::now();
    let mut kinds: std::collections::BTreeMap<String, Vec<u64>> = Default::default();
    let mut total = Tally::default();
    for seed in first..first + count {
        let mut settings = Settings::new(nodes, seed);
        match std::env::var("FOCUS").as_deref() {
            Ok("N") => settings.focus = Focus::Nothing,
            Ok("S") => settings.focus = Focus::Starts,
            Ok("T") => settings.focus = Focus::Toast,
            Ok("X") => settings.focus = Focus::Truncations,
            _ => {}
        }
        let outcome = std::panic::catch_unwind(|| run(&settings));
        match outcome {
            Ok(Ok(tally)) => {
                total.decisions += tally.decisions;
                total.conflicts += tally.conflicts;
                total.transactions += tally.transactions;
            }
            Ok(Err((failure, _))) => {
                let kind = format!("{failure:?}").split([' ', '(']).next().unwrap().to_owned();
                kinds.entry(kind).or_default().push(seed);
            }
            Err(_) => kinds.entry("Panic".into()).or_default().push(seed),
        }
    }
    println!("{total:?} in {:?}", start.elapsed());
    for (kind, seeds) in kinds {
        println!("{kind}: {} {:?}", seeds.len(), &seeds[..seeds.len().min(12)]);
    }
    let _ = failing(2, 0..0, |_| {});
}

#[test]
fn sensitivity() {
    use Mutation::*;
    let all = [
        NoGuard,
        NoReopen,
        NoBarrier,
        ForgetAtOnce,
        ForgetMarks,
        Pairwise,
        ResumeAtOnce,
        AnyBody,
        LeftOutInDoubt,
        SlotsAlone,
        UnsettledLosers,
        RewrittenIsSafe,
        SurvivorsLater,
    ];
    for (mutation, focus) in
        all.into_iter().flat_map(|m| [Focus::Nothing, Focus::Truncations, Focus::Toast, Focus::Starts].map(|f| (m, f)))
    {
        for nodes in [2, 3, 4] {
            let start = std::time::Instant::now();
            let bad = failing(nodes, 0..2000, |settings| (settings.mutation, settings.focus) = (Some(mutation), focus));
            println!(
                "{mutation:?} {nodes}: {} of 2000 {:?} {:?}",
                bad.len(),
                &bad[..bad.len().min(5)],
                start.elapsed()
            );
        }
    }
}
