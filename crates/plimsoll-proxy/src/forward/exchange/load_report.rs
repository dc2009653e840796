//! ORCA load reports in responses, for pools that use them.

use plimsoll_core::Tick;
use plimsoll_wire::orca::{MalformedReport, is_load_report};

use crate::base::context::WorkerContext;
use crate::base::counters::LoadReportResult;
use crate::forward::exchange::Exchange;
use crate::forward::request_context::RequestContext;
use crate::http::orca;

/// Reports whether the pool of this request reads load reports.
pub(crate) fn is_enabled(request: &RequestContext) -> bool {
    request.routes.routes[request.route].table.pool.config.orca
}

/// Returns the load reports in a response head.
pub(crate) fn from_head<'h>(
    headers: &'h [httparse::Header<'h>],
) -> impl Iterator<Item = (&'h str, &'h [u8])> + Clone {
    headers.iter().filter(|h| is_load_report(h.name)).map(|h| (h.name, h.value))
}

/// Returns the load reports among trailer lines.
pub(crate) fn from_trailers(lines: &[u8]) -> impl Iterator<Item = (&str, &[u8])> + Clone {
    lines.split(|&byte| byte == b'\n').filter_map(report_in)
}

/// Removes the load reports from trailer lines.
pub(crate) fn strip(lines: &mut Vec<u8>) {
    if from_trailers(lines).next().is_none() {
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
    /// Records the load report of a response for its destination, and counts it.
    pub(crate) fn record_load<'r>(
        &self,
        worker: &WorkerContext,
        request: &RequestContext,
        now: Tick,
        reports: impl Iterator<Item = (&'r str, &'r [u8])>,
    ) {
        let pool = &request.routes.routes[request.route].table.pool;
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
    fn strip_removes_only_load_reports() {
        let text = "a: 1\r\nEndpoint-Load-Metrics: TEXT eps=1\r\nendpoint-load-metrics-bin:AA\r\nb: 2\r\n";
        let found: Vec<_> = from_trailers(text.as_bytes()).map(|(name, value)| (name.len(), value)).collect();
        assert_eq!(found, [(21, &b"TEXT eps=1"[..]), (25, &b"AA"[..])]);
        let mut lines = text.into();
        strip(&mut lines);
        assert_eq!(lines, b"a: 1\r\nb: 2\r\n");
    }
}
