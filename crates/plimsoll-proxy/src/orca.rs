//! What a report of load in an answer says (ORCA: "Open Request Cost Aggregation").
//!
//! Source: `xds.data.orca.v3.OrcaLoadReport` and the three forms it has in a header or a trailer: text, JSON, and
//! protobuf in base64. Whoever writes it is a destination, not a friend: bounded, and one defect makes all of it
//! malformed. Fields that nobody knows here are passed over, if they are whole.

use plimsoll_core::Name;
use plimsoll_core::measure::{Gauge, LoadReport};

use crate::base64::Decoder;
use crate::protobuf::{self, Value};

/// A report may be so long; servers write some tens or hundreds of bytes.
const MAX_BYTES: usize = 4096;
/// It may tell so much: each costs a look at the names.
const MAX_ENTRIES: usize = 64;

const NAME: &str = "endpoint-load-metrics";

/// Fields of the report that say what a gauge shows: their numbers, their names, and their names in JSON.
const FIELDS: [(u32, &str, &str, Gauge); 5] = [
    (1, "cpu_utilization", "cpuUtilization", Gauge::Cpu),
    (2, "mem_utilization", "memUtilization", Gauge::Memory),
    (6, "rps_fractional", "rpsFractional", Gauge::Rps),
    (7, "eps", "eps", Gauge::Eps),
    (9, "application_utilization", "applicationUtilization", Gauge::Application),
];

/// Fields that are lists of names with numbers. Costs of single requests are no load: they are only looked through.
const LISTS: [(u32, &str, &str, bool); 3] = [
    (4, "request_cost", "requestCost", false),
    (5, "utilization", "utilization", true),
    (8, "named_metrics", "namedMetrics", true),
];

/// What was to be a report is none.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<protobuf::Malformed> for Malformed {
    fn from(_: protobuf::Malformed) -> Self {
        Self
    }
}

/// Is this the name of a field that holds a report?
pub(crate) fn is_report(name: &str) -> bool {
    form_of(name).is_some()
}

/// What stands behind the name of the field: nothing, `-bin` or `-json`.
fn form_of(name: &str) -> Option<&str> {
    let (start, form) = name.split_at_checked(NAME.len())?;
    let known = form.is_empty() || form.eq_ignore_ascii_case("-bin") || form.eq_ignore_ascii_case("-json");
    (known && start.eq_ignore_ascii_case(NAME)).then_some(form)
}

/// Reads the report in `fields`, which hold nothing else; `None` where there is none. `named` are the names that
/// the pool's formula knows.
pub(crate) fn read<'r>(
    mut fields: impl Iterator<Item = (&'r str, &'r [u8])>,
    named: &[Name],
) -> Option<Result<LoadReport, Malformed>> {
    let (name, value) = fields.next()?;
    // Nobody knows which of several counts.
    if fields.next().is_some() || value.len() > MAX_BYTES {
        return Some(Err(Malformed));
    }
    let mut reading = Reading { named, report: LoadReport::default(), left: MAX_ENTRIES };
    let read = match form_of(name)?.len() {
        0 => reading.any(value),
        4 => reading.base64(value),
        _ => reading.json(value),
    };
    Some(read.map(|()| reading.report))
}

struct Reading<'n> {
    named: &'n [Name],
    report: LoadReport,
    left: usize,
}

