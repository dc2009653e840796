//! What an response says of its destination's load, where its pool asks for that (ORCA).

use plimsoll_core::Tick;
use plimsoll_wire::orca::{MalformedReport, is_load_report};

use crate::base::context::WorkerContext;
use crate::base::counters::LoadReportResult;
use crate::forward::exchange::Exchange;
use crate::forward::request_context::RequestContext;
use crate::http::orca;

/// Does the pool of this message read what responses say of load?
pub(crate) fn asked_for(request: &RequestContext) -> bool {
    request.view.routes[request.route].table.pool.config.orca
}

/// The reports in a head.
pub(crate) fn in_head<'h>(
    headers: &'h [httparse::Header<'h>],
) -> impl Iterator<Item = (&'h str, &'h [u8])> + Clone {
    headers.iter().filter(|h| is_load_report(h.name)).map(|h| (h.name, h.value))
}

/// The reports among trailer lines.
pub(crate) fn in_lines(lines: &[u8]) -> impl Iterator<Item = (&str, &[u8])> + Clone {
    lines.split(|&byte| byte == b'\n').filter_map(report_in)
}

/// Takes the reports out of trailer lines.
pub(crate) fn hide(lines: &mut Vec<u8>) {
    if in_lines(lines).next().is_none() {
        return;
    }
    let kept = lines.split_inclusive(|&byte| byte == b'\n').filter(|line| report_in(line).is_none());
    *lines = kept.flatten().copied().collect();
}

fn report_in(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = str::from_utf8(&line[..colon]).ok().filter(|name| is_load_report(name))?;
    Some((name, line[colon + 1..].trim_ascii()))
}

impl Exchange {
    /// Hands on what an response says of its destination's load, and counts what it is worth.
    pub(crate) fn learn_load<'r>(
        &self,
        worker: &WorkerContext,
        request: &RequestContext,
        now: Tick,
        reports: impl Iterator<Item = (&'r str, &'r [u8])>,
    ) {
        let pool = &request.view.routes[request.route].table.pool;
        let named = pool.config.formula.as_ref().map_or(&[][..], |formula| formula.named());
        let Some(read) = orca::read(reports, named) else { return };
        let result = match read {
            Ok(report) if report.is_empty() => LoadReportResult::Unused,
            Ok(report) => {
                self.assignment.reported().record(now, &report);
                LoadReportResult::Accepted
            }
            Err(MalformedReport) => LoadReportResult::Malformed,
        };
        pool.counters.of(worker.number).load_reported(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_lose_reports_and_nothing_else() {
        let text = "a: 1\r\nEndpoint-Load-Metrics: TEXT eps=1\r\nendpoint-load-metrics-bin:AA\r\nb: 2\r\n";
        let found: Vec<_> = in_lines(text.as_bytes()).map(|(name, value)| (name.len(), value)).collect();
        assert_eq!(found, [(21, &b"TEXT eps=1"[..]), (25, &b"AA"[..])]);
        let mut lines = text.into();
        hide(&mut lines);
        assert_eq!(lines, b"a: 1\r\nb: 2\r\n");
    }
}
