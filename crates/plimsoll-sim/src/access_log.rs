//! Reader of access logs: arrival and response times from the common and combined formats and from this
//! product's JSON lines.

use std::io::BufRead;
use std::time::Duration;

use serde::Deserialize;

use crate::arrivals::LoggedMessage;

/// Maximum length of a line, in bytes.
const MAX_LINE: usize = 64 << 10;
/// Maximum messages of one log; the rest is ignored.
pub const MAX_MESSAGES: usize = 5_000_000;
/// Maximum destinations of one log; messages of others have no destination.
const MAX_DESTINATIONS: usize = 1_000;
/// Invalid lines at the start after which the file is rejected.
const MAX_LEADING_INVALID: u64 = 100;

/// Messages of a log and how well it could be read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ParsedLog {
    /// Messages in order of time, the first at 0.
    pub messages: Vec<LoggedMessage>,
    /// Names of the destinations in order of their first message, where the log has them.
    pub destinations: Vec<String>,
    /// Number of lines that could not be parsed.
    pub invalid_lines: u64,
    /// Line number of the first invalid line, and what is wrong with it.
    pub first_invalid: Option<(u64, &'static str)>,
    /// Whether the log has more than [`MAX_MESSAGES`] messages.
    pub truncated: bool,
}

/// Fields of a JSON line that the simulation uses.
#[derive(Deserialize)]
struct JsonLine {
    time: String,
    ttfb_ms: Option<f64>,
    total_ms: Option<f64>,
    destination: Option<String>,
    status: Option<u16>,
}

/// Reads a whole log. Where times are whole seconds, the messages of one second are spread evenly over it.
///
/// # Errors
/// A message for the user if the log cannot be read or has no valid line, with a line number where there is
/// one.
pub fn read(mut from: impl BufRead) -> Result<ParsedLog, String> {
    let mut lines: Vec<ParsedLine> = Vec::new();
    let mut log = ParsedLog {
        messages: Vec::new(),
        destinations: Vec::new(),
        invalid_lines: 0,
        first_invalid: None,
        truncated: false,
    };
    let (mut line, mut number) = (Vec::new(), 0);
    while next_line(&mut from, &mut line).map_err(|error| error.to_string())? {
        number += 1;
        if lines.len() == MAX_MESSAGES {
            log.truncated = true;
            break;
        }
        match parse_line(&line) {
            Ok(None) => {}
            Ok(Some((parsed, name))) => {
                let destination = name.and_then(|name| intern(&mut log.destinations, name));
                lines.push(ParsedLine { destination, ..parsed });
            }
            Err(why) => {
                log.invalid_lines += 1;
                let (first, what) = *log.first_invalid.get_or_insert((number, why));
                if lines.is_empty() && log.invalid_lines >= MAX_LEADING_INVALID {
                    return Err(format!("not an access log: line {first} {what}"));
                }
            }
        }
    }
    if lines.is_empty() {
        let why = log
            .first_invalid
            .map_or("the file is empty".to_owned(), |(line, why)| format!("line {line} {why}"));
        return Err(format!("not an access log, or without messages: {why}"));
    }
    log.messages = into_messages(lines);
    Ok(log)
}

/// Reads the next line without its end; an overlong one is consumed and kept in part.
fn next_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let buffer = from.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let taken = end.unwrap_or(buffer.len());
        let room = (MAX_LINE + 1).saturating_sub(line.len());
        line.extend_from_slice(&buffer[..taken.min(room)]);
        from.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Values of one line.
#[derive(Copy, Clone, Debug, Default)]
struct ParsedLine {
    /// Time in seconds since 1970.
    at: f64,
    /// Whether the fraction of the second is unknown.
    whole_seconds: bool,
    response_time: Option<f64>,
    destination: Option<u16>,
    failed: bool,
}

/// A line's values and the name of its destination.
type ParsedMessage = (ParsedLine, Option<String>);

