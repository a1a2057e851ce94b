//! Medians and ratios: as a table, as JSON, as a chart.

use std::collections::BTreeMap;
use std::fmt::Write;

use pgconcord::throwaway::Binaries;
use serde::Serialize;
use serde_json::json;

use crate::contender::Contender;
use crate::measure::Measured;
use crate::workload::Workload;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Of what.
    pub workload: &'static str,
    /// Of whom.
    pub contender: Contender,
    /// The backlog's size.
    pub size: u64,
    /// Rows that it changes.
    pub rows: u64,
    /// What it came to.
    pub measured: Measured,
}

/// All runs.
#[derive(Debug)]
pub struct Report {
    postgres: u32,
    scale: f64,
    cores: usize,
    runs: Vec<Run>,
}

/// The runs of one contender in one workload.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    runs: usize,
    /// s
    median: f64,
    least: f64,
    most: f64,
    /// The median of native's runs divided by this one: above 1 is faster.
    ratio: Option<f64>,
    rows_per_second: f64,
    /// CPU, s per million rows: of the source, the target, the daemon.
    cpu_source: f64,
    cpu_target: f64,
    cpu_daemon: f64,
    /// The most of all runs, MiB.
    memory: f64,
}

impl Report {
    /// Without runs.
    pub fn new(binaries: &Binaries, scale: f64) -> Report {
        let cores = std::thread::available_parallelism().map_or(0, Into::into);
        Report { postgres: binaries.major(), scale, cores, runs: Vec::new() }
    }

    /// What was compared, and what the columns are.
    pub fn heading(&self) -> String {
        format!(
            "PostgreSQL {}, {} cores, scale {}. Seconds from the start until the last row is seen: median (least to most);\n\
             ratio: native's median divided by this one; CPU seconds per million rows at source and target and of the daemon.\n",
            self.postgres, self.cores, self.scale
        )
    }

    /// Adds a run.
    pub fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    fn row(&self, workload: &str, contender: Contender) -> Option<Row> {
        let of = |contender| self.runs.iter().filter(move |run| run.workload == workload && run.contender == contender);
        let column = |contender, value: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = of(contender).map(|run| value(&run.measured)).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let seconds = column(contender, |measured| measured.seconds);
        let rows = of(contender).next()?.rows as f64;
        let median = median(&seconds)?;
        let per_million =
            |value: fn(&Measured) -> f64| self::median(&column(contender, value)).unwrap_or(0.0) / rows * 1e6;
        Some(Row {
            runs: seconds.len(),
            median,
            least: *seconds.first()?,
            most: *seconds.last()?,
            ratio: self::median(&column(Contender::Native, |measured| measured.seconds)).map(|native| native / median),
            rows_per_second: rows / median,
            cpu_source: per_million(|measured| measured.cpu_source),
            cpu_target: per_million(|measured| measured.cpu_target),
            cpu_daemon: per_million(|measured| measured.cpu_daemon),
            memory: column(contender, |measured| measured.memory).last().copied().unwrap_or(0.0),
        })
    }

    /// One workload's rows.
    pub fn lines(&self, workload: &Workload) -> String {
        let size = self.runs.iter().find(|run| run.workload == workload.name).map_or(0, |run| run.size);
        let mut text = format!("{} {size} {}\n", workload.name, workload.what);
        for contender in Contender::ALL {
            let Some(row) = self.row(workload.name, contender) else { continue };
            let ratio = row.ratio.map_or_else(|| "    -".to_owned(), |ratio| format!("{ratio:5.2}"));
            let Row { median, least, most, cpu_source, cpu_target, cpu_daemon, memory, .. } = row;
            let cpu = format!("{cpu_source:6.2} {cpu_target:6.2} {cpu_daemon:6.2}");
            writeln!(
                text,
                "    {:10} {median:7.2} ({least:.2} to {most:.2})  ratio {ratio}  cpu {cpu}  {memory:4.0} MiB",
                contender.name()
            )
            .expect("a String");
        }
        text
    }

    fn rows(&self) -> BTreeMap<&'static str, BTreeMap<&'static str, Row>> {
        let mut all: BTreeMap<&'static str, BTreeMap<&'static str, Row>> = BTreeMap::new();
        for run in &self.runs {
            let row = self.row(run.workload, run.contender);
            all.entry(run.workload).or_default().extend(row.map(|row| (run.contender.name(), row)));
        }
        all
    }

    /// Everything, for machines.
    ///
    /// # Errors
    /// None: numbers and names can be written.
    pub fn json(&self) -> serde_json::Result<String> {
        let runs: Vec<_> = self
            .runs
            .iter()
            .map(|run| {
                json!({"workload": run.workload, "contender": run.contender.name(), "size": run.size, "rows": run.rows,
                       "measured": run.measured})
            })
            .collect();
        let all = json!({"postgresql": self.postgres, "cores": self.cores, "scale": self.scale,
                         "medians": self.rows(), "runs": runs});
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }

    /// The ratios as bars; native's own line is at 1.
    pub fn svg(&self) -> String {
        const LEFT: f64 = 60.0;
        const UNIT: f64 = 120.0;
        const BAR: f64 = 14.0;
        const GAP: f64 = 16.0;
        const TOP: f64 = 34.0;
        let rows = self.rows();
        let shown = |contender: &Contender| *contender != Contender::Native;
        let bars = Contender::ALL.iter().filter(|contender| shown(contender)).count() as f64;
        let most = rows.values().flat_map(BTreeMap::values).filter_map(|row| row.ratio).fold(1.5, f64::max);
        let height = TOP + rows.len() as f64 * (bars * BAR + GAP) + 6.0;
        let width = LEFT + (most + 0.5) * UNIT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"8\" y=\"18\">times as fast as the server's own logical replication, PostgreSQL {}</text>\n",
            self.postgres
        );
        let mut y = TOP;
        for (workload, of) in &rows {
            let middle = y + bars * BAR / 2.0 + 4.0;
            writeln!(svg, "<text x=\"8\" y=\"{middle:.0}\">{workload}</text>").expect("a String");
            for contender in Contender::ALL.iter().filter(|contender| shown(contender)) {
                if let Some(ratio) = of.get(contender.name()).and_then(|row| row.ratio) {
                    let colour = if *contender == Contender::Pgconcord { "#1f6feb" } else { "#b0b7c0" };
                    let (end, base) = (ratio * UNIT, y + BAR - 3.0);
                    writeln!(
                        svg,
                        "<rect x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{end:.0}\" height=\"{:.0}\" fill=\"{colour}\"/>\
                         <text x=\"{:.0}\" y=\"{base:.0}\">{ratio:.2} {}</text>",
                        BAR - 2.0,
                        LEFT + end + 4.0,
                        contender.name()
                    )
                    .expect("a String");
                }
                y += BAR;
            }
            y += GAP;
        }
        let one = LEFT + UNIT;
        writeln!(
            svg,
            "<line x1=\"{one:.0}\" y1=\"{:.0}\" x2=\"{one:.0}\" y2=\"{:.0}\" stroke=\"#d1242f\"/>\n</svg>",
            TOP - 8.0,
            height - 6.0
        )
        .expect("a String");
        svg
    }
}

pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