impl Reading<'_> {
    /// The form is told by a word in front.
    fn any(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let (word, rest) = value.split_at(value.iter().position(|&b| b == b' ').unwrap_or(value.len()));
        match word {
            b"TEXT" => self.text(rest),
            b"JSON" => self.json(rest),
            b"BIN" => self.base64(rest.trim_ascii()),
            // As Envoy had it first.
            _ => self.text(value),
        }
    }

    /// `name=number`, with commas between. Once each: nobody knows which of several counts.
    fn text(&mut self, text: &[u8]) -> Result<(), Malformed> {
        let text = str::from_utf8(text).map_err(|_| Malformed)?.trim_ascii();
        if text.is_empty() {
            return Ok(());
        }
        for entry in text.split(',') {
            let (name, number) = entry.split_once(['=', ':']).ok_or(Malformed)?;
            let name = name.trim_ascii();
            let number = number.trim_ascii().parse().map_err(|_| Malformed)?;
            if name.is_empty() {
                return Err(Malformed);
            }
            let own = FIELDS.iter().find(|&&(_, known, ..)| known == name).map(|&(.., gauge)| gauge);
            let in_list = || {
                let (list, name) = name.split_once('.')?;
                let counts = LISTS.iter().any(|&(_, known, _, counts)| known == list && counts);
                counts.then(|| self.named_gauge(name)).flatten()
            };
            let gauge = own.or_else(in_list);
            if gauge.is_some_and(|gauge| self.report.of(gauge).is_some()) {
                return Err(Malformed);
            }
            self.tell(gauge, number)?;
        }
        Ok(())
    }

    /// As protobuf has messages in JSON: names in either style, numbers also as text.
    fn json(&mut self, text: &[u8]) -> Result<(), Malformed> {
        let message: serde_json::Map<_, _> = serde_json::from_slice(text).map_err(|_| Malformed)?;
        for (name, value) in &message {
            if let Some(&(.., gauge)) =
                FIELDS.iter().find(|(_, snake, camel, _)| name == snake || name == camel)
            {
                self.tell(Some(gauge), json_number(value)?)?;
            } else if let Some(&(.., counts)) =
                LISTS.iter().find(|(_, snake, camel, _)| name == snake || name == camel)
            {
                for (name, value) in value.as_object().ok_or(Malformed)? {
                    self.tell_named(counts, name, json_number(value)?)?;
                }
            } else {
                self.count()?;
            }
        }
        Ok(())
    }

    /// Padded or not: gRPC writes both (its `-bin` fields).
    fn base64(&mut self, text: &[u8]) -> Result<(), Malformed> {
        let mut bytes = text.to_vec();
        if !text.contains(&b'=') {
            bytes.resize(text.len().next_multiple_of(4), b'=');
        }
        let mut decoder = Decoder::default();
        let len = decoder.decode(&mut bytes).map_err(|_| Malformed)?;
        if !decoder.is_whole() {
            return Err(Malformed);
        }
        self.protobuf(&bytes[..len])
    }

    fn protobuf(&mut self, mut message: &[u8]) -> Result<(), Malformed> {
        while let Some((number, value)) = protobuf::field(&mut message)? {
            let gauge = FIELDS.iter().find(|&&(known, ..)| known == number).map(|&(.., gauge)| gauge);
            let list = LISTS.iter().find(|&&(known, ..)| known == number).map(|&(.., counts)| counts);
            match (value, gauge, list) {
                (Value::Double(number), Some(gauge), _) => self.tell(Some(gauge), number)?,
                (Value::Bytes(entry), _, Some(counts)) => self.entry(counts, entry)?,
                _ => self.count()?,
            }
        }
        Ok(())
    }

    /// An entry of a list: a message of a name and a number. What it lacks is empty, or 0.
    fn entry(&mut self, counts: bool, mut entry: &[u8]) -> Result<(), Malformed> {
        let (mut name, mut number) = (&b""[..], 0.0);
        while let Some((field, value)) = protobuf::field(&mut entry)? {
            match (field, value) {
                (1, Value::Bytes(told)) => name = told,
                (2, Value::Double(told)) => number = told,
                _ => {}
            }
        }
        self.tell_named(counts, str::from_utf8(name).map_err(|_| Malformed)?, number)
    }

    fn tell_named(&mut self, counts: bool, name: &str, number: f64) -> Result<(), Malformed> {
        let gauge = if counts { self.named_gauge(name) } else { None };
        self.tell(gauge, number)
    }

    /// Notes a number, where it has a meaning here. It is a number in any case.
    fn tell(&mut self, gauge: Option<Gauge>, number: f64) -> Result<(), Malformed> {
        self.count()?;
        let fits = number.is_finite() && gauge.is_none_or(|gauge| self.report.set(gauge, number));
        if fits { Ok(()) } else { Err(Malformed) }
    }

    fn count(&mut self) -> Result<(), Malformed> {
        self.left = self.left.checked_sub(1).ok_or(Malformed)?;
        Ok(())
    }

    /// What a name in a list means: one of the formula's, or a gauge for which the report has no field.
    fn named_gauge(&self, name: &str) -> Option<Gauge> {
        let has_field = |gauge| FIELDS.iter().any(|&(.., known)| known == gauge);
        Gauge::from_name(name, self.named).filter(|&gauge| !has_field(gauge))
    }
}

