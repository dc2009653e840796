//! Numbers with a unit: durations, rates, shares and sizes.
//!
//! The parsers replace `humantime`, which reads `1M` as a month, and `bytesize`, which accepts `10M` and `10` as bytes.
//! Both are mistakes that a configuration should not survive.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Reason why a text is not a valid value. It never contains a part of the text, which may be a secret.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnitError {
    /// Predicate that follows the text, such as "has no unit".
    pub reason: &'static str,
    /// Description of valid values.
    pub help: &'static str,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value {}; {}", self.reason, self.help)
    }
}

impl std::error::Error for UnitError {}

/// Duration with a unit: `30s`, `100ms`, `1m30s`, `1.5h`. Units: ns, us, ms, s, m, h, d. At most 584 years.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigDuration(pub Duration);

/// Rate in events per second, written like `1000/s`, `90/m` or `5/h`.
#[derive(Copy, Clone, Debug, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

/// Bytes per second, written like `240B/s` or `1KiB/s`, or `0`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

/// Share from 0.0 to 1.0, written like `1%`, `99.9%` or `0.01`.
#[derive(Copy, Clone, Debug, PartialEq, PartialOrd)]
pub struct Share(pub f64);

/// Number of bytes, written like `64KiB`, `10MB`, `512B` or `0`. KiB, MiB and GiB are powers of 1024; KB (or kB), MB
/// and GB are powers of 1000.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const DURATION_HELP: &str = "write it like \"30s\", \"100ms\" or \"1m30s\"; units are ns, us, ms, s, m, h, d";
const RATE_HELP: &str = "write it like \"1000/s\", \"90/m\" or \"5/h\"";
const BYTE_RATE_HELP: &str = "write it like \"240B/s\" or \"1KiB/s\"; 0 is no minimum";
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
        let error = |reason| Err(UnitError { reason, help: DURATION_HELP });
        let mut rest = text;
        let mut nanos: u64 = 0;
        if rest.is_empty() {
            return error("is not a duration");
        }
        while !rest.is_empty() {
            let (number, after) = split_number(rest);
            let name = &after[..after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len())];
            let Some(number) = Decimal::parse(number) else { return error("is not a duration") };
            let Some((_, unit)) = TIME_UNITS.iter().find(|(unit, _)| *unit == name) else {
                return error(if name.is_empty() { "has no unit" } else { "has an unknown unit" });
            };
            match number.times(*unit).and_then(|part| nanos.checked_add(part)) {
                Some(sum) => nanos = sum,
                None => return error("is too long"),
            }
            rest = &after[name.len()..];
        }
        Ok(Self(Duration::from_nanos(nanos)))
    }
}

/// Uses the largest units that are common: `60s` and `90s`, but `2m` and `24h`.
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
        let error = |reason| UnitError { reason, help: RATE_HELP };
        let Some((count, per)) = text.split_once('/') else {
            return Err(error("is not a rate: expected a number with `/s`, `/m` or `/h`"));
        };
        let seconds = match per {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(error("is not a rate: expected `/s`, `/m` or `/h` at the end")),
        };
        let count = Decimal::parse(count).ok_or(error("is not a rate: expected a number before the `/`"))?;
        Ok(Self(count.to_f64() / seconds))
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = |reason| UnitError { reason, help: BYTE_RATE_HELP };
        if text == "0" {
            return Ok(Self(0));
        }
        let bytes = text.strip_suffix("/s").ok_or(error("is not a rate: expected `/s` at the end"))?;
        bytes.parse::<Size>().map(|size| Self(size.0)).map_err(|size| error(size.reason))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            bytes => write!(f, "{}/s", Size(bytes)),
        }
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = |reason| UnitError { reason, help: SHARE_HELP };
        let not_a_share = error("is not a share");
        match text.strip_suffix('%') {
            Some(number) => Self::from_number(Decimal::parse(number).ok_or(not_a_share)?.to_f64() / 100.0),
            None => Self::from_number(Decimal::parse(text).ok_or(not_a_share)?.to_f64()),
        }
    }
}