/// Returns the index of `name` in the list, adding it while there is capacity.
fn intern(names: &mut Vec<String>, name: String) -> Option<u16> {
    let known = names.iter().position(|known| *known == name);
    let index = known.or_else(|| (names.len() < MAX_DESTINATIONS).then_some(names.len()))?;
    if known.is_none() {
        names.push(name);
    }
    u16::try_from(index).ok()
}

/// Parses a line; an empty one yields no message.
fn parse_line(line: &[u8]) -> Result<Option<ParsedMessage>, &'static str> {
    if line.len() > MAX_LINE {
        return Err("is longer than 64 KiB");
    }
    let line = line.trim_ascii();
    match line.first() {
        None => Ok(None),
        Some(b'{') => parse_json(line).map(Some),
        Some(_) => parse_common(line).map(Some),
    }
}

fn parse_json(line: &[u8]) -> Result<ParsedMessage, &'static str> {
    let line: JsonLine = serde_json::from_slice(line).map_err(|_| "is not a JSON log line with a `time`")?;
    let at = rfc3339(&line.time).ok_or("has an invalid `time`")?;
    // A request that never reached a destination has no response time of one.
    let response_time = line.destination.as_ref().and(line.ttfb_ms.or(line.total_ms));
    let response_time = response_time.filter(|ms| ms.is_finite() && *ms >= 0.0).map(|ms| ms / 1e3);
    // The line is written at the end; `time` is the start of the message.
    let failed = line.status.is_some_and(|status| status >= 500 && status != 501 && status != 505);
    Ok((ParsedLine { at, response_time, failed, ..ParsedLine::default() }, line.destination))
}

/// `client ident user [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 203 …`
fn parse_common(line: &[u8]) -> Result<ParsedMessage, &'static str> {
    let open = line.iter().position(|&byte| byte == b'[').ok_or("has no [time]")?;
    let rest = &line[open + 1..];
    let close = rest.iter().take(64).position(|&byte| byte == b']').ok_or("has no [time]")?;
    let time = std::str::from_utf8(&rest[..close]).map_err(|_| "has an invalid time")?;
    let after = rest[close + 1..].trim_ascii_start();
    if after.first() != Some(&b'"') {
        return Err("has no \"request\" after its time");
    }
    let at = clf_time(time).ok_or("has an invalid time")?;
    Ok((ParsedLine { at, whole_seconds: true, ..ParsedLine::default() }, None))
}

/// Parses a time such as `17/May/2015:10:05:03 +0000`.
fn clf_time(text: &str) -> Option<f64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (moment, zone) = text.split_once(' ')?;
    let mut parts = moment.split(['/', ':']);
    let day = number(parts.next()?, 31)?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u32 + 1;
    let year = number(parts.next()?, 9999)?;
    let clock = (number(parts.next()?, 23)?, number(parts.next()?, 59)?, number(parts.next()?, 60)?);
    let (sign, zone) = (zone.get(..1)?, zone.get(1..5)?);
    let away = f64::from(number(zone.get(..2)?, 23)? * 3600 + number(zone.get(2..)?, 59)? * 60);
    let seconds = epoch(year, month, day, clock);
    Some(if sign == "-" { seconds + away } else { seconds - away })
}

/// Parses a time such as `2026-11-22T10:05:03.250Z`.
fn rfc3339(text: &str) -> Option<f64> {
    let (date, rest) = text.split_once('T')?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) =
        (number(date.next()?, 9999)?, number(date.next()?, 12)?, number(date.next()?, 31)?);
    let mut clock = rest.strip_suffix('Z')?.splitn(3, ':');
    let (hour, minute) = (number(clock.next()?, 23)?, number(clock.next()?, 59)?);
    let (whole_seconds, part) = clock.next()?.split_once('.').unwrap_or(("", ""));
    let second = number(if whole_seconds.is_empty() { rest.get(6..8)? } else { whole_seconds }, 60)?;
    let part: f64 = if part.is_empty() { 0.0 } else { format!("0.{}", number_text(part)?).parse().ok()? };
    Some(epoch(year, month.max(1), day, (hour, minute, second)) + part)
}

