//! Load reports of destinations in response fields (ORCA: "Open Request Cost Aggregation").
//!
//! Source: `xds.data.orca.v3.OrcaLoadReport` and its three encodings in a header or trailer field: text, JSON, and
//! protobuf in base64. Reports come from destinations and are not trusted: size and number of metrics are bounded,
//! and one defect makes the whole report malformed. Unknown fields are skipped if they are complete.

use std::fmt;

use crate::base64::Decoder;
use crate::protobuf::{self, Value};

/// Longest report that is read, in bytes; servers send some tens or hundreds.
const MAX_BYTES: usize = 4096;
/// Most metrics in one report.
const MAX_METRICS: usize = 64;

const NAME: &str = "endpoint-load-metrics";

/// Fields of the report with one number: field number, name, name in JSON, and metric.
const FIELDS: [(u32, &str, &str, Metric<'static>); 5] = [
    (1, "cpu_utilization", "cpuUtilization", Metric::Cpu),
    (2, "mem_utilization", "memUtilization", Metric::Memory),
    (6, "rps_fractional", "rpsFractional", Metric::Rps),
    (7, "eps", "eps", Metric::Eps),
    (9, "application_utilization", "applicationUtilization", Metric::Application),
];

/// Fields of the report that map names to numbers: field number, name, name in JSON. Request costs are no load:
/// they are checked and not reported.
const MAPS: [(u32, &str, &str, Map); 3] = [
    (4, "request_cost", "requestCost", Map::RequestCost),
    (5, "utilization", "utilization", Map::Utilization),
    (8, "named_metrics", "namedMetrics", Map::Named),
];

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Map {
    RequestCost,
    Utilization,
    Named,
}

impl Map {
    fn metric(self, name: &str) -> Option<Metric<'_>> {
        match self {
            Self::RequestCost => None,
            Self::Utilization => Some(Metric::Utilization(name)),
            Self::Named => Some(Metric::Named(name)),
        }
    }
}

/// A metric of a load report.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Metric<'r> {
    /// `cpu_utilization`: share of the CPU in use.
    Cpu,
    /// `mem_utilization`: share of the memory in use.
    Memory,
    /// `rps_fractional`: requests per second.
    Rps,
    /// `eps`: errors per second.
    Eps,
    /// `application_utilization`: utilization as the application defines it.
    Application,
    /// Entry of `utilization` with this name.
    Utilization(&'r str),
    /// Entry of `named_metrics` with this name.
    Named(&'r str),
}

/// One number of a load report.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Entry<'r> {
    /// Metric that the number belongs to.
    pub metric: Metric<'r>,
    /// Reported number, always finite.
    pub value: f64,
    /// True where the encoding allows a metric only once (text). In the others the last number of a metric counts.
    pub unique: bool,
}

/// The field does not hold a load report.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MalformedReport;

impl fmt::Display for MalformedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected one ORCA load report, found a malformed field or several")
    }
}

impl std::error::Error for MalformedReport {}

impl From<protobuf::MalformedMessage> for MalformedReport {
    fn from(_: protobuf::MalformedMessage) -> Self {
        Self
    }
}

/// Reports whether the field `name` holds a load report.
#[inline]
pub fn is_load_report(name: &str) -> bool {
    encoding_of(name).is_some()
}

/// Returns the suffix of the field name that selects the encoding: empty, `-bin` or `-json`.
#[inline]
fn encoding_of(name: &str) -> Option<&str> {
    let (start, suffix) = name.split_at_checked(NAME.len())?;
    let known =
        suffix.is_empty() || suffix.eq_ignore_ascii_case("-bin") || suffix.eq_ignore_ascii_case("-json");
    (known && start.eq_ignore_ascii_case(NAME)).then_some(suffix)
}

