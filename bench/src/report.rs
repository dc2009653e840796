//! Report of a comparison: markdown tables with the command, host and versions.

use std::path::PathBuf;

use crate::block::{Competitor, Cpu, Idle, Measurement, Sample};
use crate::proxies::Proxy;
use crate::run::Samples;
use crate::scenario::{Measure, Scenario};
use crate::stats::{Ratio, Rng, median};
use crate::{clock, host};

pub(crate) struct Report {
    command: String,
    date: String,
    machine: String,
    seed: u64,
    /// Name and version of each proxy.
    versions: Vec<(&'static str, String)>,
    pub(crate) sections: Vec<Section>,
}

/// Result of one scenario.
pub(crate) struct Section {
    scenario: &'static Scenario,
    /// Name and valid samples of each proxy.
    rows: Vec<Row>,
    subject: String,
    /// Ratio of the subject to each other proxy.
    ratios: Vec<(String, Option<Ratio>)>,
    remarks: Vec<String>,
}

struct Row {
    name: String,
    /// Cells of the table after the name.
    cells: Vec<String>,
    primary: Option<f64>,
}

impl Report {
    pub(crate) fn new(seed: u64, wanted: &[Proxy], present: &[(Proxy, PathBuf)]) -> Self {
        let version = |proxy: &Proxy| match present.iter().find(|(there, _)| there == proxy) {
            Some((_, program)) => proxy.version(program),
            None => "**not installed: skipped**".to_owned(),
        };
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Self {
            command: format!("plimsoll-bench {}", arguments.join(" ")),
            date: clock::date(),
            machine: host::describe(),
            seed,
            versions: wanted.iter().map(|proxy| (proxy.name(), version(proxy))).collect(),
            sections: Vec::new(),
        }
    }

    pub(crate) fn render(&self) -> String {
        let versions: String =
            self.versions.iter().map(|(name, version)| format!("| {name} | {version} |\n")).collect();
        let sections: Vec<String> = self.sections.iter().map(Section::render).collect();
        format!(
            "# Plimsoll and other proxies\n\n- command: `{}`\n- date: {}\n- machine: {}\n- seed: {}\n\n\
             | proxy | version |\n|---|---|\n{versions}\n{}\n{}",
            self.command,
            self.date,
            self.machine,
            self.seed,
            self.summary(),
            sections.join("\n"),
        )
    }

    /// Returns the table of all ratios.
    pub(crate) fn summary(&self) -> String {
        let mut text = "## Ratios\n\nBelow 1 the subject is cheaper. Median of the blocks, 95 % interval.\n\n\
                        | scenario | of | to | ratio | interval | blocks | result |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
        for section in &self.sections {
            for (proxy, ratio) in &section.ratios {
                let cells = ratio.map_or("– | – | 0 | not measured".to_owned(), |ratio| {
                    let Ratio { median, low, high, blocks } = ratio;
                    format!("**{median:.3}** | {low:.3} to {high:.3} | {blocks} | {}", ratio.verdict())
                });
                text += &format!("| {} | {} | {proxy} | {cells} |\n", section.scenario.name, section.subject);
            }
        }
        text
    }
}

impl Section {
    pub(crate) fn new(
        scenario: &'static Scenario,
        competitors: &[Competitor],
        subject: Proxy,
        samples: &Samples,
        rng: &mut Rng,
    ) -> Self {
        let usable = |block: usize, place: usize| match samples[block].get(&place) {
            Some(Ok(sample)) if sample.rejections.is_empty() => Some(sample),
            _ => None,
        };
        let of = |place: usize| -> Vec<&Sample> {
            (0..samples.len()).filter_map(|block| usable(block, place)).collect()
        };
        let rows = competitors
            .iter()
            .enumerate()
            .map(|(place, proxy)| Row::new(proxy.name(), &of(place), samples.len(), columns(scenario).len()))
            .collect();
        // To compare worker counts the subject is listed twice, the measured one first.
        let first = competitors.iter().position(|competitor| competitor.proxy == subject);
        let pairs = |first: usize, second: usize| -> Vec<(f64, f64)> {
            let both = |block| {
                Some((
                    usable(block, first)?.measurement.primary(),
                    usable(block, second)?.measurement.primary(),
                ))
            };
            (0..samples.len()).filter_map(both).collect()
        };
        let ratios = first.map_or(Vec::new(), |first| {
            let others = (0..competitors.len()).filter(|&place| place != first);
            others.map(|place| (competitors[place].name(), Ratio::of(&pairs(first, place), rng))).collect()
        });
        let subject = first.map_or(String::new(), |place| competitors[place].name());
        let mut remarks = remarks(competitors, samples);
        remarks.extend(scenario.absent().map(|(proxy, why)| format!("{}: left out: {why}", proxy.name())));
        Self { scenario, rows, subject, ratios, remarks }
    }