impl Share {
    /// Returns a share that is written as a plain number.
    ///
    /// # Errors
    /// If the number is not between 0 and 1.
    pub fn from_number(number: f64) -> Result<Self, UnitError> {
        match number {
            n if (0.0..=1.0).contains(&n) => Ok(Self(n)),
            _ => Err(UnitError { reason: "is not a share between 0 and 1 (0% and 100%)", help: SHARE_HELP }),
        }
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = |reason| UnitError { reason, help: SIZE_HELP };
        let (number, unit) = split_number(text);
        let number = Decimal::parse(number).ok_or(error("is not a size"))?;
        let unit = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, bytes)) => *bytes,
            None if unit.is_empty() && number.is_zero() => 1,
            None if unit.is_empty() => return Err(error("has no unit")),
            None => return Err(error("has an unknown unit")),
        };
        number.times(unit).map(Self).ok_or(error("is too large"))
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

/// Decimal number without sign and exponent.
#[derive(Copy, Clone)]
struct Decimal {
    whole: u64,
    fraction: u64,
    /// Power of 10 for the digits of `fraction`.
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

    #[expect(clippy::cast_precision_loss, reason = "rates and shares need no exact integers")]
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
    fn durations_need_a_known_unit() {
        let valid = [
            ("30s", 30_000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("0s", 0),
        ];
        for (text, millis) in valid {
            assert_eq!(text.parse(), Ok(ConfigDuration(Duration::from_millis(millis))), "{text}");
        }
        let invalid = [
            ("", "is not a duration"),
            ("30", "has no unit"),
            ("1m30", "has no unit"),
            ("30 s", "has no unit"),
            ("1M", "has an unknown unit"),
            ("30sec", "has an unknown unit"),
            ("-5s", "is not a duration"),
            ("s", "is not a duration"),
            ("1..2s", "is not a duration"),
            ("99999999999d", "is too long"),
        ];
        for (text, reason) in invalid {
            assert_eq!(text.parse::<ConfigDuration>().map_err(|e| e.reason), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_duration_is_printed_as_it_is_written() {
        for text in ["30s", "100ms", "60s", "90s", "2m30s", "24h", "0s", "2h1ms"] {
            assert_eq!(text.parse::<ConfigDuration>().map(|d| d.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn rates_are_stored_per_second() {
        for (text, per_second) in [("1000/s", 1000.0), ("90/m", 1.5), ("3600/h", 1.0), ("0.5/s", 0.5)] {
            assert_eq!(text.parse(), Ok(Rate(per_second)), "{text}");
        }
        for text in ["1000", "1000/", "/s", "x/s", "1000/d", "-1/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn byte_rates_are_sizes_per_second() {
        for (text, bytes) in [("240B/s", 240), ("1KiB/s", 1024), ("0", 0)] {
            assert_eq!(text.parse(), Ok(ByteRate(bytes)), "{text}");
            assert_eq!(ByteRate(bytes).to_string(), text);
        }
        for text in ["240", "240B", "240/s", "240B/m", "/s", "", "-1B/s"] {
            assert!(text.parse::<ByteRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_between_0_and_1() {
        for (text, share) in [("1%", 0.01), ("50%", 0.5), ("100%", 1.0), ("0.25", 0.25), ("0", 0.0)] {
            assert_eq!(text.parse(), Ok(Share(share)), "{text}");
        }
        for text in ["101%", "2", "-1%", "%", "", "1 %", "nan"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        assert!(Share::from_number(f64::NAN).is_err());
    }

    #[test]
    fn sizes_distinguish_powers_of_1000_and_1024() {
        let valid = [
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("512B", 512),
            ("0", 0),
            ("1.5KiB", 1_536),
            ("1kB", 1_000),
        ];
        for (text, bytes) in valid {
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
