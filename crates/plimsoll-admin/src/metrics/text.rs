//! Serializer of the Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

use plimsoll_core::stats::{BUCKETS_US, PUBLISHED_US};

/// The response to one scrape.
#[derive(Debug)]
pub(crate) struct Text<'f> {
    out: String,
    /// Prefixes of the selected families; `None` selects all.
    prefixes: Option<Vec<&'f str>>,
}

/// Type of a metric family.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// All samples of one name. HELP and TYPE are written with the first sample.
#[derive(Debug)]
pub(crate) struct Family<'t> {
    out: &'t mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    selected: bool,
    has_samples: bool,
}

/// Labels of a sample. Values are escaped, names are not.
pub(crate) type Labels<'l> = &'l [(&'static str, &'l str)];

impl<'f> Text<'f> {
    /// Starts a response with the families selected by `prefixes` of their names (comma-separated).
    pub(crate) fn new(prefixes: Option<&'f str>) -> Self {
        let prefixes =
            prefixes.map(|list| list.split(',').map(str::trim).filter(|p| !p.is_empty()).collect());
        Self { out: String::with_capacity(64 * 1024), prefixes }
    }

    /// Starts a family.
    pub(crate) fn family(&mut self, kind: Kind, name: &'static str, help: &'static str) -> Family<'_> {
        let selected =
            self.prefixes.as_ref().is_none_or(|list| list.iter().any(|prefix| name.starts_with(prefix)));
        Family { out: &mut self.out, name, kind, help, selected, has_samples: false }
    }

    /// Starts a family of counters.
    pub(crate) fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(Kind::Counter, name, help)
    }

    /// Starts a family of gauges.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(Kind::Gauge, name, help)
    }

    /// Returns the response.
    pub(crate) fn finish(self) -> String {
        self.out
    }
}

impl Family<'_> {
    /// Writes a sample.
    pub(crate) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Writes a histogram of response times by [`PUBLISHED_US`], from buckets with the finer bounds of [`BUCKETS_US`];
    /// the last bucket is unbounded, the sum in seconds.
    pub(crate) fn histogram(&mut self, labels: Labels<'_>, buckets: &[u64], sum: f64) {
        let mut merged = [0; PUBLISHED_US.len() + 1];
        for (at, count) in buckets.iter().enumerate() {
            let bound = BUCKETS_US.get(at).copied().unwrap_or(u64::MAX);
            merged[PUBLISHED_US.partition_point(|&published| published < bound)] += count;
        }
        self.histogram_of(PUBLISHED_US.map(|us| us as f64 / 1e6), labels, &merged, sum);
    }

    /// Writes a histogram with the given bounds in seconds.
    pub(crate) fn histogram_of(
        &mut self,
        bounds: impl IntoIterator<Item = f64>,
        labels: Labels<'_>,
        buckets: &[u64],
        sum: f64,
    ) {
        let mut below = 0;
        for (bound, count) in bounds.into_iter().zip(buckets) {
            below += count;
            self.line("_bucket", labels, Some(&bound.to_string()), below);
        }
        let all: u64 = buckets.iter().sum();
        self.line("_bucket", labels, Some("+Inf"), all);
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, all);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        if !self.selected {
            return;
        }
        if !std::mem::replace(&mut self.has_samples, true) {
            let kind = match self.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let (name, help) = (self.name, self.help);
            let _never_fails = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut begin = '{';
        for (name, value) in labels.iter().copied().chain(le.map(|le| ("le", le))) {
            self.out.push(begin);
            begin = ',';
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(self.out, value);
            self.out.push('"');
        }
        if begin == ',' {
            self.out.push('}');
        }
        let _never_fails = writeln!(self.out, " {value}");
    }
}

fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_type_are_written_once_and_only_with_samples() {
        let mut text = Text::new(None);
        text.gauge("plimsoll_nothing", "Nothing.");
        let mut family = text.counter("plimsoll_x_total", "Some.");
        family.sample(&[], 1);
        family.sample(&[("pool", "a\"b\\c\nd"), ("code", "2xx")], 0.25);
        let want = "# HELP plimsoll_x_total Some.\n# TYPE plimsoll_x_total counter\nplimsoll_x_total 1\n\
                    plimsoll_x_total{pool=\"a\\\"b\\\\c\\nd\",code=\"2xx\"} 0.25\n";
        assert_eq!(text.finish(), want);
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_its_count() {
        let mut buckets = [0; BUCKETS_US.len() + 1];
        (buckets[0], buckets[2], buckets[BUCKETS_US.len()]) = (3, 2, 1);
        // A bucket below a bound that is not published counts for the next one.
        (buckets[1], buckets[BUCKETS_US.len() - 1]) = (4, 7);
        let mut text = Text::new(None);
        text.family(Kind::Histogram, "t_seconds", "T.").histogram(&[("pool", "a")], &buckets, 12.5);
        let text = text.finish();
        for line in [
            "t_seconds_bucket{pool=\"a\",le=\"0.00005\"} 3\n",
            "t_seconds_bucket{pool=\"a\",le=\"0.0001\"} 9\n",
            "t_seconds_bucket{pool=\"a\",le=\"10\"} 9\n",
            "t_seconds_bucket{pool=\"a\",le=\"+Inf\"} 17\n",
            "t_seconds_sum{pool=\"a\"} 12.5\n",
            "t_seconds_count{pool=\"a\"} 17\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn only_selected_families_are_written() {
        let mut text = Text::new(Some("plimsoll_pool, process_"));
        text.gauge("plimsoll_pool_destinations", "P.").sample(&[], 1);
        text.gauge("plimsoll_requests_in_flight", "R.").sample(&[], 1);
        text.gauge("process_threads", "T.").sample(&[], 1);
        let text = text.finish();
        assert!(text.contains("plimsoll_pool") && text.contains("process_") && !text.contains("in_flight"));
    }
}
