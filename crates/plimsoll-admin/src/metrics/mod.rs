//! All metric families, in the Prometheus text format.
//!
//! Names and labels are those of docs/metrics.md. Series at zero are left out, except one of each family.

mod limits;
mod pools;
mod process;
mod text;
mod traffic;

use plimsoll_proxy::{Handle, TrafficView};

use self::text::Text;

/// Content type of the response.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns all families, or those selected by `prefixes` of their names (comma-separated).
pub(crate) async fn text(handle: &Handle, prefixes: Option<&str>) -> String {
    let (pools, view) = (handle.pools().await, handle.traffic());
    let mut text = Text::new(prefixes);
    build(&mut text);
    traffic::write(&mut text, &view);
    pools::write(&mut text, &pools);
    config(&mut text, &view);
    process::write(&mut text);
    text.finish()
}

fn build(text: &mut Text<'_>) {
    text.gauge("plimsoll_build_info", "Always 1; the label holds the version.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn config(text: &mut Text<'_>, view: &TrafficView) {
    let reloads = view.reloads;
    let mut family = text.counter("plimsoll_config_reloads_total", "Configuration reloads, by result.");
    family.sample(&[("result", "success")], reloads.succeeded);
    family.sample(&[("result", "failure")], reloads.failed);
    text.gauge(
        "plimsoll_config_last_reload_successful",
        "1 if the last configuration reload was applied, 0 if it was rejected.",
    )
    .sample(&[], u8::from(reloads.last_succeeded));
    text.gauge(
        "plimsoll_config_last_reload_timestamp_seconds",
        "Time the current configuration was applied, in seconds since the Unix epoch.",
    )
    .sample(&[], reloads.last_success_at);
    let mut family =
        text.counter("plimsoll_log_dropped_total", "Log lines dropped because the queue was full, by log.");
    family.sample(&[("log", "access")], view.log_dropped);
    family.sample(&[("log", "decisions")], view.decisions_dropped);
}