/// Parses the report in `fields`, which hold only load reports, and passes each number to `accept`. Returns `None`
/// if there is no field, and an error if there are several: it is not defined which one counts.
///
/// `accept` returns whether it takes the number; `false` makes the report malformed.
pub fn parse<'r>(
    mut fields: impl Iterator<Item = (&'r str, &'r [u8])>,
    accept: impl FnMut(Entry<'_>) -> bool,
) -> Option<Result<(), MalformedReport>> {
    let (name, value) = fields.next()?;
    if fields.next().is_some() || value.len() > MAX_BYTES {
        return Some(Err(MalformedReport));
    }
    let mut parser = Parser { accept, metrics_left: MAX_METRICS };
    Some(match encoding_of(name)?.len() {
        0 => parser.any(value),
        4 => parser.base64(value),
        _ => parser.json(value),
    })
}

struct Parser<F> {
    accept: F,
    metrics_left: usize,
}

impl<F: FnMut(Entry<'_>) -> bool> Parser<F> {
    /// Parses a report with the name of its encoding in front.
    fn any(&mut self, value: &[u8]) -> Result<(), MalformedReport> {
        let (word, rest) = value.split_at(value.iter().position(|&b| b == b' ').unwrap_or(value.len()));
        match word {
            b"TEXT" => self.text(rest),
            b"JSON" => self.json(rest),
            b"BIN" => self.base64(rest.trim_ascii()),
            // Envoy's first version had no word in front.
            _ => self.text(value),
        }
    }

    /// Parses `name=number` pairs, separated by commas.
    fn text(&mut self, text: &[u8]) -> Result<(), MalformedReport> {
        let text = str::from_utf8(text).map_err(|_| MalformedReport)?.trim_ascii();
        if text.is_empty() {
            return Ok(());
        }
        for entry in text.split(',') {
            let (name, number) = entry.split_once(['=', ':']).ok_or(MalformedReport)?;
            let name = name.trim_ascii();
            let number = number.trim_ascii().parse().map_err(|_| MalformedReport)?;
            if name.is_empty() {
                return Err(MalformedReport);
            }
            let field = FIELDS.iter().find(|&&(_, known, ..)| known == name).map(|&(.., metric)| metric);
            let in_map = || {
                let (map, name) = name.split_once('.')?;
                MAPS.iter().find(|&&(_, known, ..)| known == map)?.3.metric(name)
            };
            self.add(field.or_else(in_map), number, true)?;
        }
        Ok(())
    }

    /// Parses the JSON mapping of protobuf: names in snake or camel case, numbers also as strings.
    fn json(&mut self, text: &[u8]) -> Result<(), MalformedReport> {
        let message: serde_json::Map<_, _> = serde_json::from_slice(text).map_err(|_| MalformedReport)?;
        for (name, value) in &message {
            if let Some(&(.., metric)) =
                FIELDS.iter().find(|(_, snake, camel, _)| name == snake || name == camel)
            {
                self.add(Some(metric), json_number(value)?, false)?;
            } else if let Some(&(.., map)) =
                MAPS.iter().find(|(_, snake, camel, _)| name == snake || name == camel)
            {
                for (name, value) in value.as_object().ok_or(MalformedReport)? {
                    self.add(map.metric(name), json_number(value)?, false)?;
                }
            } else {
                self.count()?;
            }
        }
        Ok(())
    }

    /// Parses a base64 report with or without padding: gRPC allows both in `-bin` fields.
    fn base64(&mut self, text: &[u8]) -> Result<(), MalformedReport> {
        let mut bytes = text.to_vec();
        if !text.contains(&b'=') {
            bytes.resize(text.len().next_multiple_of(4), b'=');
        }
        let mut decoder = Decoder::default();
        let len = decoder.decode(&mut bytes).map_err(|_| MalformedReport)?;
        if !decoder.is_complete() {
            return Err(MalformedReport);
        }
        self.protobuf(&bytes[..len])
    }

    fn protobuf(&mut self, mut message: &[u8]) -> Result<(), MalformedReport> {
        while let Some((number, value)) = protobuf::next_field(&mut message)? {
            let field = FIELDS.iter().find(|&&(known, ..)| known == number).map(|&(.., metric)| metric);
            let map = MAPS.iter().find(|&&(known, ..)| known == number).map(|&(.., map)| map);
            match (value, field, map) {
                (Value::Double(number), Some(metric), _) => self.add(Some(metric), number, false)?,
                (Value::Bytes(entry), _, Some(map)) => self.map_entry(map, entry)?,
                _ => self.count()?,
            }
        }
        Ok(())
    }

    /// Parses a map entry: a message of a name and a number. A missing name is empty, a missing number 0.
    fn map_entry(&mut self, map: Map, mut entry: &[u8]) -> Result<(), MalformedReport> {
        let (mut name, mut number) = (&b""[..], 0.0);
        while let Some((field, value)) = protobuf::next_field(&mut entry)? {
            match (field, value) {
                (1, Value::Bytes(bytes)) => name = bytes,
                (2, Value::Double(value)) => number = value,
                _ => {}
            }
        }
        self.add(map.metric(str::from_utf8(name).map_err(|_| MalformedReport)?), number, false)
    }

    /// Passes a number on if its metric is known. An unknown metric must have a finite number too.
    fn add(&mut self, metric: Option<Metric<'_>>, value: f64, unique: bool) -> Result<(), MalformedReport> {
        self.count()?;
        let accepted =
            value.is_finite() && metric.is_none_or(|metric| (self.accept)(Entry { metric, value, unique }));
        if accepted { Ok(()) } else { Err(MalformedReport) }
    }

    fn count(&mut self) -> Result<(), MalformedReport> {
        self.metrics_left = self.metrics_left.checked_sub(1).ok_or(MalformedReport)?;
        Ok(())
    }
}

