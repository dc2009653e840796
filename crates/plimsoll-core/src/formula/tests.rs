//! Whether formulas mean what they say, and say what is wrong with them.

use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::balance::tests::slots;
use crate::rng::Rng;

struct Fixed(HashMap<&'static str, f64>);

impl Source for Fixed {
    fn read(&self, reading: Reading) -> f64 {
        let name = match reading {
            Reading::InFlight => "in_flight",
            Reading::LatencyMs => "latency_ms",
            Reading::ErrorRate => "error_rate",
            Reading::Health => "health",
            Reading::Load(LoadMetric::Cpu) => "cpu",
            Reading::Load(_) => "load",
            Reading::Reports(LoadMetric::Cpu) => "has_cpu",
            Reading::Reports(_) => "has_load",
        };
        self.0[name]
    }
}

/// Weight 2, in zone eu-1, with two labels.
fn slot() -> crate::balance::Slot {
    let labels = [("cost", "2.5"), ("tier", "gold")].map(|(key, value)| (key.into(), value.into()));
    let zone = Some("eu-1".into());
    crate::balance::Slot { labels: Arc::new(labels), zone, priority: 3, ..slots([(0, 512)])[0].clone() }
}

fn value(text: &str) -> f64 {
    let source = Fixed(HashMap::from([
        ("in_flight", 6.0),
        ("latency_ms", 20.0),
        ("error_rate", 0.25),
        ("health", 0.5),
        ("cpu", 0.75),
        ("load", 9.0),
        ("has_cpu", 1.0),
        ("has_load", 0.0),
    ]));
    let formula = Formula::parse(text).unwrap_or_else(|misread| panic!("{text}: {misread:?}"));
    formula.program(&slot().attributes()).run(&source)
}

#[test]
fn formulas_compute_expected_values() {
    for (text, expected) in [
        ("in_flight / weight", 3.0),
        ("1 + 2 * 3 - 4 / 8", 6.5),
        ("(1 + 2) * 3 % 5", 4.0),
        ("10 - 2 - 3", 5.0),
        ("-in_flight + -(-1)", -5.0),
        ("1.5e1 + .5 + 1e-1", 15.6),
        ("in_flight > 5 ? 1 : 2", 1.0),
        ("in_flight >= 7 ? 1 : in_flight <= 6 ? 2 : 3", 2.0),
        ("!(in_flight == 6) ? 1 : 0", 0.0),
        ("in_flight == 6 && health < 1 || false ? 1 : 0", 1.0),
        ("true || false && false ? 1 : 0", 1.0),
        ("min(in_flight, weight, 4) + max(1, health)", 3.0),
        ("latency_ms * (in_flight + 1) * (1 + 10 * error_rate)", 490.0),
        ("labels.tier == \"gold\" ? 1 : 2", 1.0),
        ("labels['tier'] != 'gold' ? 1 : 2", 2.0),
        ("labels.nothing == \"\" ? 1 : 2", 1.0),
        ("has(labels.tier) && !has(labels.nothing) ? 1 : 2", 1.0),
        ("\"tier\" in labels ? 1 : 2", 1.0),
        ("double(labels.cost) * 2", 5.0),
        ("zone == \"eu-1\" ? in_flight : in_flight + 100", 6.0),
        ("zone.startsWith(\"eu\") ? 1 : 2", 1.0),
        ("id == \"a\" ? priority : 0", 3.0),
        ("load.cpu + load.gpu + load[\"p99 ms\"]", 18.75),
        ("has(load.cpu) ? (has(load.gpu) ? 1 : 2) : 3", 2.0),
        ("'it\\'s' == \"it's\" ? 1 : 2", 1.0),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
    assert!(value("double(labels.tier)").is_nan());
    assert!(value("min(1, 0 / 0)").is_nan() && value("max(0 / 0, 1)").is_nan());
    assert_eq!(value("in_flight / 0"), f64::INFINITY);
}

#[test]
fn constant_parts_are_evaluated_in_advance() {
    let program =
        |text: &str| format!("{:?}", Formula::parse(text).expect("good").program(&slot().attributes()));
    assert_eq!(program("in_flight / weight"), "Program([Read(InFlight), Push(2.0), Join(Divide)])");
    assert_eq!(program("labels.tier == \"gold\" ? priority * 2 : latency_ms"), "Program([Push(6.0)])");
    assert_eq!(program("labels.tier == \"iron\" ? 1 : in_flight"), "Program([Read(InFlight)])");
}

#[test]
fn errors_contain_their_offset() {
    for (text, at, what, help) in [
        ("", 0, "a value was expected here, and there is the end", ""),
        ("in_flight /", 11, "there is the end", ""),
        ("inflight / weight", 0, "no variable `inflight`", "`in_flight`"),
        ("in_flight / wieght", 12, "no variable `wieght`", "`weight`"),
        ("latency * 2", 0, "no variable `latency`", "latency_ms"),
        ("least(1, 2)", 0, "no function `least`", "min, max"),
        ("in_flight > 2", 0, "it gives a condition, not a number", "? 0 : 1"),
        ("zone", 0, "it gives a text, not a number", "lowest"),
        ("load", 0, "it gives all of a load", ""),
        ("labels.tier + 1", 12, "`+` does not go between a text and a number", "double("),
        ("zone.x", 5, "no `x` in a text", "`labels` and `load`"),
        ("in_flight ? 1 : 2", 0, "this is a number", "compare"),
        ("true ? 1 : zone", 9, "here a number and a text", ""),
        ("1 & 2", 2, "'&' has no meaning", "`&&`"),
        ("1 = 2 ? 1 : 2", 2, "'=' has no meaning", "`==`"),
        ("5ms", 0, "no number", "without a unit"),
        ("1e999", 0, "no number", ""),
        ("zone == \"eu ? 1 : 2", 8, "no end", ""),
        ("'a\\n' == id ? 1 : 2", 3, "backslash", ""),
        ("(1 + 2", 6, "`)` was expected", ""),
        ("1 2", 2, "was not expected", ""),
        ("has(zone) ? 1 : 2", 0, "`has` wants", "labels.tier"),
        ("1 in labels ? 1 : 2", 2, "`in` asks", ""),
        ("!in_flight ? 1 : 2", 0, "`!` wants a condition", ""),
        ("[1].map(x, x)", 0, "a value was expected", ""),
        ("min()", 0, "wants numbers", ""),
        ("load.a+load.b+load.c+load.d+load.e+load.f+load.g+load.h+load.i", 61, "at most 8", ""),
    ] {
        let misread = Formula::parse(text).expect_err(text);
        assert_eq!(misread.offset, at, "{text}: {misread:?}");
        assert!(misread.message.contains(what), "{text}: {misread:?}");
        assert!(misread.help.clone().unwrap_or_default().contains(help), "{text}: {misread:?}");
    }
}

#[test]
fn cost_is_bounded() {
    let refused = |text: String| Formula::parse(&text).expect_err("too much").message;
    for deep in ["(", "-", "true?1:", "!", "min(", "true?true?"] {
        let told = refused(deep.repeat(1000 / deep.len()));
        assert!(told.contains("levels deep") || told.contains("operations"), "{deep}: {told}");
    }
    assert!(refused(format!("1{}", "+1".repeat(100))).contains("64 operations"));
    assert!(refused("1".repeat(1025)).contains("1024"));
    let long = format!("1{}", "+in_flight".repeat(31));
    assert_eq!(value(&long), 1.0 + 31.0 * 6.0);
    let deep = format!("{}in_flight{}", "(".repeat(20), ")".repeat(20));
    assert_eq!(value(&deep), 6.0);
}

#[test]
fn parser_never_panics() {
    const PIECES: [&str; 24] = [
        "in_flight",
        "weight",
        "load",
        "labels",
        ".",
        "[",
        "]",
        "(",
        ")",
        "?",
        ":",
        "+",
        "-",
        "!",
        "min",
        "has",
        "\"a\"",
        "1",
        " ",
        ",",
        "in",
        "&&",
        "é",
        "\\",
    ];
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let text: String = (0..rng.index(24)).map(|_| PIECES[rng.index(PIECES.len())]).collect();
        match Formula::parse(&text) {
            Ok(_) => drop(value(&text)),
            Err(misread) => {
                assert!(text.is_char_boundary(misread.offset), "seed {seed}: {text:?} {misread:?}")
            }
        }
    }
}