fn json_number(value: &serde_json::Value) -> Result<f64, Malformed> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base64::encode;

    fn names() -> Vec<Name> {
        vec!["kv_cache".into(), "depth".into()]
    }

    fn read_one(name: &str, value: &[u8]) -> Result<LoadReport, Malformed> {
        read(std::iter::once((name, value)), &names()).expect("there is one")
    }

    fn report(values: &[(Gauge, f64)]) -> LoadReport {
        let mut report = LoadReport::default();
        values.iter().for_each(|&(gauge, value)| assert!(report.set(gauge, value)));
        report
    }

    fn double(number: u8, value: f64) -> Vec<u8> {
        [&[number << 3 | 1][..], &value.to_le_bytes()].concat()
    }

    fn entry(number: u8, name: &str, value: f64) -> Vec<u8> {
        let mut inner = Vec::new();
        protobuf::write_text(&mut inner, 1, name);
        inner.extend(double(2, value));
        [&[number << 3 | 2, inner.len() as u8][..], &inner].concat()
    }

    #[test]
    fn every_form_says_the_same() {
        let expected = report(&[
            (Gauge::Cpu, 0.5),
            (Gauge::Memory, 0.25),
            (Gauge::Rps, 10.5),
            (Gauge::Eps, 1.0),
            (Gauge::Application, 1.25),
            (Gauge::Network, 0.75),
            (Gauge::Named(0), 3.0),
        ]);
        let text = "cpu_utilization=0.5, mem_utilization=0.25,rps_fractional=10.5,eps=1,application_utilization=1.25,\
                    utilization.network=0.75, named_metrics.kv_cache=3,named_metrics.stranger=-7, request_cost.depth=9";
        let json = br#" {"cpu_utilization":0.5,"memUtilization":"0.25","rps_fractional":10.5,"eps":1,
            "applicationUtilization":1.25,"utilization":{"network":0.75},"namedMetrics":{"kv_cache":3,"stranger":-7},
            "request_cost":{"depth":9},"news":[1]}"#;
        let message = [
            double(1, 0.5),
            double(2, 0.25),
            vec![3 << 3, 7],
            double(6, 10.5),
            double(7, 1.0),
            double(9, 1.25),
            entry(4, "depth", 9.0),
            entry(5, "network", 0.75),
            entry(8, "kv_cache", 3.0),
            entry(8, "stranger", -7.0),
        ]
        .concat();
        let base64 = encode(&message);
        let bare = base64.trim_end_matches('=');
        let json_only = str::from_utf8(json).expect("text");
        for (name, value) in [
            ("endpoint-load-metrics", format!("TEXT {text}")),
            ("Endpoint-Load-Metrics", text.replace('=', ":")),
            ("endpoint-load-metrics", format!("JSON {json_only}")),
            ("endpoint-load-metrics-json", json_only.to_owned()),
            ("endpoint-load-metrics", format!("BIN {base64}")),
            ("endpoint-load-metrics-bin", base64.clone()),
            ("endpoint-load-metrics-bin", bare.to_owned()),
        ] {
            assert_eq!(read_one(name, value.as_bytes()), Ok(expected), "{name}: {value}");
        }
    }

    #[test]
    fn one_defect_makes_all_of_it_malformed() {
        let many = format!("TEXT {}", (0..65).map(|n| format!("x{n}=1")).collect::<Vec<_>>().join(","));
        let long = format!("TEXT x={}1", "0".repeat(MAX_BYTES));
        for value in [
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=",
            "TEXT cpu_utilization=much",
            "TEXT cpu_utilization=-0.1",
            "TEXT cpu_utilization=NaN",
            "TEXT stranger=inf",
            "TEXT =0.5",
            "TEXT eps=1,",
            "TEXT eps=1,eps=1",
            "TEXT eps=1, utilization.score=1.5",
            "text",
            "JSON",
            "JSON []",
            "JSON {\"eps\":1",
            "JSON {\"eps\":null}",
            "JSON {\"eps\":\"NaN\"}",
            "JSON {\"eps\":-1}",
            "JSON {\"utilization\":1}",
            "JSON {\"utilization\":{\"x\":{}}}",
            "BIN !",
            "BIN CQ",
            "BIN CQ==CQ==",
            &many,
            &long,
        ] {
            assert_eq!(read_one(NAME, value.as_bytes()), Err(Malformed), "{value}");
        }
        assert_eq!(read_one(NAME, b"TEXT \xff=1"), Err(Malformed));
        let twice = [(NAME, &b"TEXT eps=1"[..]), ("endpoint-load-metrics-bin", b"")];
        assert_eq!(read(twice.into_iter(), &[]), Some(Err(Malformed)));
        for message in
            [double(1, f64::NAN), double(1, -1.0), entry(5, "x", f64::INFINITY), vec![0x2a, 2, 0x0a]]
        {
            assert_eq!(read_one("endpoint-load-metrics-bin", encode(&message).as_bytes()), Err(Malformed));
        }
        let many: Vec<u8> = (0..65).flat_map(|_| double(1, 0.5)).collect();
        assert_eq!(read_one("endpoint-load-metrics-bin", encode(&many).as_bytes()), Err(Malformed));
    }

    #[test]
    fn what_says_nothing_is_no_defect() {
        for (name, value) in [
            (NAME, "TEXT"),
            (NAME, ""),
            (NAME, "TEXT news=1"),
            (NAME, "TEXT utilization.cpu=1"),
            (NAME, "JSON {}"),
            ("endpoint-load-metrics-bin", ""),
        ] {
            assert_eq!(read_one(name, value.as_bytes()), Ok(LoadReport::default()), "{name}: {value}");
        }
        assert_eq!(read(std::iter::empty(), &[]), None);
        for name in
            ["endpoint-load-metric", "endpoint-load-metrics-", "endpoint-load-metrics-binary", "eps", "é"]
        {
            assert!(!is_report(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall(value in prop::collection::vec(any::<u8>(), 0..200)) {
            for name in [NAME, "endpoint-load-metrics-bin", "endpoint-load-metrics-json"] {
                let _either_way = read_one(name, &value);
            }
            let _either_way = read_one("endpoint-load-metrics-bin", encode(&value).as_bytes());
        }

        #[test]
        fn what_is_cut_is_malformed_or_says_less(cpu in 0.0..2.0_f64, depth in 0.0..1e9_f64) {
            let message = [double(1, cpu), entry(8, "depth", depth)].concat();
            for cut in 0..=message.len() {
                let read = read_one("endpoint-load-metrics-bin", encode(&message[..cut]).as_bytes());
                let expected = match cut {
                    0 => Ok(LoadReport::default()),
                    9 => Ok(report(&[(Gauge::Cpu, cpu)])),
                    _ if cut == message.len() => Ok(report(&[(Gauge::Cpu, cpu), (Gauge::Named(1), depth)])),
                    _ => Err(Malformed),
                };
                prop_assert_eq!(read, expected);
            }
        }
    }
}