fn number_text(text: &str) -> Option<&str> {
    (text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

fn number(text: &str, max: u32) -> Option<u32> {
    number_text(text)?.parse().ok().filter(|&number| number <= max)
}

/// Seconds since 1970 in UTC. Date to days: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn epoch(year: u32, month: u32, day: u32, (hour, minute, second): (u32, u32, u32)) -> f64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    days as f64 * 86_400.0 + f64::from(hour * 3600 + minute * 60 + second)
}

fn into_messages(mut lines: Vec<ParsedLine>) -> Vec<LoggedMessage> {
    lines.sort_by(|a, b| a.at.total_cmp(&b.at));
    let first = lines[0].at;
    let mut messages = Vec::with_capacity(lines.len());
    for alike in lines.chunk_by(|a, b| a.at == b.at) {
        for (nth, &ParsedLine { at, whole_seconds, response_time, destination, failed }) in
            alike.iter().enumerate()
        {
            let within = if whole_seconds { (nth as f64 + 0.5) / alike.len() as f64 } else { 0.0 };
            let at = Duration::from_secs_f64(at - first + within);
            messages.push(LoggedMessage { at, response_time, destination, failed });
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(text: &str) -> Vec<u128> {
        read(text.as_bytes()).expect("a log").messages.iter().map(|message| message.at.as_millis()).collect()
    }

    #[test]
    fn common_and_combined_lines_hold_arrival_times() {
        let log = "::1 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 203\n\
             a - bob [17/May/2015:12:05:04 +0200] \"GET /x HTTP/1.1\" 200 - \"http://r/\" \"a [b] \\\"c\\\"\"\r\n\
             b - - [17/May/2015:10:05:03 +0000] \"\\x16\\x03\" 400 0\n\n\
             c - - [18/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 304 -";
        assert_eq!(offsets(log), [250, 750, 1_500, 86_400_500]);
    }

    #[test]
    fn json_lines_hold_arrival_and_response_times() {
        let log = "{\"time\":\"2026-02-28T23:59:59.750Z\",\"destination\":\"a\",\"status\":503,\"ttfb_ms\":12.5,\"total_ms\":80}\n\
             {\"time\":\"2026-03-01T00:00:00.000Z\",\"destination\":null,\"total_ms\":0.1}\n";
        let ParsedLog { messages, destinations, .. } = read(log.as_bytes()).expect("a log");
        assert_eq!(destinations, ["a"]);
        let first = LoggedMessage {
            at: Duration::ZERO,
            response_time: Some(0.0125),
            destination: Some(0),
            failed: true,
        };
        assert_eq!(messages[0], first);
        assert_eq!((messages[1].at.as_millis(), messages[1].response_time), (250, None));
    }

    #[test]
    fn invalid_lines_are_counted_and_other_files_rejected() {
        let good = "a - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 1\n";
        let long = "x".repeat(1 << 20);
        let log = read(format!("nonsense\n{good}{long}\n{good}[31/Foo/2015:1:1:1 +0000] \"").as_bytes());
        let log = log.expect("two good lines");
        assert_eq!((log.messages.len(), log.invalid_lines), (2, 3));
        assert_eq!(log.first_invalid, Some((1, "has no [time]")));
        for (text, why) in [
            ("", "the file is empty"),
            ("a b c\n", "line 1 has no [time]"),
            ("{\"a\":1}\n", "line 1 is not a JSON log line"),
            ("{\"time\":\"yesterday\"}\n", "line 1 has an invalid `time`"),
            ("a [17/May/2015:10:05:03 +0000] GET", "line 1 has no \"request\""),
            ("a [99/May/2015:10:05:03 +0000] \"GET", "line 1 has an invalid time"),
        ] {
            let error = read(text.as_bytes()).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(read(vec![b'\n'; 10].as_slice()).is_err());
        assert!(read([0xff; 4096].as_slice()).is_err());
        let many = "no\n".repeat(1_000);
        assert!(read(many.as_bytes()).expect_err("no log").contains("not an access log"));
    }
}
