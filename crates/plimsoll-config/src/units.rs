//! What a number with a unit means: durations, rates, shares and sizes, each refused in words when it is
//! none.
//!
//! Own parsers instead of `humantime` and `bytesize`: the first reads `1M` as a month, the second takes
//! `10M` and `10` as bytes, and both are mistakes a file should not survive.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not a value of its kind. The words never hold a piece of the text, which may be a secret.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// Follows the text: "has no unit".
    pub what: &'static str,
    /// What is right.
    pub help: &'static str,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value {}; {}", self.what, self.help)
    }
}

impl std::error::Error for UnitError {}

/// A duration: `30s`, `100ms`, `1m30s`, `1.5h`. Units: ns, us, ms, s, m, h, d. At most 584 years.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigDuration(pub Duration);

/// How often: `1000/s`, `90/m`, `5/h`; kept as events per second.
#[derive(Copy, Clone, Debug, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

/// A part of the whole, 0.0 to 1.0: `1%`, `99.9%`, `0.01`.
#[derive(Copy, Clone, Debug, PartialEq, PartialOrd)]
pub struct Share(pub f64);

/// Bytes: `64KiB`, `10MB`, `512B`, `0`. KiB, MiB, GiB count in 1024s; KB (or kB), MB, GB in 1000s.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const DURATION_HELP: &str = "write it like \"30s\", \"100ms\" or \"1m30s\"; units are ns, us, ms, s, m, h, d";
const RATE_HELP: &str = "write it like \"1000/s\", \"90/m\" or \"5/h\"";
const SHARE_HELP: &str = "write it like \"1%\", \"99.9%\" or 0.01";
const SIZE_HELP: &str = "write it like \"64KiB\", \"10MB\" or \"512B\"; 0 needs no unit";

/// Nanoseconds of each unit of time, longest name first so that `ms` is not read as `m`.
const TIME_UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

const SIZE_UNITS: [(&str, u64); 8] = [
    ("B", 1),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl FromStr for ConfigDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |what| Err(UnitError { what, help: DURATION_HELP });
        let mut rest = text;
        let mut nanos: u64 = 0;
        if rest.is_empty() {
            return refuse("is not a duration");
        }
        while !rest.is_empty() {
            let (number, after) = split_number(rest);
            let name = &after[..after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len())];
            let Some(number) = Decimal::parse(number) else { return refuse("is not a duration") };
            let Some((_, unit)) = TIME_UNITS.iter().find(|(unit, _)| *unit == name) else {
                return refuse(if name.is_empty() { "has no unit" } else { "has a unit that is not known" });
            };
            match number.times(*unit).and_then(|part| nanos.checked_add(part)) {
                Some(sum) => nanos = sum,
                None => return refuse("is too long a time"),
            }
            rest = &after[name.len()..];
        }
        Ok(Self(Duration::from_nanos(nanos)))
    }
}

/// In units that people use: `60s` and `90s`, but `2m` and `24h`.
impl fmt::Display for ConfigDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        let mut rest = whole;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in TIME_UNITS.iter().rev().filter(|(name, _)| *name != "µs" && *name != "d") {
            let small = matches!(*name, "h" | "m") && whole / unit < 2;
            if rest >= *unit && !small {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |what| UnitError { what, help: RATE_HELP };
        let Some((count, per)) = text.split_once('/') else {
            return Err(refuse("is not a rate: it has no `/s`, `/m` or `/h`"));
        };
        let seconds = match per {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(refuse("is not a rate: it does not end in `/s`, `/m` or `/h`")),
        };
        let count = Decimal::parse(count).ok_or(refuse("is not a rate: a number comes before the `/`"))?;
        Ok(Self(count.to_f64() / seconds))
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |what| UnitError { what, help: SHARE_HELP };
        let not_one = refuse("is not a share");
        match text.strip_suffix('%') {
            Some(number) => Self::from_number(Decimal::parse(number).ok_or(not_one)?.to_f64() / 100.0),
            None => Self::from_number(Decimal::parse(text).ok_or(not_one)?.to_f64()),
        }
    }
}

