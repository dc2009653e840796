//! Which metrics there are, and where their numbers come from.
//!
//! Names and labels are those of docs/metrics.md. Series that stay at zero are left out, but for the one of
//! each family that tells it is there.

mod limits;
mod pools;
mod process;
mod text;
mod traffic;

use plimsoll_proxy::{Handle, TrafficView};

use self::text::Text;

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything, or the families whose names begin with one of `wanted` (commas between).
pub(crate) async fn text(handle: &Handle, wanted: Option<&str>) -> String {
    let (pools, view) = (handle.pools().await, handle.traffic());
    let mut text = Text::new(wanted);
    build(&mut text);
    traffic::write(&mut text, &view);
    pools::write(&mut text, &pools);
    config(&mut text, &view);
    process::write(&mut text);
    text.finish()
}

fn build(text: &mut Text<'_>) {
    text.gauge("plimsoll_build_info", "Always 1; the version is in the label.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn config(text: &mut Text<'_>, view: &TrafficView) {
    let reloads = view.reloads;
    let mut family = text.counter("plimsoll_config_reloads_total", "Reloads of the configuration by result.");
    family.sample(&[("result", "success")], reloads.succeeded);
    family.sample(&[("result", "failure")], reloads.failed);
    text.gauge(
        "plimsoll_config_last_reload_successful",
        "1 if the last reload was applied, 0 if it was refused.",
    )
    .sample(&[], u8::from(reloads.last_succeeded));
    text.gauge(
        "plimsoll_config_last_reload_timestamp_seconds",
        "When a configuration was last put to work, in seconds since the Unix epoch.",
    )
    .sample(&[], reloads.last_success_at);
    let mut family = text.counter("plimsoll_log_dropped_total", "Lines of the logs that found no room.");
    family.sample(&[("log", "access")], view.log_dropped);
    family.sample(&[("log", "decisions")], view.decisions_dropped);
}
