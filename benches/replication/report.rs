//! Medians and ratios: as a table, as JSON, as a chart.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::contender::Contender;
use crate::measure::Measured;
use crate::plan::Plan;

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Of what: a workload, and under which circumstances if there are several.
    pub workload: String,
    /// Of whom: a contender, and where it is if it can be in several places.
    pub contender: &'static str,
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
    nodes: usize,
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
    /// This median divided by that of decode alone.
    of_decode: Option<f64>,
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
    pub fn new(plan: &Plan) -> Report {
        let cores = cores();
        Report { postgres: plan.binaries.major(), scale: plan.scale, nodes: plan.nodes, cores, runs: Vec::new() }
    }

    /// What was compared, and what the columns are.
    pub fn heading(&self) -> String {
        format!(
            "PostgreSQL {}, {} nodes, {} cores, scale {}. Seconds from the start until the last row is seen: median (least to most);\n\
             ratio: native's median divided by this one; CPU seconds per million rows at source and target and of the daemon.\n",
            self.postgres, self.nodes, self.cores, self.scale
        )
    }

    /// Adds a run.
    pub fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    fn of<'a>(&'a self, workload: &'a str, contender: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| run.workload == workload && run.contender == contender)
    }

    /// The values of one contender's runs in one workload, the least first.
    fn column(&self, workload: &str, contender: &str, value: fn(&Measured) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.of(workload, contender).map(|run| value(&run.measured)).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The median of the seconds of one contender's runs in one workload.
    pub fn seconds(&self, workload: &str, contender: &str) -> Option<f64> {
        median(&self.column(workload, contender, |measured| measured.seconds))
    }

    fn row(&self, workload: &str, contender: &str) -> Option<Row> {
        let column = |value| self.column(workload, contender, value);
        let seconds = column(|measured| measured.seconds);
        let rows = self.of(workload, contender).next()?.rows as f64;
        let median = median(&seconds)?;
        let per_million = |value: fn(&Measured) -> f64| self::median(&column(value)).unwrap_or(0.0) / rows * 1e6;
        let beside = |other: Contender| self.seconds(workload, other.name()).filter(|_| contender != other.name());
        Some(Row {
            runs: seconds.len(),
            median,
            least: *seconds.first()?,
            most: *seconds.last()?,
            ratio: self.seconds(workload, Contender::Native.name()).map(|native| native / median),
            of_decode: beside(Contender::Decode).map(|decode| median / decode),
            rows_per_second: rows / median,
            cpu_source: per_million(|measured| measured.cpu_source),
            cpu_target: per_million(|measured| measured.cpu_target),
            cpu_daemon: per_million(|measured| measured.cpu_daemon),
            memory: column(|measured| measured.memory).last().copied().unwrap_or(0.0),
        })
    }

    /// The contenders of a workload, in the order in which they first ran.
    fn contenders(&self, workload: &str) -> Vec<&'static str> {
        let mut all = Vec::new();
        for run in self.runs.iter().filter(|run| run.workload == workload) {
            if !all.contains(&run.contender) {
                all.push(run.contender);
            }
        }
        all
    }

    /// One workload's rows; `what` says what it is.
    pub fn lines(&self, workload: &str, what: &str) -> String {
        let size = self.runs.iter().find(|run| run.workload == workload).map_or(0, |run| run.size);
        let mut text = format!("{workload} {size} {what}\n");
        let contenders = self.contenders(workload);
        let width = contenders.iter().map(|name| name.len()).fold(10, usize::max);
        for contender in contenders {
            let Some(row) = self.row(workload, contender) else { continue };
            let ratio = row.ratio.map_or_else(|| "    -".to_owned(), |ratio| format!("{ratio:5.2}"));
            let Row { median, least, most, cpu_source, cpu_target, cpu_daemon, memory, .. } = row;
            let cpu = format!("{cpu_source:6.2} {cpu_target:6.2} {cpu_daemon:6.2}");
            let decode = row.of_decode.map_or_else(String::new, |times| format!("  {times:.2} times decode alone"));
            writeln!(
                text,
                "    {contender:width$} {median:7.2} ({least:.2} to {most:.2})  ratio {ratio}  cpu {cpu}  {memory:4.0} MiB{decode}",
            )
            .expect("a String");
        }
        text
    }

    /// Workloads in the order in which they ran, each with its contenders.
    fn rows(&self) -> Vec<(&str, Vec<(&'static str, Row)>)> {
        let mut all: Vec<(&str, Vec<(&'static str, Row)>)> = Vec::new();
        for run in &self.runs {
            let workload = run.workload.as_str();
            if all.iter().all(|(known, _)| *known != workload) {
                let row = |contender| Some((contender, self.row(workload, contender)?));
                all.push((workload, self.contenders(workload).into_iter().filter_map(row).collect()));
            }
        }
        all
    }

    /// Everything, for machines.
    ///
    /// # Errors
    /// None: numbers and names can be written.
    fn json(&self) -> serde_json::Result<String> {
        let runs: Vec<_> = self
            .runs
            .iter()
            .map(|run| {
                json!({"workload": run.workload, "contender": run.contender, "size": run.size, "rows": run.rows,
                       "measured": run.measured})
            })
            .collect();
        let mut medians = Map::new();
        for (workload, rows) in self.rows() {
            let rows = rows.into_iter().map(|(contender, row)| Ok((contender.to_owned(), serde_json::to_value(row)?)));
            medians.insert(workload.to_owned(), Value::Object(rows.collect::<serde_json::Result<_>>()?));
        }
        let all = json!({"postgresql": self.postgres, "nodes": self.nodes, "cores": self.cores, "scale": self.scale,
                         "medians": medians, "runs": runs});
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }

    /// Writes `<name>.json` and `<name>.svg`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, plan: &Plan, name: &str) -> anyhow::Result<()> {
        plan.write(&format!("{name}.json"), &self.json()?)?;
        plan.write(&format!("{name}.svg"), &self.svg())
    }

    /// The ratios as bars; native's own line is at 1.
    fn svg(&self) -> String {
        const LEFT: f64 = 80.0;
        const UNIT: f64 = 120.0;
        const BAR: f64 = 14.0;
        const GAP: f64 = 16.0;
        const TOP: f64 = 34.0;
        /// A ratio and a contender's name behind the longest bar.
        const LABEL: f64 = 110.0;
        let rows = self.rows();
        let bars = |of: &[(&'static str, Row)]| -> Vec<(&'static str, f64)> {
            let shown = of.iter().filter(|(contender, _)| *contender != Contender::Native.name());
            shown.filter_map(|(contender, row)| Some((*contender, row.ratio?))).collect()
        };
        let all: Vec<_> = rows.iter().map(|(workload, of)| (*workload, bars(of))).collect();
        let most = all.iter().flat_map(|(_, bars)| bars).map(|(_, ratio)| *ratio).fold(1.5, f64::max);
        let height = TOP + all.iter().map(|(_, bars)| bars.len() as f64 * BAR + GAP).sum::<f64>() + 6.0;
        let width = LEFT + most * UNIT + LABEL;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"8\" y=\"18\">times as fast as the server's own logical replication, PostgreSQL {}</text>\n",
            self.postgres
        );
        let mut y = TOP;
        for (workload, bars) in &all {
            let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
            writeln!(svg, "<text x=\"8\" y=\"{middle:.0}\">{workload}</text>").expect("a String");
            for (contender, ratio) in bars {
                let colour = if contender.starts_with("pgconcord") { "#1f6feb" } else { "#b0b7c0" };
                let (end, base) = (ratio * UNIT, y + BAR - 3.0);
                writeln!(
                    svg,
                    "<rect x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{end:.0}\" height=\"{:.0}\" fill=\"{colour}\"/>\
                     <text x=\"{:.0}\" y=\"{base:.0}\">{ratio:.2} {contender}</text>",
                    BAR - 2.0,
                    LEFT + end + 4.0
                )
                .expect("a String");
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

/// Of this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, Into::into)
}

/// Of values in order.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