impl Share {
    /// A share written as a plain number, 0 to 1.
    ///
    /// # Errors
    /// When it is outside 0 to 1.
    pub fn from_number(number: f64) -> Result<Self, UnitError> {
        match number {
            n if (0.0..=1.0).contains(&n) => Ok(Self(n)),
            _ => Err(UnitError { what: "is not a share between 0 and 1 (0% and 100%)", help: SHARE_HELP }),
        }
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |what| UnitError { what, help: SIZE_HELP };
        let (number, unit) = split_number(text);
        let number = Decimal::parse(number).ok_or(refuse("is not a size"))?;
        let unit = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, bytes)) => *bytes,
            None if unit.is_empty() && number.is_zero() => 1,
            None if unit.is_empty() => return Err(refuse("has no unit")),
            None => return Err(refuse("has a unit that is not known")),
        };
        number.times(unit).map(Self).ok_or(refuse("is too large"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
            .into_iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match whole {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None if self.0 == 0 => f.write_str("0"),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Digits with an optional fraction; no sign, no exponent.
#[derive(Copy, Clone)]
struct Decimal {
    whole: u64,
    fraction: u64,
    /// 10 to the number of digits of `fraction`.
    scale: u64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, fraction),
            None => (text, "0"),
        };
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        Some(Self {
            whole: whole.parse().ok()?,
            fraction: fraction.parse().ok()?,
            scale: 10_u64.pow(u32::try_from(fraction.len()).ok()?),
        })
    }

    fn is_zero(self) -> bool {
        self.whole == 0 && self.fraction == 0
    }

    fn times(self, unit: u64) -> Option<u64> {
        let whole = u128::from(self.whole) * u128::from(unit);
        let fraction = u128::from(self.fraction) * u128::from(unit) / u128::from(self.scale);
        u64::try_from(whole + fraction).ok()
    }

    #[expect(clippy::cast_precision_loss, reason = "rates and shares are no counters")]
    fn to_f64(self) -> f64 {
        self.whole as f64 + self.fraction as f64 / self.scale as f64
    }
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let good = [
            ("30s", 30_000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("0s", 0),
        ];
        for (text, millis) in good {
            assert_eq!(text.parse(), Ok(ConfigDuration(Duration::from_millis(millis))), "{text}");
        }
        let bad = [
            ("", "is not a duration"),
            ("30", "has no unit"),
            ("1m30", "has no unit"),
            ("30 s", "has no unit"),
            ("1M", "has a unit that is not known"),
            ("30sec", "has a unit that is not known"),
            ("-5s", "is not a duration"),
            ("s", "is not a duration"),
            ("1..2s", "is not a duration"),
            ("99999999999d", "is too long a time"),
        ];
        for (text, what) in bad {
            assert_eq!(text.parse::<ConfigDuration>().map_err(|e| e.what), Err(what), "{text}");
        }
    }

    #[test]
    fn a_duration_is_told_as_it_is_written() {
        for text in ["30s", "100ms", "60s", "90s", "2m30s", "24h", "0s", "2h1ms"] {
            assert_eq!(text.parse::<ConfigDuration>().map(|d| d.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn rates_are_per_second() {
        for (text, per_second) in [("1000/s", 1000.0), ("90/m", 1.5), ("3600/h", 1.0), ("0.5/s", 0.5)] {
            assert_eq!(text.parse(), Ok(Rate(per_second)), "{text}");
        }
        for text in ["1000", "1000/", "/s", "x/s", "1000/d", "-1/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_between_none_and_all() {
        for (text, share) in [("1%", 0.01), ("50%", 0.5), ("100%", 1.0), ("0.25", 0.25), ("0", 0.0)] {
            assert_eq!(text.parse(), Ok(Share(share)), "{text}");
        }
        for text in ["101%", "2", "-1%", "%", "", "1 %", "nan"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        assert!(Share::from_number(f64::NAN).is_err());
    }

    #[test]
    fn sizes_say_which_kilo_they_mean() {
        let good = [
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("512B", 512),
            ("0", 0),
            ("1.5KiB", 1_536),
            ("1kB", 1_000),
        ];
        for (text, bytes) in good {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["64", "64K", "10m", "", "KiB", "-1KiB", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["64KiB", "1MiB", "1000B", "0"] {
            assert_eq!(text.parse::<Size>().map(|s| s.to_string()), Ok(text.to_owned()));
        }
    }
}