    pub(crate) fn render(&self) -> String {
        let (unit, columns) = (self.scenario.unit(), columns(self.scenario));
        let (dashes, columns) = ("|---".repeat(columns.len()), columns.join(" | "));
        let mut text = format!(
            "## {}\n\n{}.\n\n| proxy | {unit} | {columns} | blocks |\n|---|---{dashes}|---|\n",
            self.scenario.name, self.scenario.about
        );
        for row in &self.rows {
            let primary = row.primary.map_or("–".to_owned(), |value| format!("**{value:.2}**"));
            text += &format!("| {} | {primary} | {} |\n", row.name, row.cells.join(" | "));
        }
        if !self.remarks.is_empty() {
            text += "\n";
            self.remarks.iter().for_each(|remark| text += &format!("- {remark}\n"));
        }
        text
    }
}

impl Row {
    /// Creates a row with the median of each cell over the valid blocks.
    fn new(name: String, samples: &[&Sample], blocks: usize, columns: usize) -> Self {
        let readings = || samples.iter().map(|sample| &sample.measurement);
        let primary = median(&readings().map(Measurement::primary).collect::<Vec<f64>>());
        let cpu = readings()
            .filter_map(|measurement| if let Measurement::Cpu(cpu) = measurement { Some(cpu) } else { None });
        let idle = readings().filter_map(|measurement| {
            if let Measurement::Memory(idle) = measurement { Some(idle) } else { None }
        });
        let mut cells = cpu_cells(&cpu.collect::<Vec<&Cpu>>());
        cells.extend(idle_cells(&idle.collect::<Vec<&Idle>>()));
        if samples.is_empty() {
            cells = vec!["–".to_owned(); columns];
        }
        cells.push(format!("{} of {blocks}", samples.len()));
        Self { name, cells, primary }
    }
}

/// Names of the columns after the primary number.
fn columns(scenario: &Scenario) -> &'static [&'static str] {
    match scenario.measure {
        Measure::CpuPerMessage | Measure::TwoWorkers => {
            &["user + system", "requests/s", "p50", "p99", "busy"]
        }
        Measure::MemoryPerConnection => {
            &["connections", "resident before", "resident with them", "proportional with them"]
        }
    }
}

fn cpu_cells(samples: &[&Cpu]) -> Vec<String> {
    let middle = |value: fn(&Cpu) -> f64| median(&samples.iter().map(|cpu| value(cpu)).collect::<Vec<f64>>());
    let cells = || {
        let (micros, user) = (middle(|cpu| cpu.micros)?, middle(|cpu| cpu.user_share)?);
        Some(vec![
            format!("{:.1} + {:.1}", micros * user, micros * (1.0 - user)),
            format!("{:.0}", middle(|cpu| cpu.per_second)?),
            time(middle(|cpu| cpu.p50.as_secs_f64())?),
            time(middle(|cpu| cpu.p99.as_secs_f64())?),
            format!("{:.0} %", middle(|cpu| cpu.busy)? * 100.0),
        ])
    };
    cells().unwrap_or_default()
}

fn idle_cells(samples: &[&Idle]) -> Vec<String> {
    let middle = |value: fn(&Idle) -> u64| {
        median(&samples.iter().map(|idle| value(idle) as f64).collect::<Vec<f64>>())
    };
    let mebi = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    let cells = || {
        Some(vec![
            format!("{:.0}", middle(|idle| idle.connections as u64)?),
            mebi(middle(|idle| idle.before.resident)?),
            mebi(middle(|idle| idle.after.resident)?),
            mebi(middle(|idle| idle.after.proportional)?),
        ])
    };
    cells().unwrap_or_default()
}

fn time(seconds: f64) -> String {
    match seconds * 1e6 {
        // h2load reports no quantiles.
        0.0 => "–".to_owned(),
        micros if micros < 1000.0 => format!("{micros:.0} µs"),
        micros => format!("{:.1} ms", micros / 1000.0),
    }
}

/// Returns the reasons for discarded blocks and other remarks, each once with its count.
fn remarks(competitors: &[Competitor], samples: &Samples) -> Vec<String> {
    let mut remarks: Vec<(String, usize)> = Vec::new();
    for (place, proxy) in competitors.iter().enumerate() {
        for block in samples {
            let lines: Vec<String> = match block.get(&place) {
                Some(Ok(sample)) => {
                    let reasons = sample.rejections.iter().map(|reason| format!("block discarded: {reason}"));
                    reasons.chain(sample.notes.iter().cloned()).collect()
                }
                Some(Err(error)) => vec![format!("not measured: {error}")],
                None => Vec::new(),
            };
            for line in lines {
                let line = format!("{}: {}", proxy.name(), line.replace('\n', "; "));
                match remarks.iter_mut().find(|(known, _)| *known == line) {
                    Some((_, count)) => *count += 1,
                    None => remarks.push((line, 1)),
                }
            }
        }
    }
    let counted =
        |(line, count): (String, usize)| if count > 1 { format!("{line} ({count} blocks)") } else { line };
    remarks.into_iter().map(counted).collect()
}

/// Prints the result of one measurement during the run.
pub(crate) fn progress(scenario: &Scenario, block: usize, name: &str, sample: &Result<Sample, String>) {
    let outcome = match sample {
        Ok(sample) if sample.rejections.is_empty() => {
            format!("{:.2} {}", sample.measurement.primary(), scenario.unit())
        }
        Ok(sample) => format!("discarded: {}", sample.rejections.join(", ")),
        Err(error) => format!("not measured: {error}"),
    };
    eprintln!("{} block {} {name}: {outcome}", scenario.name, block + 1);
}
