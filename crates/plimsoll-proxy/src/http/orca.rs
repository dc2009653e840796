//! Mapping of ORCA metrics to the load metrics of a destination.

use plimsoll_core::Name;
use plimsoll_core::measure::{LoadMetric, LoadReport};
use plimsoll_wire::orca::{self, Entry, MalformedReport, Metric};

/// Parses the ORCA load report in `fields`, which must contain nothing else; `None` if they are empty.
/// `named` are the metric names that the pool's formula uses.
pub(crate) fn read<'r>(
    fields: impl Iterator<Item = (&'r str, &'r [u8])>,
    named: &[Name],
) -> Option<Result<LoadReport, MalformedReport>> {
    let mut report = LoadReport::default();
    let accept = |entry: Entry<'_>| match load_metric_of(entry.metric, named) {
        Some(metric) if entry.unique && report.of(metric).is_some() => false,
        Some(metric) => report.set(metric, entry.value),
        None => true,
    };
    let parsed = orca::parse(fields, accept)?;
    Some(parsed.map(|()| report))
}

fn load_metric_of(metric: Metric<'_>, named: &[Name]) -> Option<LoadMetric> {
    match metric {
        Metric::Cpu => Some(LoadMetric::Cpu),
        Metric::Memory => Some(LoadMetric::Memory),
        Metric::Rps => Some(LoadMetric::Rps),
        Metric::Eps => Some(LoadMetric::Eps),
        Metric::Application => Some(LoadMetric::Application),
        // Standard metrics are not read from a map.
        Metric::Utilization(name) | Metric::Named(name) => {
            LoadMetric::from_name(name, named).filter(|metric| {
                !matches!(
                    metric,
                    LoadMetric::Cpu
                        | LoadMetric::Memory
                        | LoadMetric::Rps
                        | LoadMetric::Eps
                        | LoadMetric::Application
                )
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_wire::base64::encode;
    use plimsoll_wire::protobuf;
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "endpoint-load-metrics";

    fn names() -> Vec<Name> {
        vec!["kv_cache".into(), "depth".into()]
    }

    fn read_one(name: &str, value: &[u8]) -> Result<LoadReport, MalformedReport> {
        read(std::iter::once((name, value)), &names()).expect("a load report")
    }

    fn report(values: &[(LoadMetric, f64)]) -> LoadReport {
        let mut report = LoadReport::default();
        values.iter().for_each(|&(metric, value)| assert!(report.set(metric, value)));
        report
    }

    fn double(number: u8, value: f64) -> Vec<u8> {
        [&[number << 3 | 1][..], &value.to_le_bytes()].concat()
    }

    fn entry(number: u8, name: &str, value: f64) -> Vec<u8> {
        let mut inner = Vec::new();
        protobuf::write_string(&mut inner, 1, name);
        inner.extend(double(2, value));
        [&[number << 3 | 2, inner.len() as u8][..], &inner].concat()
    }

    #[test]
    fn every_encoding_yields_the_same_report() {
        let expected = report(&[
            (LoadMetric::Cpu, 0.5),
            (LoadMetric::Memory, 0.25),
            (LoadMetric::Rps, 10.5),
            (LoadMetric::Eps, 1.0),
            (LoadMetric::Application, 1.25),
            (LoadMetric::Network, 0.75),
            (LoadMetric::Named(0), 3.0),
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
        let long = format!("TEXT x={}1", "0".repeat(4096));
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
            assert_eq!(read_one(NAME, value.as_bytes()), Err(MalformedReport), "{value}");
        }
        assert_eq!(read_one(NAME, b"TEXT \xff=1"), Err(MalformedReport));
        let twice = [(NAME, &b"TEXT eps=1"[..]), ("endpoint-load-metrics-bin", b"")];
        assert_eq!(read(twice.into_iter(), &[]), Some(Err(MalformedReport)));
        for message in
            [double(1, f64::NAN), double(1, -1.0), entry(5, "x", f64::INFINITY), vec![0x2a, 2, 0x0a]]
        {
            assert_eq!(
                read_one("endpoint-load-metrics-bin", encode(&message).as_bytes()),
                Err(MalformedReport)
            );
        }
        let many: Vec<u8> = (0..65).flat_map(|_| double(1, 0.5)).collect();
        assert_eq!(read_one("endpoint-load-metrics-bin", encode(&many).as_bytes()), Err(MalformedReport));
    }

    #[test]
    fn a_report_without_known_metrics_is_valid() {
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
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
            for name in [NAME, "endpoint-load-metrics-bin", "endpoint-load-metrics-json"] {
                let _either_way = read_one(name, &value);
            }
            let _either_way = read_one("endpoint-load-metrics-bin", encode(&value).as_bytes());
        }

        #[test]
        fn a_truncated_report_is_malformed_or_has_fewer_metrics(cpu in 0.0..2.0_f64, depth in 0.0..1e9_f64) {
            let message = [double(1, cpu), entry(8, "depth", depth)].concat();
            for cut in 0..=message.len() {
                let read = read_one("endpoint-load-metrics-bin", encode(&message[..cut]).as_bytes());
                let expected = match cut {
                    0 => Ok(LoadReport::default()),
                    9 => Ok(report(&[(LoadMetric::Cpu, cpu)])),
                    _ if cut == message.len() => Ok(report(&[(LoadMetric::Cpu, cpu), (LoadMetric::Named(1), depth)])),
                    _ => Err(MalformedReport),
                };
                prop_assert_eq!(read, expected);
            }
        }
    }
}