fn json_number(value: &serde_json::Value) -> Result<f64, MalformedReport> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).ok_or(MalformedReport)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base64::encode;

    type Numbers = Vec<(String, f64, bool)>;

    fn parse_one(name: &str, value: &[u8]) -> Result<Numbers, MalformedReport> {
        let mut numbers = Vec::new();
        let accept = |entry: Entry<'_>| {
            numbers.push((format!("{:?}", entry.metric), entry.value, entry.unique));
            entry.value >= 0.0
        };
        parse(std::iter::once((name, value)), accept).expect("a report").map(|()| numbers)
    }

    #[test]
    fn every_encoding_yields_its_metrics() {
        let text = "cpu_utilization=0.5, utilization.net=0.75,named_metrics.depth=3,request_cost.x=9,other=1";
        let expected: Numbers = [("Cpu", 0.5), ("Utilization(\"net\")", 0.75), ("Named(\"depth\")", 3.0)]
            .map(|(metric, value)| (metric.to_owned(), value, true))
            .into();
        assert_eq!(parse_one(NAME, format!("TEXT {text}").as_bytes()).as_ref(), Ok(&expected));
        assert_eq!(parse_one(NAME, text.as_bytes()), Ok(expected));
        let cpu: Numbers = vec![("Cpu".to_owned(), 0.5, false)];
        let json = br#"{"cpuUtilization":"0.5","requestCost":{"x":9},"other":[]}"#;
        assert_eq!(parse_one("Endpoint-Load-Metrics-Json", json).as_ref(), Ok(&cpu));
        let message = [&[1 << 3 | 1][..], &0.5_f64.to_le_bytes()].concat();
        assert_eq!(parse_one("endpoint-load-metrics-bin", encode(&message).as_bytes()), Ok(cpu));
    }

    #[test]
    fn a_rejected_number_makes_the_report_malformed() {
        assert_eq!(parse_one(NAME, b"TEXT eps=-1"), Err(MalformedReport));
        assert_eq!(parse_one(NAME, b"TEXT other=inf"), Err(MalformedReport));
        assert_eq!(parse_one(NAME, b"TEXT \xff=1"), Err(MalformedReport));
    }

    #[test]
    fn report_fields_are_known_by_their_names() {
        assert!(is_load_report("Endpoint-Load-Metrics") && is_load_report("endpoint-load-metrics-BIN"));
        for name in
            ["endpoint-load-metric", "endpoint-load-metrics-", "endpoint-load-metrics-binary", "eps", "é"]
        {
            assert!(!is_load_report(name), "{name}");
        }
        assert_eq!(parse(std::iter::empty(), |_| true), None);
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
            for name in [NAME, "endpoint-load-metrics-bin", "endpoint-load-metrics-json"] {
                let _either_way = parse_one(name, &value);
            }
            let _either_way = parse_one("endpoint-load-metrics-bin", encode(&value).as_bytes());
        }
    }
}
