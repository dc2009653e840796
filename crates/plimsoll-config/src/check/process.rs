//! What concerns the whole process: threads, shutdown, the admin plane, the access log.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::check::address;
use crate::check::config_node::Place;
use crate::check::keys;
use crate::check::listener::Taken;
use crate::check::read::Reader;
use crate::defaults;
use crate::model::{AccessLog, Admin, DecisionLog, ListenAddress};
use crate::problem::Code;

impl Reader<'_> {
    /// `auto` or a number of threads.
    pub(crate) fn workers(&mut self, place: &Place<'_>) -> Option<NonZeroUsize> {
        if place.is_number_in_quotes() || !place.is_text() {
            return self.whole(place, defaults::WORKERS).and_then(NonZeroUsize::new);
        }
        self.word(place, &[("auto", ())], &[]);
        None
    }

    pub(crate) fn shutdown(&mut self, place: &Place<'_>) -> Option<Duration> {
        let table = self.table(place, &keys::SHUTDOWN)?;
        table.get("grace").and_then(|p| self.dur(p, &defaults::GRACE))
    }

    /// `{address: …}`, or a switch.
    pub(crate) fn admin(&mut self, place: Option<&Place<'_>>, taken: &mut Taken) -> Option<Admin> {
        let usual = Admin { address: defaults::ADMIN, configured: false };
        let Some(place) = place else { return Some(usual) };
        if place.is_switch() {
            return self.switch(place)?.then_some(usual);
        }
        if !place.is_block() {
            self.wrong_type(place, "a block or false").help("write `admin: {address: \"127.0.0.1:9900\"}`");
            return None;
        }
        let table = self.table(place, &keys::ADMIN)?;
        let Some(place) = table.get("address") else { return Some(usual) };
        let address = self.address(place, "127.0.0.1", |text, _| address::listen_socket(text))?;
        if !address.ip().is_loopback() {
            let message = format!("`{}` can be reached from other machines", place.shown());
            self.problem(place, Code::BadAddress, message)
                .help("the admin plane has no passwords in this version: give it a loopback address");
            return None;
        }
        self.take_address(place, &ListenAddress::Socket(address), taken);
        Some(Admin { address, configured: true })
    }

    /// `{path: stdout}`, `{path: FILE}`, or a switch.
    pub(crate) fn access_log(&mut self, place: &Place<'_>) -> Option<AccessLog> {
        if place.is_switch() {
            return self.switch(place)?.then_some(AccessLog::Stdout);
        }
        if !place.is_block() {
            self.wrong_type(place, "a block, true or false").help("write `access_log: {path: stdout}`");
            return None;
        }
        let table = self.table(place, &keys::ACCESS_LOG)?;
        self.log_path(table.get("path"))
    }

    /// `{path: stdout, sample: "1%"}`, `{path: FILE, …}`, or a switch.
    pub(crate) fn decision_log(&mut self, place: &Place<'_>) -> Option<DecisionLog> {
        let sample = defaults::DECISION_SAMPLE;
        if place.is_switch() {
            return self.switch(place)?.then_some(DecisionLog { target: AccessLog::Stdout, sample });
        }
        if !place.is_block() {
            self.wrong_type(place, "a block, true or false").help("write `decision_log: {path: stdout}`");
            return None;
        }
        let table = self.table(place, &keys::DECISION_LOG)?;
        let target = self.log_path(table.get("path"));
        let sample = match table.get("sample") {
            Some(place) => {
                let share = self.share(place)?;
                if share == 0.0 {
                    self.problem(place, Code::OutOfRange, "nothing would be logged")
                        .help("write `decision_log: false`, or a share above 0");
                    return None;
                }
                share
            }
            None => sample,
        };
        Some(DecisionLog { target: target?, sample })
    }

    /// Where the lines of a log go.
    fn log_path(&mut self, place: Option<&Place<'_>>) -> Option<AccessLog> {
        let Some(place) = place else { return Some(AccessLog::Stdout) };
        match self.text(place)? {
            "stdout" => Some(AccessLog::Stdout),
            path if path.is_empty() || path.contains('\0') => {
                self.problem(place, Code::BadValue, "this is not a path")
                    .help("write `stdout` or the path of a file");
                None
            }
            path => Some(AccessLog::File(self.dir.join(path))),
        }
    }
}
